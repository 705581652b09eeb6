//! Sites that cannot be verified or reached: nothing is sent, nothing is paid, and the agent can read why.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Request;
use http_body_util::Full;
use tokio::net::TcpListener;

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, bin, setup};
use crate::support::origin::{Certificate, Origin, Speaks, certificate};
use crate::support::seller;
use crate::support::wire::{Wire, soon};

async fn selling(certificate: Certificate) -> Origin {
    Origin::start(Speaks::H1AndH2, certificate, |request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await
}

/// The answer inside the tunnel, over both HTTP versions.
async fn refused(bursar: &Bursar, site: std::net::SocketAddr, status: u16, code: &str) -> String {
    let mut detail = String::new();
    for offer in [&["http/1.1"][..], &["h2", "http/1.1"], &[]] {
        let mut connection = Agent::of(bursar).connect(site, offer).await;
        let page = soon(connection.send(site, Request::get("/").body(Full::default()).unwrap()))
            .await
            .unwrap();
        assert_eq!((page.status.as_u16(), page.problem().as_str()), (status, code));
        assert!(page.header("proxy-status").unwrap().starts_with("bursar; error="));
        detail = page.json()["detail"].as_str().unwrap().to_owned();
    }
    assert_eq!(bursar.payments().len(), 0);
    detail
}

#[tokio::test]
async fn an_expired_certificate() {
    let origin = selling(certificate(&["localhost"], |leaf| {
        leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2020, 2, 1);
    }))
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let detail = refused(&bursar, origin.address, 502, "upstream-certificate").await;
    assert!(detail.contains("it expired on 2020-02-01T00:00:00Z"), "{detail}");
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let origin = selling(certificate(&["other.example"], |_| {})).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let detail = refused(&bursar, origin.address, 502, "upstream-certificate").await;
    assert!(
        detail.contains("for other names than this host: other.example"),
        "{detail}"
    );
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for() {
    let origin = selling(certificate(&["localhost"], |_| {})).await;
    let bursar = setup().start();
    let detail = refused(&bursar, origin.address, 502, "upstream-certificate").await;
    assert!(
        detail.contains("unknown issuer") && detail.contains("`extra_ca`"),
        "{detail}"
    );
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn a_site_without_tls_where_tls_was_asked_for() {
    let origin = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), |_| async {
        seller::asks("10000")
    })
    .await;
    let bursar = setup().start();
    let detail = refused(&bursar, origin.address, 502, "upstream-broken").await;
    assert!(
        detail.contains("does not speak TLS on this port") && detail.contains("http://"),
        "{detail}"
    );
    assert_eq!(origin.seen().len(), 0);
}

#[tokio::test]
async fn a_port_that_refuses() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let bursar = setup().start();
    refused(&bursar, free, 502, "upstream-unreachable").await;
}

#[tokio::test]
async fn a_name_that_does_not_exist() {
    let bursar = setup().config("[timeouts]\ndns_s = 2\n").start();
    let mut wire = Wire::new(Agent::of(&bursar).tunnel("no-such-host.invalid:80").await);
    wire.say("GET / HTTP/1.1\r\nHost: no-such-host.invalid:80\r\n\r\n")
        .await;
    let page = wire.answer().await.unwrap();
    // On a machine without a resolver there is no answer at all.
    assert!(
        matches!(
            (page.status(), page.problem().as_str()),
            (502, "upstream-name") | (504, "upstream-timeout")
        ),
        "{page:?}"
    );
}

#[tokio::test]
async fn a_site_that_never_shakes_hands() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bursar = setup().config("[timeouts]\ntls_s = 1\n").start();
    refused(&bursar, silent.local_addr().unwrap(), 504, "upstream-timeout").await;
}

#[tokio::test]
async fn a_site_that_leaves_during_the_handshake() {
    use tokio::io::AsyncReadExt;

    for (reset, said) in [(false, "the site closed it"), (true, "the site reset it")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let site = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A socket that is closed with bytes unread is reset.
                let mut read = [0; 5];
                stream.read_exact(&mut read).await.unwrap();
                if !reset {
                    let mut rest = [0; 8192];
                    while let Ok(Ok(1..)) = tokio::time::timeout(QUIET, stream.read(&mut rest)).await {}
                }
            }
        });
        let bursar = setup().start();
        let detail = refused(&bursar, address, 502, "upstream-broken").await;
        assert!(detail.contains(said), "{detail}");
        site.abort();
    }
}

/// After this long the whole hello has come.
const QUIET: std::time::Duration = std::time::Duration::from_millis(300);

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet() {
    let origin = selling(certificate(&["localhost"], |leaf| {
        leaf.not_before = rcgen::date_time_ymd(2090, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2091, 1, 1);
    }))
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let detail = refused(&bursar, origin.address, 502, "upstream-certificate").await;
    assert!(detail.contains("not valid before 2090-01-01T00:00:00Z"), "{detail}");
}

#[tokio::test]
async fn a_site_that_never_answers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let origin = Origin::raw(move |stream, _| {
        let asked = counting.clone();
        async move {
            let mut wire = Wire::new(stream);
            while wire.request().await.is_some() {
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }
    })
    .await;
    let bursar = setup()
        .trust(&origin.ca_pem)
        .config("[timeouts]\nresponse_head_s = 1\n")
        .start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (504, "upstream-timeout")
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1, "not asked twice");
}

#[tokio::test]
async fn a_site_that_goes_away_before_it_answers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    let origin = Origin::raw(move |stream, _| {
        let asked = counting.clone();
        async move {
            Wire::new(stream).request().await;
            asked.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).request(origin.address, Request::post("/")).await;
    assert_eq!(
        (page.status.as_u16(), page.problem().as_str()),
        (502, "upstream-broken")
    );
    assert_eq!(asked.load(Ordering::Relaxed), 1, "a POST is not sent twice");
}

#[tokio::test]
async fn with_system_roots_the_machines_roots_and_no_others_decide() {
    let known = selling(certificate(&["localhost"], |_| {})).await;
    let home = setup().upstream("system_roots = true\n").home();
    let roots = home.path().join("machine-roots.pem");
    std::fs::write(&roots, &known.ca_pem).unwrap();
    let mut program = std::process::Command::new(bin());
    program.env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
    let bursar = home.serve_by(program);
    let stranger = selling(certificate(&["localhost"], |_| {})).await;
    refused(&bursar, stranger.address, 502, "upstream-certificate").await;
    assert!(stranger.seen().is_empty());

    let page = Agent::of(&bursar).get(known.address, "/").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
}
