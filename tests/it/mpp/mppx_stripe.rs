//! MPP `stripe`/`charge` against the reference server (`mppx`), which charges tokens at the sandbox Stripe: what counts
//! is what was captured there, and what moved on the chain. Uses its own lab, as captured amounts are compared exactly.

use std::os::unix::fs::PermissionsExt;

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::agent::{Agent, Page};
use crate::support::buyer::{Buyer, buyer_on, fund, site, skip};
use crate::support::lab::{Extras, Lab, installed};
use crate::support::mpp::{self, decoded};
use crate::support::stripe::{AGENT_KEY, FakeStripe};

const LIMITS: &str = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"5.00\"\nday = \"20.00\"\n\
                      [rates.jpy]\nusd = \"0.0065\"\nvalid_until = \"2099-12-31\"\n";
const FUNDS: u128 = 1_000_000;

struct Story {
    fake: FakeStripe,
    lab: &'static Lab,
    keys: tempfile::TempDir,
}

impl Story {
    fn begin() -> Option<Self> {
        if !installed() {
            skip("the lab is not installed: run `npm ci` in tests/interop");
            return None;
        }
        let fake = FakeStripe::start();
        let extras = Extras {
            stripe: Some(&fake.base),
            ..Extras::default()
        };
        let lab: &'static Lab = Box::leak(Box::new(Lab::start_with(extras)));
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("stripe.key");
        std::fs::write(&key, AGENT_KEY).unwrap();
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        Some(Self { fake, lab, keys })
    }

    fn buyer(&self, limits: &str) -> Buyer {
        let sections = format!(
            "[networks.\"eip155:84532\"]\nrpc = [\"{}\"]\n[stripe]\nkey = \"file:{}\"\npayment_method = \"pm_card_visa\"\napi_base = \"{}\"\n",
            self.lab.rpc,
            self.keys.path().join("stripe.key").display(),
            self.fake.base
        );
        buyer_on(self.lab, limits, &sections, "", |wallet| fund(self.lab, wallet, FUNDS))
    }

    async fn get(&self, buyer: &Buyer, path: &str) -> Page {
        Agent::of(&buyer.bursar).get(site(&self.lab.mpp), path).await
    }
}

fn last(buyer: &Buyer) -> Value {
    buyer.bursar.payments().pop().unwrap()
}

#[tokio::test]
async fn the_reference_server_is_paid_by_tokens_of_the_sandbox_stripe() {
    let Some(story) = Story::begin() else { return };
    let buyer = story.buyer(LIMITS);
    let mut captured = 0;
    for (path, amount, usd) in [
        ("/mpp/stripe", 100, "1.00"),
        ("/mpp/stripe-external", 100, "1.00"),
        ("/mpp/stripe-meta", 100, "1.00"),
        ("/mpp/stripe-jpy", 500, "3.25"),
    ] {
        let page = story.get(&buyer, path).await;
        assert_eq!(
            (page.status.as_u16(), &page.json()["paid"]),
            (200, &json!(true)),
            "{path}: {page:?}"
        );
        captured += amount;
        assert_eq!(story.fake.captured(), captured, "{path}");
        let payment = last(&buyer);
        for (member, value) in [
            ("rail", "mpp.stripe"),
            ("state", "settled"),
            ("usd", usd),
            ("payee", "profile_test_lab"),
        ] {
            assert_eq!(payment[member], value, "{path}: {member}");
        }
        let receipt = decoded(page.header("payment-receipt").unwrap());
        assert_eq!(receipt["reference"], payment["tx"], "{path}");
    }
    let request = Request::post("/mpp/stripe-echo").body(Full::from("hello")).unwrap();
    let page = Agent::of(&buyer.bursar).send(site(&story.lab.mpp), request).await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["length"]),
        (200, &json!(5)),
        "{page:?}"
    );
    assert_eq!(buyer.transfers(), vec![], "nothing of this is the wallet's affair");
    assert_eq!(
        story.lab.seen(&story.lab.mpp)["routes"]["GET /mpp/stripe"]["distinct_payments"],
        1
    );
    assert_eq!(buyer.bursar.run(&["reconcile"]).status.code(), Some(0));
    let confirmed = buyer.bursar.payments().iter().all(|payment| payment["by"] == "stripe");
    assert!(confirmed, "{:?}", buyer.bursar.payments());
}

#[tokio::test]
async fn a_402_of_both_protocols_and_both_methods_is_one_sale_of_the_cheapest_and_one_budget() {
    let Some(story) = Story::begin() else { return };
    // Stripe $1.00, evm $0.01 and the same over x402.
    let buyer = story.buyer(LIMITS);
    assert_eq!(story.get(&buyer, "/mpp/dual").await.status, 200);
    assert_eq!(
        (
            &last(&buyer)["rail"],
            story.fake.called("POST /v1/shared_payment/issued_tokens")
        ),
        (&json!("mpp.evm"), 0)
    );
    assert_eq!((buyer.transfers().len(), buyer.balance()), (1, FUNDS - 10_000));

    // A rail that finance does not list is not used, however cheap.
    let only = format!(
        "rails = [\"mpp.stripe\"]\n{}",
        LIMITS.replace("day = \"20.00\"", "day = \"1.50\"")
    );
    let buyer = story.buyer(&only);
    let page = story.get(&buyer, "/mpp/dual").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(
        (&last(&buyer)["rail"], story.fake.captured()),
        (&json!("mpp.stripe"), 100)
    );
    assert!(
        mpp::decoded(page.header("payment-receipt").unwrap())["reference"]
            .as_str()
            .unwrap()
            .starts_with("pi_")
    );
    assert!(
        !page.headers.contains_key("payment-response"),
        "one credential was sent"
    );
    assert_eq!(buyer.balance(), FUNDS);
    let page = story.get(&buyer, "/mpp/dual").await;
    assert_eq!((page.status.as_u16(), page.problem()), (403, "over-limit".to_owned()));
    assert_eq!(buyer.bursar.payments().len(), 1);

    let explained = buyer.bursar.run(&["explain", last(&buyer)["id"].as_str().unwrap()]);
    let said = String::from_utf8(explained.stdout).unwrap();
    for words in ["mpp 1", "mpp.evm", "x402 0", "rails"] {
        assert!(said.contains(words), "{words}: {said}");
    }
}
