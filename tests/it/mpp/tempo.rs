//! MPP `tempo`/`charge` against the reference server (`mppx`, in `tests/interop`): a signed transaction for the seller
//! to broadcast. What matters is what moved on the chain; the ledger counts the price and the fee cap.

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, LIMITS};
use crate::support::buyer::{Buyer, Transfer, ask, buyer_on, fund_tempo, lab, site, tempo, transfers, word};
use crate::support::lab::{Lab, Tempo};
use crate::support::mpp::{PATH_USD, decoded};

const FUNDS: u128 = 1_000_000;
/// The price of `/mpp/tempo` and similar paths.
const PRICE: u128 = 50_000;
/// The most that the chain can take in fees.
const FEE_CAP: u128 = 10_500;
/// One atom short of price plus fee. More than the price alone, because the lab's chain simulates a fee on the sender's
/// account before the sponsor pays.
const FUNDS_FOR_NO_FEE: u128 = PRICE + FEE_CAP - 1;
/// The account that receives fees.
const FEES: &str = "0xfeec000000000000000000000000000000000000";

fn chain(lab: &Lab) -> String {
    let Tempo { rpc, chain_id, .. } = tempo(lab);
    format!("[networks.\"eip155:{chain_id}\"]\nrpc = [\"{rpc}\"]\n")
}

/// A wallet with `atoms` of pathUSD and nothing else.
fn buyer_with(lab: &'static Lab, atoms: u128, limits: &str) -> Buyer {
    buyer_on(lab, limits, &chain(lab), "", |wallet| fund_tempo(lab, wallet, atoms))
}

/// What left the wallet: to the payees, and as fees.
fn spent(lab: &Lab, buyer: &Buyer) -> (Vec<Transfer>, Vec<Transfer>) {
    let Tempo { rpc, token, .. } = tempo(lab);
    let left = transfers(rpc, token, &buyer.wallet);
    left.into_iter().partition(|transfer| transfer.to != FEES)
}

fn moved(lab: &Lab, payment: &Value) -> Transfer {
    Transfer {
        to: lab.pay_to.to_lowercase(),
        atoms: PRICE,
        tx: payment["tx"].as_str().unwrap_or_else(|| panic!("{payment}")).to_owned(),
    }
}

pub(crate) fn seconds(time: &Value) -> i64 {
    time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}

/// The recorded fee cap.
fn fee_cap(bursar: &Bursar) -> Value {
    let journal = bursar.journal();
    let reserved = journal.iter().find(|entry| entry["ev"] == "pay.reserved").unwrap();
    reserved["fee"].clone()
}

#[tokio::test]
async fn the_reference_server_is_paid_once() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_with(lab, FUNDS, LIMITS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["paid"]),
        (200, &json!(true)),
        "{page:?}"
    );

    let payments = buyer.bursar.payments();
    assert_eq!(payments.len(), 1);
    let payment = &payments[0];
    let expected = json!({
        "state": "settled", "by": "merchant", "rail": "mpp.tempo", "scheme": "charge", "network": "eip155:42431",
        "asset": format!("eip155:42431/erc20:{PATH_USD}"), "symbol": "pathUSD", "amount": "50000", "amount_decimal": "0.05",
        "usd": "0.0605", "payee": lab.pay_to.to_lowercase()
    });
    for (member, value) in expected.as_object().unwrap() {
        assert_eq!(&payment[member], value, "{member}");
    }
    assert_eq!(fee_cap(&buyer.bursar), json!(FEE_CAP.to_string()));
    let receipt = decoded(page.header("payment-receipt").unwrap());
    assert_eq!(receipt["reference"], payment["tx"]);
    assert_eq!(page.header("bursar-payment"), payment["id"].as_str());
    // R16.
    let life = seconds(&payment["valid_before"]) - seconds(&payment["created_at"]);
    assert!((24..=25).contains(&life), "{payment}");

    let (paid, fees) = spent(lab, &buyer);
    assert_eq!(paid, [moved(lab, payment)]);
    assert_eq!((fees.len(), &fees[0].tx), (1, &paid[0].tx));
    assert!((1..=FEE_CAP).contains(&fees[0].atoms), "{fees:?}");
    assert_eq!(tempo(lab).balance(&buyer.wallet), FUNDS - PRICE - fees[0].atoms);
}

#[tokio::test]
async fn one_wallet_buys_several_times_at_once() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_with(lab, FUNDS, LIMITS);
    let (agent, mpp) = (Agent::of(&buyer.bursar), site(&lab.mpp));
    let buy = || agent.get(mpp, "/mpp/tempo");
    let (a, b, c, d) = tokio::join!(buy(), buy(), buy(), buy());
    for page in [a, b, c, d] {
        assert_eq!(page.status, 200, "{page:?}");
    }
    let payments = buyer.bursar.payments();
    let mut expected: Vec<Transfer> = payments.iter().map(|payment| moved(lab, payment)).collect();
    let (mut paid, fees) = spent(lab, &buyer);
    expected.sort_by(|a, b| a.tx.cmp(&b.tx));
    paid.sort_by(|a, b| a.tx.cmp(&b.tx));
    assert_eq!((paid.len(), fees.len()), (4, 4));
    assert_eq!(paid, expected);
}

#[tokio::test]
async fn of_a_sponsored_sale_the_wallet_pays_the_price_alone() {
    let Some(lab) = lab() else { return };
    // Neither the wallet nor the budget has room for a fee.
    let limits = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"0.05\"\ntotal = \"0.05\"\n";
    let buyer = buyer_with(lab, FUNDS_FOR_NO_FEE, limits);
    let page = Agent::of(&buyer.bursar)
        .get(site(&lab.mpp), "/mpp/tempo-sponsored")
        .await;
    assert_eq!(page.status, 200, "{page:?}");
    let payments = buyer.bursar.payments();
    assert_eq!(
        (&payments[0]["usd"], &payments[0]["amount"]),
        (&json!("0.05"), &json!("50000"))
    );
    assert_eq!(fee_cap(&buyer.bursar), json!("0"));
    assert_eq!(spent(lab, &buyer), (vec![moved(lab, &payments[0])], vec![]));
    assert_eq!(tempo(lab).balance(&buyer.wallet), FUNDS_FOR_NO_FEE - PRICE);
    let receipt = ask(&tempo(lab).rpc, "eth_getTransactionReceipt", json!([payments[0]["tx"]]));
    let mut logs = receipt["logs"].as_array().unwrap().iter();
    let (sponsor, fees) = (json!(word(&tempo(lab).sponsor)), json!(word(FEES)));
    assert!(
        logs.any(|log| log["topics"][1] == sponsor && log["topics"][2] == fees),
        "{receipt}"
    );
}

#[tokio::test]
async fn a_settlement_that_fails_stays_counted_and_is_not_signed_for_again() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_with(
        lab,
        FUNDS,
        "timezone = \"UTC\"\n[agents.research]\ntotal = \"0.0605\"\n",
    );
    let agent = Agent::of(&buyer.bursar);
    let before = lab.seen(&lab.mpp)["routes"]["GET /mpp/tempo-broken"]["distinct_payments"].clone();
    assert_eq!(before.as_u64().unwrap_or(0), 0);
    // When presented again, the server knows it; that claim is not proof either.
    for status in [500, 402] {
        let page = agent.get(site(&lab.mpp), "/mpp/tempo-broken").await;
        assert_eq!(page.status, status, "{page:?}");
    }
    let payments = buyer.bursar.payments();
    assert_eq!((payments.len(), &payments[0]["state"]), (1, &json!("unknown")));
    let route = &lab.seen(&lab.mpp)["routes"]["GET /mpp/tempo-broken"];
    assert_eq!(
        (&route["with_payment"], &route["distinct_payments"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(spent(lab, &buyer), (vec![], vec![]));

    let page = agent.get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(page.problem(), "over-limit");
    assert_eq!(page.json()["reserved"], "0.0605");
}

#[tokio::test]
async fn the_fee_cap_counts_against_every_limit() {
    let Some(lab) = lab() else { return };
    for (limits, rule) in [
        (
            "per_transaction = \"0.0604\"\nday = \"1.00\"\n",
            "agents.research.per_transaction",
        ),
        ("day = \"0.0604\"\n", "agents.research.day"),
    ] {
        let buyer = buyer_with(lab, FUNDS, &format!("timezone = \"UTC\"\n[agents.research]\n{limits}"));
        let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/tempo").await;
        assert_eq!((page.status.as_u16(), page.problem()), (403, "over-limit".to_owned()));
        assert_eq!(
            (&page.json()["rule"], &page.json()["asked"]),
            (&json!(rule), &json!("0.0605"))
        );
        assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());
        assert_eq!(spent(lab, &buyer), (vec![], vec![]));
    }
    let exact = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"0.0605\"\nday = \"0.0605\"\n";
    // The chain sets aside the whole cap before it moves anything, so this is the least that can buy.
    let buyer = buyer_with(lab, PRICE + FEE_CAP, exact);
    let agent = Agent::of(&buyer.bursar);
    assert_eq!(agent.get(site(&lab.mpp), "/mpp/tempo").await.status, 200);
    // Counted as reserved, whatever the actual fee was.
    let page = agent.get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(
        (page.problem().as_str(), &page.json()["used"]),
        ("over-limit", &json!("0.0605"))
    );
}

#[tokio::test]
async fn a_wallet_that_cannot_pay_the_fee_besides_is_not_used() {
    let Some(lab) = lab() else { return };
    let buyer = buyer_with(lab, FUNDS_FOR_NO_FEE, LIMITS);
    let known = || buyer.bursar.log().contains("wallet balance").then_some(());
    crate::support::bursar::eventually("the balance is known", known).await;
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(page.problem(), "wallet-insufficient", "{page:?}");
    let detail = page.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.starts_with("The wallet holds less than 0.0605 pathUSD on eip155:42431."),
        "{detail}"
    );
    assert_eq!(agent.get(site(&lab.mpp), "/mpp/tempo-sponsored").await.status, 200);
}

#[tokio::test]
async fn a_network_that_is_not_named_is_not_paid_on() {
    let Some(lab) = lab() else { return };
    let buyer = crate::support::buyer::buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/tempo").await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"network-not-configured\"")
    );
    assert!(page.headers.contains_key("www-authenticate"));
    assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());
}

/// R20, where the reference server offers three rails.
#[tokio::test]
async fn of_the_rails_the_cheapest_that_is_payable_and_allowed_is_taken() {
    let Some(lab) = lab() else { return };
    let both = format!("[networks.\"eip155:84532\"]\nrpc = [\"{}\"]\n{}", lab.rpc, chain(lab));
    for (rails, networks, path, taken) in [
        ("", &both, "/mpp/all", Some("mpp.evm")),
        ("rails = [\"mpp.tempo\", \"x402\"]\n", &both, "/mpp/all", Some("x402")),
        ("rails = [\"mpp.tempo\"]\n", &both, "/mpp/all", Some("mpp.tempo")),
        ("", &chain(lab), "/mpp/all", Some("mpp.tempo")),
        ("", &both, "/mpp/dual", Some("mpp.evm")),
        ("rails = [\"mpp.tempo\"]\n", &both, "/mpp/dual", None),
    ] {
        let buyer = buyer_on(lab, &format!("{rails}{LIMITS}"), networks, "", |wallet| {
            fund_tempo(lab, wallet, FUNDS);
            crate::support::buyer::fund(lab, wallet, FUNDS);
        });
        let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), path).await;
        let payments = buyer.bursar.payments();
        let Some(taken) = taken else {
            assert_eq!((page.problem().as_str(), payments.len()), ("rail-not-allowed", 0));
            continue;
        };
        assert_eq!(page.status, 200, "{path} {rails}: {page:?}");
        assert_eq!(
            (payments.len(), &payments[0]["rail"]),
            (1, &json!(taken)),
            "{path} {rails}"
        );
        let tempo = usize::from(taken == "mpp.tempo");
        assert_eq!(
            (spent(lab, &buyer).0.len(), buyer.transfers().len()),
            (tempo, 1 - tempo)
        );
    }
}
