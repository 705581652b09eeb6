//! Sites that want to know the client by a certificate.

use http::Request;
use http_body_util::Full;

use crate::support::agent::Agent;
use crate::support::bursar::{Setup, setup};
use crate::support::origin::{Certificate, Origin, Speaks, certificate};
use crate::support::seller;
use crate::support::wire::soon;

/// A seller that serves only clients of the CA that made `client`.
async fn members_only(client: &Certificate) -> Origin {
    let site = certificate(&["localhost"], |_| {}).for_clients_of(&client.ca_pem);
    Origin::start(Speaks::H1AndH2, site, |request| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks("10000"),
        }
    })
    .await
}

fn client() -> Certificate {
    certificate(&["client.example"], |leaf| {
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    })
}

/// bursar with a section for the site, which names `client`.
fn presenting(origin: &Origin, client: &Certificate, hosts: &str) -> Setup {
    let (cert, key) = client.pems();
    let setup = setup().trust(&origin.ca_pem);
    let setup = setup.file("client.pem", cert, 0o644).file("client.key", key, 0o600);
    setup.config(&format!(
        "[[upstream.site]]\nhost = \"{hosts}\"\nclient_cert = \"client.pem\"\nclient_key = \"file:client.key\"\n"
    ))
}

#[tokio::test]
async fn a_section_names_the_certificate_and_purchases_work_there() {
    let client = client();
    let origin = members_only(&client).await;
    let bursar = presenting(&origin, &client, "localhost").start();
    for offer in [&["http/1.1"][..], &["h2"]] {
        let mut connection = Agent::of(&bursar).connect(origin.address, offer).await;
        let request = Request::get("/goods").body(Full::default()).unwrap();
        let page = soon(connection.send(origin.address, request)).await.unwrap();
        assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    }
    assert_eq!(bursar.states(), ["settled", "settled"]);
    assert_eq!(origin.payments().len(), 2);
}

#[tokio::test]
async fn connections_with_it_are_not_lent_to_another_agent() {
    let client = client();
    let origin = members_only(&client).await;
    let bursar = presenting(&origin, &client, "localhost").start();
    let token = bursar.home.add_agent("other");
    let other = Agent::named(&bursar, "other", &token);
    for agent in [Agent::of(&bursar), other] {
        agent.get(origin.address, "/goods").await;
    }
    let mut connections: Vec<usize> = origin.seen().iter().map(|request| request.connection).collect();
    connections.dedup();
    assert!(connections.len() >= 2, "{connections:?}");
}

#[tokio::test]
async fn without_a_section_the_answer_says_what_is_missing() {
    let client = client();
    let origin = members_only(&client).await;
    // A section for another host changes nothing.
    let bursar = presenting(&origin, &client, "*.localhost").start();
    for offer in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let mut connection = Agent::of(&bursar).connect(origin.address, offer).await;
        let request = Request::get("/goods").body(Full::default()).unwrap();
        let page = soon(connection.send(origin.address, request)).await.unwrap();
        assert_eq!(
            (page.status.as_u16(), page.problem().as_str()),
            (502, "upstream-broken")
        );
        let detail = page.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains("asked for a client certificate") && detail.contains("[[upstream.site]]"),
            "{detail}"
        );
    }
    assert!(origin.seen().is_empty() && bursar.payments().is_empty());
}

#[test]
fn a_key_that_others_can_read_is_refused_at_the_start() {
    let (client, site) = (client(), certificate(&["localhost"], |_| {}));
    let (cert, key) = client.pems();
    for (mode, key, said) in [
        (0o644, key, "can be read by other users"),
        (0o600, site.pems().1, "the key of another certificate"),
    ] {
        let home = setup()
            .file("client.pem", cert, 0o644)
            .file("client.key", key, mode)
            .config("[[upstream.site]]\nhost = \"a.example\"\nclient_cert = \"client.pem\"\nclient_key = \"file:client.key\"\n")
            .home();
        let served = home.run(&["serve"]);
        let text = String::from_utf8_lossy(&served.stderr).into_owned();
        assert_eq!(served.status.code(), Some(2), "{text}");
        assert!(text.contains(said) && !text.contains("PRIVATE"), "{text}");
    }
}
