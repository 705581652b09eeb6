//! MPP against the reference server (`mppx`, in `tests/interop`), whose 402s also carry x402: what counts is what moved
//! on the chain.

use serde_json::{Value, json};

use crate::money::chain::{FUNDS, assert_one_cent_moved};
use crate::support::agent::Agent;
use crate::support::bursar::LIMITS;
use crate::support::buyer::{buyer, buyer_within, lab, site};
use crate::support::{mpp, seller};

#[tokio::test]
async fn the_reference_server_is_paid_once() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/paid").await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["paid"]),
        (200, &json!(true)),
        "{page:?}"
    );
    let payment = assert_one_cent_moved(&buyer, lab);
    assert_eq!(
        (&payment["rail"], &payment["scheme"]),
        (&json!("mpp.evm"), &json!("charge"))
    );
    let receipt = mpp::decoded(page.header("payment-receipt").unwrap());
    assert_eq!(receipt["reference"], payment["tx"]);
    assert!(!page.headers.contains_key("payment-response"));
}

#[tokio::test]
async fn the_same_sale_over_x402_has_two_receipts_and_is_one_payment() {
    let Some(lab) = lab() else { return };
    let limits = format!("rails = [\"x402\", \"mpp.evm\"]\n{LIMITS}");
    let buyer = buyer_within(lab, FUNDS, &limits);
    let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/paid").await;
    assert_eq!(page.status, 200, "{page:?}");
    let payment = assert_one_cent_moved(&buyer, lab);
    assert_eq!(payment["rail"], "x402");
    let (one, other) = (
        page.header("payment-response").unwrap(),
        page.header("payment-receipt").unwrap(),
    );
    assert_eq!(seller::decoded(one)["transaction"], payment["tx"]);
    assert_eq!(mpp::decoded(other)["reference"], payment["tx"]);
}

#[tokio::test]
async fn a_post_is_paid_with_its_body() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar)
        .post(site(&lab.mpp), "/mpp/echo", "hello")
        .await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["length"]),
        (200, &json!(5)),
        "{page:?}"
    );
    assert_eq!(assert_one_cent_moved(&buyer, lab)["rail"], "mpp.evm");
}

#[tokio::test]
async fn of_several_methods_the_one_that_can_be_paid_is_taken() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    assert_eq!(agent.get(site(&lab.mpp), "/mpp/multi").await.status, 200);
    assert_eq!(assert_one_cent_moved(&buyer, lab)["rail"], "mpp.evm");

    let page = agent.get(site(&lab.mpp), "/mpp/other").await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"stripe-not-configured\"")
    );
    assert_eq!(buyer.bursar.payments().len(), 1);
    assert_eq!(lab.seen(&lab.mpp)["routes"]["GET /mpp/other"]["with_payment"], 0);
}

#[tokio::test]
async fn a_settlement_that_fails_stays_counted_and_is_not_signed_for_again() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    for _ in 0..2 {
        let page = agent.get(site(&lab.mpp), "/mpp/broken").await;
        assert_eq!(page.status, 500, "{page:?}");
    }
    let payments = buyer.bursar.payments();
    assert_eq!((payments.len(), &payments[0]["state"]), (1, &Value::from("unknown")));
    assert_eq!((buyer.transfers(), buyer.balance()), (vec![], FUNDS));
    let route = &lab.seen(&lab.mpp)["routes"]["GET /mpp/broken"];
    assert_eq!(
        (&route["with_payment"], &route["distinct_payments"]),
        (&json!(2), &json!(1))
    );
}
