//! The sandbox's chain proves the sandbox's sales to the same code that queries real nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use jiff::Timestamp;

use super::client::{Client, Protocol};
use super::payer::Payer;
use super::{NOW, Options, Sandbox};
use crate::authorization::Authorization;
use crate::usdc;
use bursar_core::assets::Network;
use bursar_core::clock::ManualClock;
use bursar_core::money::Atoms;
use bursar_net::tls::upstream::{Trust, UpstreamTls};
use bursar_rails::rpc::Node;
use bursar_reconcile::{ClaimState, Facts, Finality, Named, Proof, Verdict, outflows, verdict};

const NETWORK: Network = Network::Eip155(84_532);

fn facts(authorization: &Authorization) -> Facts {
    Facts {
        network: NETWORK,
        token: usdc::CONTRACT,
        from: authorization.from,
        payee: authorization.to,
        amount: authorization.value,
        nonce: authorization.nonce,
        proof: Proof::Authorization,
        armed_at: NOW,
        valid_before: authorization.valid_before,
        claim_state: ClaimState::Open,
        claimed_tx: None,
    }
}

#[tokio::test]
async fn what_was_sold_and_what_was_not_can_be_proven() {
    let at = |second: u64| Timestamp::from_second(second as i64).unwrap();
    let clock = Arc::new(ManualClock::at(at(NOW)));
    let options = Options {
        clock: clock.clone(),
        ..Options::default()
    };
    let sandbox = Sandbox::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), options)
        .await
        .unwrap();
    let payer = Payer::named("a payer who wants proof");
    sandbox.token().fund(payer.address(), Atoms::new(1_000_000)).unwrap();
    let mut client = Client::connect(&sandbox, Protocol::Http1).await;
    let challenge = client.get("/v2/quote").await.v2_challenge();
    let paid = payer.authorize(&challenge["accepts"][0], NOW, "paid");
    let kept = payer.authorize(&challenge["accepts"][0], NOW, "kept");
    client.pay("/v2/quote", &payer.v2(&challenge, &paid)).await;
    let sold = sandbox.token().transfers()[0].transaction;

    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, sandbox.ca_pem()).unwrap();
    let trust = Trust {
        extra_ca: vec![ca],
        ..Trust::default()
    };
    let tls = UpstreamTls::new(&trust, Duration::from_secs(5)).unwrap();
    let nodes = [Node::new(format!("{}/rpc", sandbox.base_url()).parse().unwrap())];
    let judge = async |authorization: &Authorization, now| {
        let finality = Finality::of(&tls, NETWORK, &nodes, now).await;
        let facts = facts(authorization);
        let evidence = finality.evidence(&tls, &facts).await;
        assert_eq!(evidence.silent, []);
        verdict(&facts, &evidence)
    };

    // Its second is not over.
    assert!(matches!(judge(&paid, NOW).await, Verdict::Wait { .. }));
    clock.set(at(NOW + 2));
    let settled = Verdict::Settled {
        tx: sold,
        block: NOW,
        amount: paid.value,
        receipt: Named::Nothing,
    };
    assert_eq!(judge(&paid, NOW + 2).await, settled);
    assert!(matches!(judge(&kept, NOW + 2).await, Verdict::Wait { .. }));
    clock.set(at(NOW + 62));
    assert!(matches!(judge(&kept, NOW + 62).await, Verdict::Expired { .. }));
    assert_eq!(judge(&paid, NOW + 62).await, settled);

    let left = async |known: bool| {
        let blocks = NOW - 600..=NOW + 61;
        let left = outflows(
            &tls,
            NETWORK,
            &nodes,
            payer.address(),
            blocks,
            |nonce, _| known && *nonce == paid.nonce,
            None,
        );
        let left = left.await;
        assert_eq!(left.searched_by, 1, "{left:?}");
        left.found
    };
    assert_eq!(left(true).await, []);
    let unknown = left(false).await;
    assert_eq!(unknown.len(), 1);
    assert_eq!((unknown[0].tx, unknown[0].log_index, unknown[0].block), (sold, 1, NOW));
    assert_ne!(unknown[0].to, Address::ZERO);
    sandbox.stop().await;
}
