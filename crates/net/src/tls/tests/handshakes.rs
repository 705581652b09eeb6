//! Both sides of a tunnel against each other.

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, client, server};

use super::super::upstream::{CertificateFault, HandshakeError, PublicRoots, Trust, TrustError, UpstreamTls};
use super::*;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl Fixture {
    fn client(&self) -> UpstreamTls {
        let trust = Trust {
            extra_ca: vec![self.home.ca_certificate()],
            roots: PublicRoots::Bundled,
        };
        UpstreamTls::new(&trust, PATIENCE).unwrap()
    }
}

type Ends = (client::TlsStream<DuplexStream>, Alpn, server::TlsStream<DuplexStream>);

async fn handshake(
    client: &UpstreamTls,
    name: &str,
    offer: AlpnOffer,
    server: Arc<rustls::ServerConfig>,
) -> Result<Ends, HandshakeError> {
    let (near, far) = tokio::io::duplex(16 << 10);
    let name = host(name);
    let (connected, accepted) = tokio::join!(
        client.connect(near, &name, offer),
        TlsAcceptor::from(server).accept(far)
    );
    let (connected, alpn) = connected?;
    Ok((connected, alpn, accepted.unwrap()))
}

async fn fault(client: &UpstreamTls, name: &str, server: Arc<rustls::ServerConfig>) -> CertificateFault {
    let (near, far) = tokio::io::duplex(16 << 10);
    let name = host(name);
    let (connected, _) = tokio::join!(
        client.connect(near, &name, AlpnOffer::Nothing),
        TlsAcceptor::from(server).accept(far)
    );
    match connected.map(|_| ()) {
        Err(HandshakeError::Certificate(fault)) => fault,
        other => panic!("no certificate fault: {other:?}"),
    }
}

#[tokio::test]
async fn names_and_addresses_verify_and_the_protocol_is_the_origins() {
    let fixture = Fixture::now();
    let client = fixture.client();
    for (offer, server, expected) in [
        (AlpnOffer::Nothing, Alpn::Absent, Alpn::Absent),
        (AlpnOffer::Http2ThenHttp1, Alpn::Absent, Alpn::Absent),
        (AlpnOffer::Http2ThenHttp1, Alpn::Http1, Alpn::Http1),
        (AlpnOffer::Http1ThenHttp2, Alpn::Http2, Alpn::Http2),
        (AlpnOffer::Http2, Alpn::Http2, Alpn::Http2),
        (AlpnOffer::Nothing, Alpn::Http1, Alpn::Absent),
    ] {
        let config = fixture.configs.by_sni(server);
        let (mut near, alpn, mut far) = handshake(&client, "api.example", offer, config).await.unwrap();
        assert_eq!(alpn, expected, "{offer:?} {server:?}");
        near.write_all(b"ping").await.unwrap();
        near.flush().await.unwrap();
        let mut read = [0; 4];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
    }
    for address in ["127.0.0.1", "2001:db8::1"] {
        let config = fixture.configs.for_host(&host(address), Alpn::Http1).unwrap();
        handshake(&client, address, AlpnOffer::Http1, config).await.unwrap();
    }
}

#[tokio::test]
async fn certificate_faults_are_distinguished() {
    let fixture = Fixture::now();
    let (client, of) = (fixture.client(), |name| {
        fixture.configs.for_host(&host(name), Alpn::Absent).unwrap()
    });
    let names = |names: &[&str]| CertificateFault::WrongName(names.iter().map(|name| (*name).to_owned()).collect());
    for (wanted, has) in [
        ("b.example", "a.example"),
        ("127.0.0.1", "127.0.0.2"),
        ("127.0.0.1", "localhost"),
        ("2001:db8::1", "2001:db8::2"),
    ] {
        assert_eq!(fault(&client, wanted, of(has)).await, names(&[has]));
    }

    let stranger = UpstreamTls::new(&Trust::default(), PATIENCE).unwrap();
    assert_eq!(
        fault(&stranger, "a.example", of("a.example")).await,
        CertificateFault::UnknownIssuer
    );

    for days in [-60, 60] {
        let other = Fixture::at(Timestamp::now() + jiff::SignedDuration::from_hours(days * 24));
        let config = other.configs.by_sni(Alpn::Absent);
        let validity = Validity::of(&other.leaf("a.example")).unwrap();
        let (expected, text) = match days {
            ..0 => (CertificateFault::Expired(Some(validity.not_after)), "it expired on 20"),
            _ => (
                CertificateFault::NotYetValid(Some(validity.not_before)),
                "it is not valid before 20",
            ),
        };
        let fault = fault(&other.client(), "a.example", config).await;
        assert_eq!(fault, expected);
        assert!(fault.to_string().starts_with(text), "{fault}");
    }
}

#[tokio::test]
async fn what_is_not_tls_is_no_certificate_fault() {
    let fixture = Fixture::now();
    let (near, mut far) = tokio::io::duplex(16 << 10);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    let outcome = fixture
        .client()
        .connect(near, &host("a.example"), AlpnOffer::Http1)
        .await;
    assert!(matches!(outcome, Err(HandshakeError::NotTls)));
    let (near, far) = tokio::io::duplex(16 << 10);
    drop(far);
    let outcome = fixture
        .client()
        .connect(near, &host("a.example"), AlpnOffer::Http1)
        .await;
    assert!(matches!(outcome, Err(HandshakeError::Io(_))));
    let (near, far) = tokio::io::duplex(16 << 10);
    let config = fixture.configs.by_sni(Alpn::Http2);
    let name = host("a.example");
    let client = fixture.client();
    let (outcome, _) = tokio::join!(
        client.connect(near, &name, AlpnOffer::Http1),
        TlsAcceptor::from(config).accept(far)
    );
    assert!(matches!(outcome, Err(HandshakeError::NoProtocol)));
}

#[tokio::test]
async fn sessions_are_resumed_by_name_and_never_without_one() {
    let fixture = Fixture::now();
    let client = fixture.client();
    let mut kinds = Vec::new();
    for name in ["a.example", "a.example", "b.example", "127.0.0.1", "127.0.0.1"] {
        let config = match host(name).ip() {
            None => fixture.configs.by_sni(Alpn::Http1),
            Some(_) => fixture.configs.for_host(&host(name), Alpn::Http1).unwrap(),
        };
        let (mut near, _, mut far) = handshake(&client, name, AlpnOffer::Http1, config).await.unwrap();
        // Tickets follow the handshake: read past them.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        kinds.push(near.get_ref().1.handshake_kind().unwrap());
    }
    use HandshakeKind::*;
    assert_eq!(kinds, [Full, Resumed, Full, Full, Full]);
}

#[tokio::test]
async fn sessions_are_not_resumed_by_others_with_the_same_trust() {
    let fixture = Fixture::now();
    let client = fixture.client();
    let (one, other) = (client.apart(), client.apart());
    let mut kinds = Vec::new();
    for client in [&client, &client, &one, &other, &one, &other, &client] {
        let config = fixture.configs.by_sni(Alpn::Http1);
        let (mut near, _, mut far) = handshake(client, "a.example", AlpnOffer::Http1, config).await.unwrap();
        // Tickets follow the handshake: read past them.
        far.write_all(b"x").await.unwrap();
        far.flush().await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        kinds.push(near.get_ref().1.handshake_kind().unwrap());
    }
    use HandshakeKind::*;
    assert_eq!(kinds, [Full, Resumed, Full, Full, Resumed, Resumed, Resumed]);
}

#[test]
fn extra_trust_must_be_readable_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("extra.pem");
    let new = || {
        let trust = Trust {
            extra_ca: vec![path.clone()],
            roots: PublicRoots::Bundled,
        };
        UpstreamTls::new(&trust, PATIENCE)
    };
    assert!(matches!(new(), Err(TrustError::ExtraCa { .. })));
    for text in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(new(), Err(TrustError::ExtraCa { .. })), "{text:?}");
    }
}

#[test]
fn offers_are_cut_to_what_we_read_in_the_clients_order() {
    for (client, offer) in [
        (&[][..], AlpnOffer::Nothing),
        (&["http/1.0", "acme-tls/1"], AlpnOffer::Nothing),
        (&["http/1.1"], AlpnOffer::Http1),
        (&["h2"], AlpnOffer::Http2),
        (&["h3", "h2", "x", "http/1.1", "h2"], AlpnOffer::Http2ThenHttp1),
        (&["http/1.1", "h2"], AlpnOffer::Http1ThenHttp2),
    ] {
        assert_eq!(
            AlpnOffer::of_client(client.iter().map(|id| id.as_bytes())),
            offer,
            "{client:?}"
        );
    }
    let upstream = UpstreamTls::new(&Trust::default(), PATIENCE).unwrap();
    for offer in AlpnOffer::ALL {
        assert_eq!(upstream.config(offer).alpn_protocols, offer.identifiers(), "{offer:?}");
    }
}

#[tokio::test]
async fn an_agent_gets_the_suite_that_the_processor_does_for_us() {
    let fixture = Fixture::now();
    let config = fixture.configs.by_sni(Alpn::Http1);
    assert_eq!(config.send_tls13_tickets, 1);

    // An agent that lists the dearest suite first.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(fixture.leaves.authority().certificate().clone()).unwrap();
    let agent = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(16 << 10);
    let name = rustls::pki_types::ServerName::try_from("api.example").unwrap();
    let (connected, accepted) = tokio::join!(
        tokio_rustls::TlsConnector::from(Arc::new(agent)).connect(name, near),
        TlsAcceptor::from(config).accept(far)
    );
    let suite = |connection: &rustls::CommonState| connection.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(
        suite(accepted.unwrap().get_ref().1),
        CipherSuite::TLS13_AES_128_GCM_SHA256
    );
    drop(connected);
}
