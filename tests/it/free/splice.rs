//! Hosts whose TLS is not opened: the agent speaks with the site itself, and nothing is ever paid.

use std::path::PathBuf;
use std::sync::Arc;

use http::Request;
use http_body_util::Full;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::agent::{Agent, client_config};
use crate::support::bursar::{Bursar, eventually, setup};
use crate::support::origin::Origin;
use crate::support::seller;
use crate::support::wire::{Wire, soon};

async fn shop() -> Origin {
    Origin::https(|request| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => seller::asks("10000"),
        }
    })
    .await
}

/// bursar, with this in bursar.toml. It trusts the site.
fn with(origin: &Origin, config: &str) -> Bursar {
    setup().trust(&origin.ca_pem).config(config).start()
}

fn sites_ca(bursar: &Bursar) -> PathBuf {
    bursar.path().join("origin-ca.pem")
}

/// An agent that trusts the site's CA and not bursar's, as an app with pinned certificates does.
fn pinning(bursar: &Bursar) -> Agent {
    Agent {
        ca: sites_ca(bursar),
        ..Agent::of(bursar)
    }
}

/// TLS in a tunnel to `authority`, for `name`.
async fn sealed(agent: &Agent, authority: &str, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let tunnel = agent.tunnel(authority).await;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(client_config(&agent.ca, &["http/1.1"])));
    soon(connector.connect(name, tunnel)).await
}

#[tokio::test]
async fn the_agent_sees_the_sites_own_certificate_and_nothing_is_paid() {
    let origin = shop().await;
    let port = origin.address.port();
    for config in [
        "[intercept]\nnever = [\"localhost\"]\n",
        "[intercept]\nonly = [\"127.0.0.1\"]\n",
        "[intercept]\nnever = [\"localhost\"]\nonly = [\"localhost\", \"127.0.0.1\"]\n",
        "[[upstream.site]]\nhost = \"localhost\"\npassthrough = true\n",
    ] {
        let bursar = with(&origin, config);
        let before = origin.seen().len();
        for offer in [&["http/1.1"][..], &["h2"]] {
            let mut connection = pinning(&bursar).connect(origin.address, offer).await;
            let request = Request::get("/goods").header("x-own", "kept").body(Full::default());
            let page = soon(connection.send(origin.address, request.unwrap())).await.unwrap();
            assert_eq!(page.status.as_u16(), 402, "{config}");
            assert_eq!(page.header("proxy-status"), None, "the answer is the site's alone");
        }
        let seen = &origin.seen()[before..];
        assert!(
            seen.iter()
                .all(|request| request.headers["x-own"] == "kept" && !request.is_paid())
        );
        assert_eq!(seen.len(), 2);
        assert!(bursar.payments().is_empty());

        // The same site under a name that is opened: bursar's certificate, and the payment.
        let mut tunnel = Wire::new(
            sealed(&Agent::of(&bursar), &format!("127.0.0.1:{port}"), "127.0.0.1")
                .await
                .unwrap(),
        );
        tunnel
            .say(format!("GET /goods HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"))
            .await;
        assert_eq!(tunnel.answer().await.unwrap().status(), 200);
        assert_eq!(bursar.states(), ["settled"]);
        let log = bursar.log();
        assert!(
            log.contains("passes through unread, and nothing is paid there") && log.contains("localhost"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_hello_for_another_name_is_refused_with_an_alert() {
    let origin = shop().await;
    let bursar = with(&origin, "[intercept]\nnever = [\"localhost\"]\n");
    let authority = format!("localhost:{}", origin.address.port());
    for name in ["other.example", "localhost.example"] {
        let error = sealed(&pinning(&bursar), &authority, name).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    assert!(bursar.log().contains("its TLS hello is for other.example"));
    assert!(origin.seen().is_empty());
    // To an address clients send no name.
    let by_address = with(&origin, "[intercept]\nnever = [\"127.0.0.1\"]\n");
    let authority = format!("127.0.0.1:{}", origin.address.port());
    sealed(&pinning(&by_address), &authority, "127.0.0.1").await.unwrap();
}

#[tokio::test]
async fn the_guard_and_the_log_in_stay() {
    let origin = shop().await;
    let bursar = with(
        &origin,
        "[intercept]\nnever = [\"*.internal\", \"10.0.0.1\", \"localhost\"]\n",
    );
    let error = sealed(&pinning(&bursar), "10.0.0.1:443", "10.0.0.1").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    let stranger = Agent {
        login: "research:wrong".to_owned(),
        ..pinning(&bursar)
    };
    let (_, head) = stranger
        .connect_answer(&format!("localhost:{}", origin.address.port()))
        .await;
    assert!(head.starts_with("HTTP/1.1 407"), "{head}");
    assert!(origin.seen().is_empty());
}

#[tokio::test]
async fn a_site_that_is_not_reached_ends_the_tunnel() {
    let origin = shop().await;
    let bursar = with(&origin, "[intercept]\nnever = [\"localhost\"]\n");
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = sealed(&pinning(&bursar), &format!("localhost:{}", free.port()), "localhost")
        .await
        .unwrap_err();
    assert!(!error.to_string().contains("Alert"), "{error}");
}

#[tokio::test]
async fn what_is_not_tls_is_served_as_ever_and_a_url_is_not_read_openly() {
    let origin = shop().await;
    let bursar = with(&origin, "[intercept]\nnever = [\"localhost\"]\n");
    let agent = Agent::of(&bursar);
    let page = agent.get_plain(&origin.url("/goods")).await;
    assert_eq!((page.status.as_u16(), page.problem().as_str()), (400, "bad-request"));
    let page = page.json();
    assert!(page["detail"].as_str().unwrap().contains("CONNECT"), "{page}");

    let plain = Origin::start(
        crate::support::origin::Speaks::Plain,
        crate::support::origin::certificate(&["localhost"], |_| {}),
        |_| async { crate::support::origin::answer(200, &[], "open") },
    )
    .await;
    let mut wire = Wire::new(agent.tunnel(&format!("localhost:{}", plain.address.port())).await);
    wire.say(format!(
        "GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n",
        plain.address.port()
    ))
    .await;
    assert_eq!(wire.answer().await.unwrap().text(), "open");
    assert!(origin.seen().is_empty() && bursar.payments().is_empty());

    // A first byte like TLS's, and then none of it.
    let mut tunnel = agent.tunnel(&format!("localhost:{}", origin.address.port())).await;
    tunnel.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    assert_eq!(soon(tunnel.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

/// A site that answers only after it has read the end of what the agent says.
async fn patient() -> Origin {
    Origin::raw(|mut stream, _| async move {
        let mut said = Vec::new();
        if stream.read_to_end(&mut said).await.is_ok() {
            stream.write_all(b"you said ").await.unwrap();
            stream.write_all(&said).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn an_end_in_one_direction_is_passed_on_alone() {
    let origin = patient().await;
    let bursar = with(&origin, "[intercept]\nnever = [\"localhost\"]\n");
    let authority = format!("localhost:{}", origin.address.port());
    let mut stream = sealed(&pinning(&bursar), &authority, "localhost").await.unwrap();
    let long = vec![b'x'; 1 << 20];
    stream.write_all(&long).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.strip_prefix(b"you said "), Some(&long[..]));
}

#[tokio::test]
async fn silence_ends_it() {
    let origin = patient().await;
    let bursar = with(
        &origin,
        "[intercept]\nnever = [\"localhost\"]\n[timeouts]\nidle_s = 1\n",
    );
    let authority = format!("localhost:{}", origin.address.port());
    let mut stream = sealed(&pinning(&bursar), &authority, "localhost").await.unwrap();
    assert_eq!(soon(stream.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_stop_waits_for_it_as_long_as_for_other_streams() {
    let origin = patient().await;
    let mut bursar = with(
        &origin,
        "[intercept]\nnever = [\"localhost\"]\n[timeouts]\ndrain_s = 1\nsettle_wait_s = 1\n",
    );
    let authority = format!("localhost:{}", origin.address.port());
    let mut stream = sealed(&pinning(&bursar), &authority, "localhost").await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(bursar.stop(), 0);
    assert_eq!(soon(stream.read(&mut [0; 16])).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn it_counts_for_its_agent_until_it_ends() {
    let origin = patient().await;
    let bursar = with(
        &origin,
        "[intercept]\nnever = [\"localhost\"]\n[capacity]\nconnections_per_agent = 1\n",
    );
    let authority = format!("localhost:{}", origin.address.port());
    let agent = pinning(&bursar);
    let first = sealed(&agent, &authority, "localhost").await.unwrap();
    let error = sealed(&agent, &authority, "localhost").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    drop(first);
    // The site's answer has to come back first.
    eventually("the first tunnel has ended", || {
        bursar.log().contains("tunnel ended").then_some(())
    })
    .await;
    sealed(&agent, &authority, "localhost").await.unwrap();
}

#[tokio::test]
async fn it_counts_among_the_connections_of_its_agent() {
    let origin = patient().await;
    let bursar = with(
        &origin,
        "[intercept]\nnever = [\"localhost\"]\n[capacity]\nconnections_per_agent = 1\n[timeouts]\ndial_s = 1\n",
    );
    let authority = format!("localhost:{}", origin.address.port());
    let agent = pinning(&bursar);
    let first = sealed(&agent, &authority, "localhost").await.unwrap();
    let error = sealed(&agent, &authority, "localhost").await.unwrap_err();
    assert!(error.to_string().contains("AccessDenied"), "{error}");
    drop(first);
    sealed(&agent, &authority, "localhost").await.unwrap();
}
