//! What a real chain shows about payments, queried through the library, so that no node's answers are invented.
//!
//! This test has its own lab, since it moves the chain's clock. anvil reports as final the block 64 below the newest
//! (two epochs of 32), so `anvil_mine` brings finality; each mined block is one second later.

use std::time::Duration;

use ::bursar_core::assets::{self, Network};
use ::bursar_core::money::Atoms;
use ::bursar_net::tls::upstream::{Trust, UpstreamTls};
use ::bursar_rails::rpc::Node;
use ::bursar_reconcile::{ClaimState, Facts, Finality, Head, Named, Proof, Verdict, outflows, verdict};
use alloy_primitives::{Address, B256, U256};
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::LIMITS;
use crate::support::buyer::{Buyer, buyer_within, site, skip};
use crate::support::lab::{Lab, installed, post};

const NETWORK: Network = Network::Eip155(84_532);
const CENT: u64 = 10_000;

struct Chain {
    lab: &'static Lab,
    node: Node,
    tls: UpstreamTls,
}

impl Chain {
    fn of(lab: &'static Lab) -> Self {
        Self {
            lab,
            node: Node::new(lab.rpc.parse().unwrap()),
            tls: UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap(),
        }
    }

    fn rpc(&self, method: &str, params: Value) -> Value {
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let mut answer = post(&self.lab.rpc, &call.to_string());
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Makes all blocks so far final.
    fn finalize(&self) {
        self.rpc("anvil_mine", json!(["0x41"]));
    }

    async fn verdict(&self, facts: &Facts) -> Verdict {
        let now = self.node.newest(&self.tls).await.unwrap().timestamp;
        let nodes = [self.node.clone()];
        let finality = Finality::of(&self.tls, NETWORK, &nodes, now).await;
        assert!(matches!(finality.head(), Head::Agreed(_)), "{:?}", finality.silent());
        let evidence = finality.evidence(&self.tls, facts).await;
        assert_eq!(evidence.silent, []);
        verdict(facts, &evidence)
    }
}

/// A payment by authorization on Base's test net.
pub(crate) fn facts(buyer: &Buyer, payment: &Value) -> Facts {
    let text = |name: &str| payment[name].as_str().unwrap_or_else(|| panic!("{name}: {payment}"));
    let second = |name: &str| {
        let at: jiff::Timestamp = text(name).parse().unwrap();
        u64::try_from(at.as_second()).unwrap()
    };
    Facts {
        network: NETWORK,
        token: text("asset").rsplit_once(':').unwrap().1.parse().unwrap(),
        from: buyer.wallet.parse().unwrap(),
        payee: text("payee").parse().unwrap(),
        amount: Atoms::parse(text("amount")).unwrap(),
        nonce: text("nonce").parse().unwrap(),
        proof: Proof::Authorization,
        armed_at: second("created_at"),
        valid_before: second("valid_before"),
        claim_state: match text("state") {
            "settled" => ClaimState::Claimed,
            _ => ClaimState::Open,
        },
        claimed_tx: payment["tx"].as_str().map(str::to_owned),
    }
}

#[tokio::test]
async fn a_real_chain_proves_what_was_paid_what_is_dead_and_what_was_taken() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    let chain = Chain::of(Box::leak(Box::new(Lab::start())));
    let buyer = buyer_within(chain.lab, 1_000_000, LIMITS);
    let agent = Agent::of(&buyer.bursar);
    let began = chain.node.newest(&chain.tls).await.unwrap();
    for (path, status) in [("/paid", 200), ("/lost", 502), ("/broken", 500)] {
        assert_eq!(agent.get(site(&chain.lab.v2), path).await.status, status, "{path}");
    }
    assert_eq!(buyer.bursar.states(), ["settled", "unknown", "unknown"]);
    let payments = buyer.bursar.payments();
    let [paid, lost, broken] = &payments[..] else {
        panic!("{payments:?}")
    };
    let transfers = buyer.transfers();

    // Nothing is final yet. The facilitator has mined the payment, so a node that shows it does not report it as
    // unpaid.
    let verdict = chain.verdict(&facts(&buyer, paid)).await;
    assert!(matches!(verdict, Verdict::Wait { .. }), "{verdict:?}");

    chain.finalize();
    for (payment, transfer, named) in [
        (paid, &transfers[0], Named::ThisTransaction),
        (lost, &transfers[1], Named::Nothing),
    ] {
        let verdict = chain.verdict(&facts(&buyer, payment)).await;
        let Verdict::Settled {
            tx, amount, receipt, ..
        } = verdict
        else {
            panic!("{verdict:?}")
        };
        assert_eq!(
            (tx.to_string(), amount, receipt),
            (transfer.tx.clone(), Atoms::new(CENT.into()), named)
        );
    }
    let mut elsewhere = facts(&buyer, lost);
    elsewhere.payee = Address::repeat_byte(1);
    let verdict = chain.verdict(&elsewhere).await;
    assert!(matches!(verdict, Verdict::Disputed { .. }), "{verdict:?}");

    // Unused: it can be cashed until a final block is past its deadline.
    let broken = facts(&buyer, broken);
    let verdict = chain.verdict(&broken).await;
    assert!(
        matches!(verdict, Verdict::Wait { until } if until > broken.valid_before),
        "{verdict:?}"
    );
    chain.rpc("evm_increaseTime", json!([301]));
    chain.finalize();
    chain.finalize();
    let verdict = chain.verdict(&broken).await;
    assert!(
        matches!(verdict, Verdict::Expired { head } if head.timestamp > broken.valid_before),
        "{verdict:?}"
    );

    // Somebody else who has the wallet's key.
    let wallet: Address = buyer.wallet.parse().unwrap();
    let thief = Address::repeat_byte(0xbb);
    chain.rpc("anvil_setBalance", json!([wallet, "0xde0b6b3a7640000"]));
    chain.rpc("anvil_impersonateAccount", json!([wallet]));
    let data = format!("0xa9059cbb{:0>64}{:064x}", format!("{thief:x}"), 123_456);
    let theft = chain.rpc(
        "eth_sendTransaction",
        json!([{ "from": wallet, "to": chain.lab.token, "data": data }]),
    );
    chain.finalize();
    let last = chain.node.finalized(&chain.tls).await.unwrap().number;
    let ours: Vec<Facts> = payments.iter().map(|payment| facts(&buyer, payment)).collect();
    let known = |nonce: &B256, to: Address, amount: U256| {
        ours.iter()
            .any(|facts| facts.nonce == *nonce && facts.payee == to && U256::from(facts.amount.get()) == amount)
    };
    let nodes = [chain.node.clone()];
    let left = outflows(
        &chain.tls,
        NETWORK,
        &nodes,
        wallet,
        began.number..=last,
        |nonce, outflow| known(nonce, outflow.to, outflow.amount),
        None,
    )
    .await;
    assert_eq!(
        (left.searched_by, &left.silent[..], left.found.len()),
        (1, &[][..], 1),
        "{left:?}"
    );
    let taken = &left.found[0];
    assert_eq!((taken.to, taken.amount), (thief, U256::from(123_456)));
    assert_eq!(theft, taken.tx.to_string());
    assert_eq!(taken.asset, assets::tokens_of(NETWORK).next().unwrap());
    // Without the ledger every transfer would be unexplained.
    let all = outflows(
        &chain.tls,
        NETWORK,
        &nodes,
        wallet,
        began.number..=last,
        |_, _| false,
        None,
    )
    .await;
    assert_eq!(all.found.len(), 3, "{all:?}");
}
