//! An IPv4 address that is written as an IPv6 one is the same merchant to limits, ledger and dialer.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::{Origin, Seen};
use crate::support::seller;
use crate::support::wire::{Message, Wire};

const SPELLINGS: [&str; 4] = [
    "127.0.0.1",
    "[::ffff:127.0.0.1]",
    "[::FFFF:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
];

async fn shop() -> Origin {
    Origin::https(|request: Seen| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks("10000"),
        }
    })
    .await
}

/// A request in a tunnel to the host as it is spelled; the agent's TLS asks for that very address.
async fn get(agent: &Agent, host: &str, port: u16) -> Message {
    let tunnel = agent.tunnel(&format!("{host}:{port}")).await;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(&agent.ca, &["http/1.1"])));
    let mut wire = Wire::new(connector.connect(name, tunnel).await.unwrap());
    wire.say(format!("GET /goods HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"))
        .await;
    wire.answer().await.unwrap()
}

fn start(origin: &Origin, limits: &str) -> Bursar {
    let limits = format!("timezone = \"UTC\"\n[agents.research]\nday = \"0.03\"\n{limits}");
    setup().limits(&limits).trust(&origin.ca_pem).start()
}

#[tokio::test]
async fn one_address_is_one_merchant_however_it_is_spelled() {
    let origin = shop().await;
    let port = origin.address.port();

    // Whichever spelling finance denies, it denies all of them.
    for named in ["127.0.0.1", "::ffff:127.0.0.1", "[::ffff:7f00:1]"] {
        let bursar = start(&origin, &format!("merchants = {{ deny = [\"{named}\"] }}\n"));
        let agent = Agent::of(&bursar);
        for host in SPELLINGS {
            let page = get(&agent, host, port).await;
            assert_eq!(
                (page.status(), page.problem().as_str()),
                (403, "merchant-not-allowed"),
                "{named} {host}"
            );
        }
        assert!(origin.payments().is_empty());
        let refusals = bursar.refusals();
        assert!(!refusals.is_empty() && refusals.iter().all(|refusal| refusal["merchant"] == "127.0.0.1"));
    }

    // Three payments fit the day; the fourth spelling finds the budget used up.
    let bursar = start(&origin, "merchants = { allow = [\"127.0.0.1\"] }\n");
    let agent = Agent::of(&bursar);
    for (host, status) in SPELLINGS.into_iter().zip([200, 200, 200, 403]) {
        assert_eq!(get(&agent, host, port).await.status(), status, "{host}");
    }
    assert_eq!(origin.payments().len(), 3);
    let payments = bursar.payments();
    assert_eq!(payments.len(), 3);
    for payment in payments {
        assert_eq!(payment["merchant"], "127.0.0.1");
        assert_eq!(payment["resource"], format!("https://127.0.0.1:{port}/goods"));
    }
}

#[tokio::test]
async fn a_repeat_under_another_spelling_is_a_repeat() {
    let origin = Origin::https(|request: Seen| async move {
        match request.is_paid() {
            true => crate::support::origin::answer(500, &[], "later"),
            false => seller::asks("10000"),
        }
    })
    .await;
    let bursar = start(&origin, "");
    let agent = Agent::of(&bursar);
    for host in SPELLINGS {
        assert_eq!(get(&agent, host, origin.address.port()).await.status(), 500, "{host}");
    }
    assert_eq!(bursar.payments().len(), 1);
    let mut credentials = origin.payments();
    assert_eq!(credentials.len(), 4);
    credentials.dedup();
    assert_eq!(credentials.len(), 1, "the same bytes");
}
