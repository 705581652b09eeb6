//! BKey signs, and the money moves on a chain; the chain decides what counts.

use serde_json::{Value, json};

use crate::bkey::{config, write_secret};
use crate::support::agent::Agent;
use crate::support::bkey::payments::OrderState;
use crate::support::bkey::{Call, Dialect, FakeBkey};
use crate::support::bursar::{Bursar, LIMITS, eventually, setup};
use crate::support::buyer::{Transfer, fund, lab, rpc, site, skip, transfers};
use crate::support::lab::{Lab, installed};
use crate::support::node::{Mood, Node};
use crate::support::origin::Origin;
use crate::support::seller;

const CENT: u128 = 10_000;
const FUNDS: u128 = 1_000_000;

struct Story {
    bursar: Bursar,
    fake: FakeBkey,
    wallet: String,
    lab: &'static Lab,
    _node: Node,
}

impl Story {
    async fn begin(lab: &'static Lab, name: &str) -> Self {
        Self::begin_at(lab, name, "").await
    }

    async fn begin_at(lab: &'static Lab, name: &str, more_ca: &str) -> Self {
        // Every mined block is final.
        let node = Node::of(lab, Mood::Final).await;
        let fake = FakeBkey::start(Dialect::Oauth);
        let wallet = fake.payments(|of| {
            of.key_of(name);
            of.contract = lab.token.parse().unwrap();
            of.address().to_checksum(None)
        });
        fund(lab, &wallet, FUNDS);
        let networks = format!("[networks.\"eip155:84532\"]\nrpc = [{:?}]\n", node.url());
        let home = setup()
            .trust(&format!("{}{more_ca}", lab.ca_pem))
            .limits(LIMITS)
            .wallet("[wallet]\nevm = \"bkey\"\n")
            .config(&config(&fake, &networks, 60))
            .home();
        write_secret(&home);
        let bursar = home.serve();
        Self {
            bursar,
            fake,
            wallet,
            lab,
            _node: node,
        }
    }

    fn transfers(&self) -> Vec<Transfer> {
        transfers(&self.lab.rpc, &self.lab.token, &self.wallet)
    }

    /// One cent went to the seller once, and the ledger has the transaction and the nonce.
    fn one_cent_moved(&self) {
        let payments = self.bursar.payments();
        assert_eq!(payments.len(), 1, "{payments:?}");
        let tx = payments[0]["tx"].as_str().unwrap().to_owned();
        let moved = Transfer {
            to: self.lab.pay_to.to_lowercase(),
            atoms: CENT,
            tx: tx.clone(),
        };
        assert_eq!(self.transfers(), [moved]);
        assert_eq!(self.lab.balance(&self.wallet), FUNDS - CENT);
        assert_eq!(payments[0]["state"], "settled");
        let seen = self.lab.seen(&self.lab.facilitator);
        let cashed = seen["settlements"].as_array().unwrap().iter();
        let cashed: Vec<&Value> = cashed.filter(|settlement| settlement["transaction"] == *tx).collect();
        assert_eq!(
            (cashed.len(), &cashed[0]["nonce"]),
            (1, &payments[0]["nonce"]),
            "{seen}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bkey_signs_at_once_moves_once() {
    let Some(lab) = lab() else { return };
    let story = Story::begin(lab, "at once").await;
    let shown = story.bursar.run(&["wallet", "show"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(
        text.starts_with(&format!("{}\n", story.wallet)) && text.contains(" 1 USDC"),
        "{text}"
    );
    let page = Agent::of(&story.bursar).get(site(&lab.v2), "/paid").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(page.json()["paid"], true);
    story.one_cent_moved();
    // With the entry, the chain proves this payment like one signed with our own key, and the outflow is explained.
    let compared = story.bursar.run(&["reconcile", "--json"]);
    let said = String::from_utf8(compared.stdout).unwrap();
    assert_eq!(compared.status.code(), Some(0), "{said}");
    assert!(!said.contains("\"outflow\""), "{said}");
    assert_eq!(story.bursar.payments()[0]["by"], "chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_confirms_moves_once() {
    let Some(lab) = lab() else { return };
    let story = Story::begin(lab, "confirmed").await;
    story.fake.payments(|of| of.order_state = OrderState::Waits);
    let (agent, v1) = (Agent::of(&story.bursar), site(&lab.v1));
    let waiting = tokio::spawn(async move { agent.get(v1, "/v1/paid").await });
    eventually("a look", || {
        (story.fake.count(Call::LookAuthorization) > 0).then_some(())
    })
    .await;
    assert_eq!(story.transfers(), []);
    story.fake.payments(|of| of.decide(&OrderState::Made));
    assert_eq!(waiting.await.unwrap().status, 200);
    story.one_cent_moved();
}

/// If a made-up nonce stood in its place, the chain would report it as unused forever.
#[tokio::test(flavor = "multi_thread")]
async fn the_chain_frees_nothing_whose_nonce_is_not_on_record() {
    let Some(lab) = lab() else { return };
    let mut story = Story::begin(lab, "lost").await;
    story
        .fake
        .mishaps(Call::OrderAuthorization, &[crate::support::bkey::Mishap::CutAfter]);
    let page = Agent::of(&story.bursar).get(site(&lab.v2), "/paid").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (503, "signer-unavailable")
    );
    assert_eq!(story.fake.payments(|of| of.signatures()), 1, "it is signed away");
    let id = story.bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    let compared = story.bursar.run(&["reconcile", &id, "--json"]);
    let said = String::from_utf8(compared.stdout).unwrap();
    assert!(said.contains("chose the nonce") && said.contains("undecided"), "{said}");
    assert_eq!(story.bursar.states(), ["unknown"]);
    // The same without a running server.
    assert_eq!(story.bursar.stop(), 0);
    let home = story.bursar.kill();
    let compared = home.run(&["reconcile", &id, "--json"]);
    assert!(
        String::from_utf8_lossy(&compared.stdout).contains("chose the nonce"),
        "{compared:?}"
    );
    let payment = &home.payments(&[])[0];
    assert_eq!(
        (&payment["state"], &payment["nonce"]),
        (&json!("unknown"), &Value::Null)
    );
    assert_eq!(transfers(&lab.rpc, &lab.token, &story.wallet), []);
}

/// BKey may sign for longer than was armed. Such a signature is recorded but not sent; how it ends is proven as usual.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_and_not_sent_comes_back_once_the_chain_proves_it_expired() {
    if !installed() {
        return skip("the lab is not installed: run `npm ci` in tests/interop");
    }
    // A separate lab, because its clock is set ahead.
    let lab: &'static Lab = Box::leak(Box::new(Lab::start()));
    let origin = Origin::https(|_| async {
        let mut brief = seller::requirement("10000");
        brief["maxTimeoutSeconds"] = json!(10);
        seller::v2(&seller::challenge("/", &[brief]))
    })
    .await;
    let story = Story::begin_at(lab, "too long", &origin.ca_pem).await;
    story.fake.payments(|of| of.valid_s = 22);
    rpc(lab, "evm_mine", json!([]));
    let page = Agent::of(&story.bursar).get(origin.address, "/paid").await;
    assert_eq!(page.problem(), "signing-failed");
    assert!(origin.payments().is_empty());
    let finding = || {
        let compared = story.bursar.run(&["reconcile", "--json"]);
        let text = String::from_utf8(compared.stdout).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        (
            line["finding"].as_str().unwrap().to_owned(),
            story.bursar.states().remove(0),
        )
    };
    let expected = |finding: &str, state: &str| (finding.to_owned(), state.to_owned());
    assert_eq!(finding(), expected("pending", "unknown"));
    // What was armed has expired, but what was signed has not.
    rpc(lab, "evm_increaseTime", json!([12]));
    rpc(lab, "evm_mine", json!([]));
    assert_eq!(finding(), expected("pending", "unknown"));
    rpc(lab, "evm_increaseTime", json!([15]));
    rpc(lab, "evm_mine", json!([]));
    assert_eq!(finding(), expected("expired", "expired"));
    assert_eq!(story.transfers(), []);
}
