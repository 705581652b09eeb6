//! x402 by Permit2 against the reference seller and facilitator: scheme `exact` where the offer asks for it, and
//! `upto`. What counts is what moved on the chain (x402 §4.2, §5).

use serde_json::{Value, json};

use crate::money::chain::FUNDS;
use crate::support::agent::Agent;
use crate::support::bursar::LIMITS;
use crate::support::buyer::{Transfer, buyer, buyer_asking, buyer_within, lab, rpc, send, site, word};
use crate::support::lab::Lab;
use crate::support::node::{Mood, Node};
use crate::support::seller::decoded;

pub(crate) const PERMIT2: &str = "0x000000000022D473030F116dDEE9F6B43aC78BA3";
pub(crate) const RAILS: &str = "rails = [\"mpp.evm\", \"x402\", \"x402.permit2\", \"x402.upto\"]\n";

pub(crate) fn limits() -> String {
    format!("{RAILS}{LIMITS}")
}

/// The wallet's allowance for Permit2.
pub(crate) fn allowance(lab: &Lab, wallet: &str) -> u128 {
    let data = format!("0xdd62ed3e{}{}", &word(wallet)[2..], &word(PERMIT2)[2..]);
    let allowed = rpc(lab, "eth_call", json!([{ "to": lab.token, "data": data }, "latest"]));
    u128::from_str_radix(allowed.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// As the owner would set it, with another program.
pub(crate) fn approve(lab: &Lab, wallet: &str, atoms: u128) {
    rpc(lab, "anvil_impersonateAccount", json!([wallet]));
    rpc(lab, "anvil_setBalance", json!([wallet, "0xde0b6b3a7640000"]));
    send(
        &lab.rpc,
        wallet,
        &lab.token,
        &format!("0x095ea7b3{}{atoms:064x}", &word(PERMIT2)[2..]),
    );
    assert_eq!(allowance(lab, wallet), atoms);
}

fn moved(lab: &Lab, payment: &Value, atoms: u128) -> Transfer {
    Transfer {
        to: lab.pay_to.to_lowercase(),
        atoms,
        tx: payment["tx"].as_str().unwrap_or_else(|| panic!("{payment}")).to_owned(),
    }
}

/// The amount the facilitator took in this transaction.
fn cashed(lab: &Lab, payment: &Value) -> Value {
    let seen = lab.seen(&lab.facilitator);
    let all = seen["settlements"].as_array().unwrap().iter();
    let mut found: Vec<&Value> = all.filter(|settled| settled["transaction"] == payment["tx"]).collect();
    assert_eq!(found.len(), 1, "{payment}: {seen}");
    found.remove(0).clone()
}

pub(crate) fn details(why: &str) -> String {
    format!("bursar; details=\"{why}\"")
}

#[tokio::test]
async fn with_an_allowance_exactly_the_price_moves() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_within(lab, FUNDS, &limits());
    approve(lab, &buyer.wallet, 25_000);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/permit2").await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["paid"]),
        (200, &json!(true)),
        "{page:?}"
    );
    let payments = buyer.bursar.payments();
    assert_eq!(payments.len(), 1);
    for (member, value) in [
        ("state", "settled"),
        ("by", "merchant"),
        ("rail", "x402.permit2"),
        ("scheme", "exact"),
        ("amount", "10000"),
        ("usd", "0.01"),
        ("network", "eip155:84532"),
    ] {
        assert_eq!(payments[0][member], value, "{member}");
    }
    assert_eq!(buyer.transfers(), [moved(lab, &payments[0], 10_000)]);
    assert_eq!(
        (buyer.balance(), allowance(lab, &buyer.wallet)),
        (FUNDS - 10_000, 15_000)
    );
    let cashed = cashed(lab, &payments[0]);
    assert_eq!(
        (&cashed["nonce"], &cashed["value"]),
        (&payments[0]["nonce"], &json!("10000"))
    );
}

#[tokio::test]
async fn without_the_rail_on_the_list_nothing_is_paid_by_permit2() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    approve(lab, &buyer.wallet, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    for path in ["/permit2", "/permit2-sponsored", "/upto"] {
        let page = agent.get(site(&lab.v2), path).await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (403, "rail-not-allowed".to_owned()),
            "{path}"
        );
    }
    assert_eq!((buyer.bursar.payments(), buyer.transfers()), (vec![], vec![]));
}

#[tokio::test]
async fn without_an_allowance_nothing_is_set_aside() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_within(lab, FUNDS, &limits());
    let agent = Agent::of(&buyer.bursar);
    for (allowed, path) in [(0, "/permit2"), (9_999, "/permit2"), (49_999, "/upto")] {
        approve(lab, &buyer.wallet, allowed);
        let page = agent.get(site(&lab.v2), path).await;
        assert_eq!(page.status, 402, "{page:?}");
        assert_eq!(page.header("proxy-status"), Some(&*details("allowance-missing")));
        assert!(page.headers.contains_key("payment-required"), "{page:?}");
    }
    assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());
    let reserved = buyer
        .bursar
        .journal()
        .into_iter()
        .filter(|entry| entry["ev"] == "pay.reserved");
    assert_eq!((reserved.count(), buyer.transfers()), (0, vec![]));
}

#[tokio::test]
async fn permissions_that_the_seller_brings_take_turns_and_are_used_up() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_within(lab, FUNDS, &limits());
    let (agent, v2) = (Agent::of(&buyer.bursar), site(&lab.v2));
    let buy = || agent.get(v2, "/permit2-sponsored");
    let (one, two, three) = tokio::join!(buy(), buy(), buy());
    for page in [one, two, three] {
        assert_eq!(page.status, 200, "{page:?}");
    }
    let payments = buyer.bursar.payments();
    let mut expected: Vec<Transfer> = payments.iter().map(|payment| moved(lab, payment, 10_000)).collect();
    let mut transfers = buyer.transfers();
    expected.sort_by(|a, b| a.tx.cmp(&b.tx));
    transfers.sort_by(|a, b| a.tx.cmp(&b.tx));
    assert_eq!((transfers.len(), &transfers), (3, &expected));
    assert_eq!((buyer.balance(), allowance(lab, &buyer.wallet)), (FUNDS - 30_000, 0));
}

#[tokio::test]
async fn of_an_upto_the_maximum_counts_whatever_was_taken() {
    let Some(lab) = lab() else { return };
    let limits =
        format!("{RAILS}timezone = \"UTC\"\n[agents.research]\nper_transaction = \"0.05\"\ntotal = \"0.09\"\n");
    let buyer = buyer_within(lab, FUNDS, &limits);
    approve(lab, &buyer.wallet, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.v2), "/upto").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(decoded(page.header("payment-response").unwrap())["amount"], "20000");
    let payments = buyer.bursar.payments();
    for (member, value) in [
        ("state", "settled"),
        ("rail", "x402.upto"),
        ("scheme", "upto"),
        ("amount", "50000"),
        ("usd", "0.05"),
    ] {
        assert_eq!(payments[0][member], value, "{member}");
    }
    assert_eq!(buyer.transfers(), [moved(lab, &payments[0], 20_000)]);
    assert_eq!(cashed(lab, &payments[0])["nonce"], payments[0]["nonce"]);
    // R12.
    let page = agent.get(site(&lab.v2), "/upto").await;
    assert_eq!(
        (page.problem().as_str(), &page.json()["used"]),
        ("over-limit", &json!("0.05"))
    );
}

#[tokio::test]
async fn an_upto_over_nothing_is_settled_without_a_transaction() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_within(lab, FUNDS, &limits());
    approve(lab, &buyer.wallet, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v2), "/upto-nothing").await;
    assert_eq!(page.status, 200, "{page:?}");
    let payments = buyer.bursar.payments();
    assert_eq!(
        (&payments[0]["state"], &payments[0]["usd"], &payments[0]["tx"]),
        (&json!("settled"), &json!("0.05"), &Value::Null)
    );
    assert_eq!((buyer.transfers(), buyer.balance()), (vec![], FUNDS));
}

#[tokio::test]
async fn without_a_node_that_answers_there_is_no_upto_and_no_look_at_allowances() {
    let Some(lab) = lab() else { return };
    let without = buyer_asking(lab, FUNDS, &limits(), &[], "");
    approve(lab, &without.wallet, FUNDS);
    let agent = Agent::of(&without.bursar);
    let page = agent.get(site(&lab.v2), "/upto").await;
    assert_eq!(
        (page.status.as_u16(), page.header("proxy-status")),
        (402, Some(&*details("upto-needs-node")))
    );
    // The operator who lists the rail is responsible for the allowance.
    assert_eq!(agent.get(site(&lab.v2), "/permit2").await.status, 200);
    assert_eq!(without.transfers().len(), 1);

    let node = Node::of(lab, Mood::Down).await;
    let down = buyer_asking(lab, FUNDS, &limits(), &[node.url()], "");
    approve(lab, &down.wallet, FUNDS);
    let agent = Agent::of(&down.bursar);
    for path in ["/permit2", "/permit2-sponsored", "/upto"] {
        let page = agent.get(site(&lab.v2), path).await;
        assert_eq!(
            (page.status.as_u16(), page.header("proxy-status")),
            (402, Some(&*details("allowance-unknown"))),
            "{path}"
        );
    }
    assert_eq!((down.bursar.payments(), down.transfers()), (vec![], vec![]));
    node.be(Mood::Final);
    assert_eq!(agent.get(site(&lab.v2), "/permit2").await.status, 200);
    // One answering node of several is enough.
    let both = buyer_asking(
        lab,
        FUNDS,
        &limits(),
        &["http://127.0.0.1:1".to_owned(), lab.rpc.clone()],
        "",
    );
    approve(lab, &both.wallet, FUNDS);
    assert_eq!(Agent::of(&both.bursar).get(site(&lab.v2), "/permit2").await.status, 200);
}
