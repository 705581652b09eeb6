//! Certificates that the operator has named are accepted as they are, and nothing else with them.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::super::site::{Identity, SiteTrust};
use super::super::upstream::{CertificateFault, HandshakeError, PublicRoots, Trust, TrustError, UpstreamTls};
use super::*;
use bursar_core::policy::HostPattern;

const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate and its key.
struct Made {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

fn self_signed(names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Made {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "a.example");
    edit(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    let (pem, der) = (certificate.pem(), certificate.der().clone());
    Made { pem, der, key }
}

impl Made {
    fn server(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

/// Trusts the public roots and what is in these PEM texts.
fn trusting(pem: &str) -> UpstreamTls {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("extra.pem");
    fs::write(&path, pem).unwrap();
    let trust = Trust {
        extra_ca: vec![path],
        roots: PublicRoots::Bundled,
    };
    UpstreamTls::new(&trust, PATIENCE).unwrap()
}

/// With a section for the hosts whose certificates these are.
fn in_a_section(hosts: &str, pem: &str) -> UpstreamTls {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.pem");
    fs::write(&path, pem).unwrap();
    let section = SiteTrust {
        hosts: HostPattern::parse(hosts).unwrap(),
        ca: Some(path),
        identity: None,
    };
    let trust = Trust::default();
    let base = UpstreamTls::new(&trust, PATIENCE).unwrap();
    base.with_sites(&trust, &[section]).unwrap()
}

async fn outcome(client: &UpstreamTls, name: &str, server: Arc<ServerConfig>) -> Result<(), HandshakeError> {
    let (near, far) = tokio::io::duplex(16 << 10);
    let name = host(name);
    let (connected, _) = tokio::join!(
        client.connect(near, &name, AlpnOffer::Nothing),
        TlsAcceptor::from(server).accept(far)
    );
    connected.map(|_| ())
}

async fn fault(client: &UpstreamTls, name: &str, server: Arc<ServerConfig>) -> CertificateFault {
    match outcome(client, name, server).await {
        Err(HandshakeError::Certificate(fault)) => fault,
        other => panic!("no certificate fault: {other:?}"),
    }
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn a_self_signed_site_is_accepted_if_it_is_named() {
    for is_ca in [
        IsCa::NoCa,
        IsCa::ExplicitNoCa,
        IsCa::Ca(BasicConstraints::Unconstrained),
    ] {
        let site = self_signed(&["a.example"], |params| params.is_ca = is_ca);
        let client = trusting(&site.pem);
        for version in BOTH {
            outcome(&client, "a.example", site.server(&[version])).await.unwrap();
        }
        assert_eq!(
            fault(&client, "b.example", site.server(BOTH)).await,
            CertificateFault::WrongName(vec!["a.example".to_owned()])
        );
        let stranger = UpstreamTls::new(&Trust::default(), PATIENCE).unwrap();
        let refused = fault(&stranger, "a.example", site.server(BOTH)).await;
        assert!(
            matches!(
                refused,
                CertificateFault::UnknownIssuer | CertificateFault::AuthoritysOwn
            ),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_named_certificate_without_names_is_accepted_for_the_host_of_its_section() {
    let site = self_signed(&[], |_| {});
    for name in ["a.example", "127.0.0.1"] {
        outcome(&in_a_section(name, &site.pem), name, site.server(BOTH))
            .await
            .unwrap();
        // Its key could stand for every site otherwise.
        fault(&trusting(&site.pem), name, site.server(BOTH)).await;
    }
}

#[tokio::test]
async fn its_time_counts() {
    let old = self_signed(&["a.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    });
    let expired = fault(&trusting(&old.pem), "a.example", old.server(BOTH)).await;
    assert_eq!(expired.to_string(), "it expired on 2020-02-01T00:00:00Z");
    let early = self_signed(&["a.example"], |params| {
        params.not_before = rcgen::date_time_ymd(2090, 1, 1);
        params.not_after = rcgen::date_time_ymd(2091, 1, 1);
    });
    let early = fault(&trusting(&early.pem), "a.example", early.server(BOTH)).await;
    assert_eq!(early.to_string(), "it is not valid before 2090-01-01T00:00:00Z");
}

#[tokio::test]
async fn another_key_under_the_same_name_is_refused() {
    let (site, other) = (self_signed(&["a.example"], |_| {}), self_signed(&["a.example"], |_| {}));
    assert_eq!(
        fault(&trusting(&site.pem), "a.example", other.server(BOTH)).await,
        CertificateFault::UnknownIssuer
    );
    // The right certificate without its key: the signature of the handshake is still verified.
    let forged = Made { key: other.key, ..site };
    for version in BOTH {
        // rustls checks a server's own pair, so it is made past that check.
        let key = provider()
            .key_provider
            .load_private_key(PrivateKeyDer::from(PrivatePkcs8KeyDer::from(
                forged.key.serialize_der(),
            )))
            .unwrap();
        let pair = rustls::sign::CertifiedKey::new(vec![forged.der.clone()], key);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
        let refused = fault(&trusting(&forged.pem), "a.example", Arc::new(config)).await;
        assert_eq!(refused, CertificateFault::BadSignature);
    }
}

#[tokio::test]
async fn the_key_of_a_named_site_signs_for_no_other() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let site = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let bank_key = KeyPair::generate().unwrap();
    let bank = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    let bank = bank.signed_by(&bank_key, &issuer).unwrap();
    let bank = Made {
        pem: bank.pem(),
        der: bank.der().clone(),
        key: bank_key,
    };
    assert_eq!(
        fault(&trusting(&site.pem()), "bank.example", bank.server(BOTH)).await,
        CertificateFault::UnknownIssuer
    );
}

/// Runs openssl in `folder`.
fn openssl(folder: &std::path::Path, command: &str) {
    let ran = Command::new("openssl")
        .args(command.split(' '))
        .current_dir(folder)
        .output();
    let ran = ran.unwrap();
    assert!(
        ran.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

/// A certificate of version 1, which has no extensions and which webpki does not read.
#[tokio::test]
async fn a_certificate_from_before_extensions_is_accepted_if_it_is_named() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in ["ec -pkeyopt ec_paramgen_curve:P-256", "rsa:2048"] {
        openssl(
            folder.path(),
            &format!("req -new -newkey {kind} -nodes -keyout key.pem -out csr.pem -subj /CN=old.example"),
        );
        openssl(
            folder.path(),
            "x509 -req -in csr.pem -signkey key.pem -days 30 -out cert.pem",
        );
        use rustls::pki_types::pem::PemObject;
        let pem = fs::read_to_string(folder.path().join("cert.pem")).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert!(
            rustls::server::ParsedCertificate::try_from(&der).is_err(),
            "it is of version 3"
        );
        for version in BOTH {
            let server = |key: PrivateKeyDer<'static>| {
                let key = provider().key_provider.load_private_key(key).unwrap();
                let pair = rustls::sign::CertifiedKey::new(vec![der.clone()], key);
                let config = ServerConfig::builder_with_provider(provider())
                    .with_protocol_versions(&[version])
                    .unwrap()
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)));
                Arc::new(config)
            };
            let own = PrivateKeyDer::from_pem_file(folder.path().join("key.pem")).unwrap();
            outcome(
                &in_a_section("old.example", &pem),
                "old.example",
                server(own.clone_key()),
            )
            .await
            .unwrap();
            let stranger = UpstreamTls::new(&Trust::default(), PATIENCE).unwrap();
            fault(&stranger, "old.example", server(own)).await;
            let other = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()));
            let forged = outcome(&in_a_section("old.example", &pem), "old.example", server(other)).await;
            assert!(forged.is_err(), "{kind} {version:?}");
        }
    }
}

#[tokio::test]
async fn a_section_replaces_the_roots_for_its_hosts_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let (usual, own) = (
        self_signed(&["a.example", "b.example"], |_| {}),
        self_signed(&["a.example"], |_| {}),
    );
    fs::write(&path, &own.pem).unwrap();
    let section = |hosts: &str, ca: Option<&std::path::Path>| SiteTrust {
        hosts: HostPattern::parse(hosts).unwrap(),
        ca: ca.map(std::path::Path::to_owned),
        identity: None,
    };
    let extra = folder.path().join("extra.pem");
    fs::write(&extra, &usual.pem).unwrap();
    let trust = Trust {
        extra_ca: vec![extra],
        roots: PublicRoots::Bundled,
    };
    let base = UpstreamTls::new(&trust, PATIENCE).unwrap();
    // The most exact section counts, wherever it stands.
    let sections = [section("*.example", None), section("a.example", Some(&path))];
    let client = base.with_sites(&trust, &sections).unwrap().apart();
    outcome(&client, "a.example", own.server(BOTH)).await.unwrap();
    outcome(&client, "b.example", usual.server(BOTH)).await.unwrap();
    fault(&client, "a.example", usual.server(BOTH)).await;
    fault(&client, "b.example", own.server(BOTH)).await;

    fs::write(&path, "no certificate").unwrap();
    assert!(matches!(
        base.with_sites(&trust, &sections),
        Err(TrustError::SiteCa { .. })
    ));
}

#[test]
fn a_client_certificate_and_its_key_must_be_a_pair() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("client.pem");
    let (one, other) = (self_signed(&["a"], |_| {}), self_signed(&["a"], |_| {}));
    fs::write(&path, &one.pem).unwrap();
    let identity = Identity::read(&path, &one.key.serialize_pem()).unwrap();
    assert_eq!(format!("{identity:?}"), "Identity");
    for (key, why) in [
        (other.key.serialize_pem(), "the key of another certificate"),
        (one.pem.clone(), "unencrypted private key"),
        (String::new(), "unencrypted private key"),
    ] {
        let said = Identity::read(&path, &key).unwrap_err().to_string();
        assert!(said.contains(why) && said.contains("client.pem"), "{said}");
    }
}
