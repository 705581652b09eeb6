//! The simplest case: a 402 is paid once, and the ledger shows it.

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::Origin;
use crate::support::seller;

#[tokio::test]
async fn a_402_is_paid_once_and_recorded() {
    let origin = Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/quote?q=1").await;

    assert_eq!(page.status, 200);
    assert_eq!(&page.body[..], b"goods");
    let payments = bursar.payments();
    assert_eq!(payments.len(), 1);
    assert_eq!(payments[0]["state"], "settled");
    assert_eq!(payments[0]["by"], "merchant");
    assert_eq!(payments[0]["amount"], "10000");
    assert_eq!(payments[0]["tx"], seller::TX);
    assert_eq!(payments[0]["resource"], origin.url("/quote"));
    assert_eq!(page.header("bursar-payment"), payments[0]["id"].as_str());
    assert_eq!(origin.payments().len(), 1);
    assert_eq!(origin.seen().len(), 2);
}
