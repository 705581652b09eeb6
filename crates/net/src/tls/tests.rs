//! Our certificates against independent verifiers.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;

use super::authority::{Authority, AuthorityError};
use super::leaf::{Leaves, ServerConfigs};
use super::validity::Validity;
use super::*;
use bursar_core::clock::ManualClock;
use bursar_core::host::Host;
use bursar_home::{self as home, Home, HomeError, Readers};

mod handshakes;
mod pinned;
mod words;

const DAY: Duration = Duration::from_secs(86_400);

struct Fixture {
    _folder: tempfile::TempDir,
    home: Home,
    clock: Arc<ManualClock>,
    leaves: Arc<Leaves>,
    configs: ServerConfigs,
}

impl Fixture {
    fn at(now: Timestamp) -> Self {
        let (folder, home) = empty_home();
        let clock = Arc::new(ManualClock::at(now));
        let authority = Authority::create(&home, now).unwrap();
        let leaves = Arc::new(Leaves::new(authority, clock.clone()).unwrap());
        Self {
            _folder: folder,
            home,
            clock,
            configs: ServerConfigs::new(leaves.clone()).unwrap(),
            leaves,
        }
    }

    fn now() -> Self {
        Self::at(Timestamp::now())
    }

    fn leaf(&self, name: &str) -> CertificateDer<'static> {
        self.leaves.for_host(&host(name)).unwrap().cert[0].clone()
    }
}

fn empty_home() -> (tempfile::TempDir, Home) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path()).unwrap();
    home.create().unwrap();
    (folder, home)
}

fn host(name: &str) -> Host {
    Host::parse(name).unwrap()
}

#[test]
fn openssl_verifies_our_leaves_strictly() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: openssl is not installed");
        return;
    }
    let fixture = Fixture::now();
    for (name, option) in [
        ("api.example.com", "-verify_hostname"),
        ("under_score.example", "-verify_hostname"),
        ("192.0.2.7", "-verify_ip"),
        ("2001:db8::7", "-verify_ip"),
    ] {
        let leaf = fixture.home.root().join("leaf.der");
        fs::write(&leaf, fixture.leaf(name)).unwrap();
        let verify = |expected: &str| {
            Command::new("openssl")
                .args([
                    "verify",
                    "-x509_strict",
                    "-purpose",
                    "sslserver",
                    option,
                    expected,
                    "-CAfile",
                ])
                .args([fixture.home.ca_certificate(), leaf.clone()])
                .output()
                .unwrap()
        };
        let verified = verify(name);
        assert!(
            verified.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&verified.stderr)
        );
        let other = if option == "-verify_ip" {
            "192.0.2.8"
        } else {
            "other.example"
        };
        assert!(!verify(other).status.success(), "{name} must not pass for {other}");
    }
    let shown = Command::new("openssl")
        .args(["x509", "-noout", "-text", "-fingerprint", "-sha256", "-in"])
        .arg(fixture.home.ca_certificate())
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&fixture.leaves.authority().fingerprint()), "{shown}");
    for expected in [
        "CA:TRUE, pathlen:0",
        "Certificate Sign",
        "Subject Key Identifier",
        "bursar CA ",
    ] {
        assert!(shown.contains(expected), "{expected} is missing in {shown}");
    }
}

#[test]
fn leaves_are_shared_until_their_last_day() {
    let start: Timestamp = "2026-11-20T10:45:00Z".parse().unwrap();
    let fixture = Fixture::at(start);
    let first = fixture.leaf("Example.COM");
    let validity = Validity::of(&first).unwrap();
    assert_eq!(
        (validity.not_before, validity.not_after),
        (start - DAY, start + 6 * DAY)
    );
    fixture.clock.set(start + 5 * DAY - Duration::from_secs(1));
    assert_eq!(fixture.leaf("example.com."), first);
    fixture.clock.set(start + 5 * DAY);
    let second = fixture.leaf("example.com");
    assert_ne!(second, first);
    assert_eq!(Validity::of(&second).unwrap().not_after, start + 11 * DAY);
    // Set back: the certificate in the cache is not valid yet.
    fixture.clock.set(start);
    assert_eq!(
        Validity::of(&fixture.leaf("example.com")).unwrap().not_before,
        start - DAY
    );
    // Never later than the authority's own end.
    fixture.clock.set(start + 363 * DAY);
    assert_eq!(
        Validity::of(&fixture.leaf("example.com")).unwrap().not_after,
        start + 365 * DAY
    );
}

#[test]
fn one_certificate_per_name_under_races_and_one_key_for_all() {
    let fixture = Fixture::now();
    let leaves: HashSet<Vec<u8>> = std::thread::scope(|scope| {
        let visits: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| fixture.leaf("busy.example").to_vec()))
            .collect();
        visits.into_iter().map(|visit| visit.join().unwrap()).collect()
    });
    assert_eq!(leaves.len(), 1);
    let authority_key = fs::read_to_string(fixture.home.ca_key()).unwrap();
    let authority_key = rcgen::KeyPair::from_pem(&authority_key).unwrap();
    let leaf = fixture.leaf("busy.example");
    let public = authority_key.public_key_raw();
    assert!(
        !leaf.windows(public.len()).any(|window| window == public),
        "the CA's key must not be used for leaves"
    );
}

#[test]
fn an_authority_lives_a_year_and_warns_in_its_last_month() {
    let (_folder, home) = empty_home();
    let start: Timestamp = "2026-11-20T10:45:00.5Z".parse().unwrap();
    let authority = Authority::create(&home, start).unwrap();
    let whole: Timestamp = "2026-11-20T10:45:00Z".parse().unwrap();
    assert_eq!(authority.not_before(), whole - DAY);
    assert_eq!(authority.not_after(), whole + 365 * DAY);
    assert!(!authority.expires_soon(start + 334 * DAY));
    assert!(authority.expires_soon(start + 335 * DAY));
    assert_eq!(fs::metadata(home.ca_key()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::metadata(home.ca_certificate()).unwrap().permissions().mode() & 0o777,
        0o644
    );
    Authority::load(&home, start + 364 * DAY).unwrap();
    let said = Authority::load(&home, start + 365 * DAY).err().unwrap().to_string();
    assert!(
        said.contains("bursar ca rotate") && said.contains("2027-11-20"),
        "{said}"
    );
    assert!(matches!(
        Authority::create(&home, start),
        Err(AuthorityError::Home(HomeError::Exists { .. }))
    ));
}

#[test]
fn a_pair_that_does_not_match_or_was_exposed_is_refused() {
    let ((_one, ours), (_two, theirs)) = (empty_home(), empty_home());
    let now = Timestamp::now();
    Authority::create(&ours, now).unwrap();
    Authority::create(&theirs, now).unwrap();
    let own = fs::read(ours.ca_certificate()).unwrap();
    fs::copy(theirs.ca_certificate(), ours.ca_certificate()).unwrap();
    assert!(matches!(
        Authority::load(&ours, now),
        Err(AuthorityError::Mismatch { .. })
    ));
    fs::write(ours.ca_certificate(), "no certificate").unwrap();
    assert!(matches!(
        Authority::load(&ours, now),
        Err(AuthorityError::Unusable { .. })
    ));
    fs::write(ours.ca_certificate(), own).unwrap();
    Authority::load(&ours, now).unwrap();

    fs::set_permissions(ours.ca_key(), fs::Permissions::from_mode(0o644)).unwrap();
    let said = Authority::load(&ours, now).err().unwrap().to_string();
    assert!(
        said.contains(&format!("chmod 600 {}", ours.ca_key().display())),
        "{said}"
    );
}

#[test]
fn rotation_keeps_the_old_files_and_repairs_a_broken_pair() {
    let (_folder, home) = empty_home();
    let now: Timestamp = "2026-11-20T10:45:00Z".parse().unwrap();
    let old = Authority::create(&home, now).unwrap();
    let files = [home.ca_key(), home.ca_certificate()].map(|path| fs::read(path).unwrap());
    home::write_atomic(&home.ca_certificate(), b"damaged", Readers::Everyone).unwrap();
    let new = Authority::rotate(&home, now).unwrap();
    assert_ne!(new.fingerprint(), old.fingerprint());
    let backup = |kind| fs::read(home.root().join(format!("ca-20261120T104500Z.{kind}.old"))).unwrap();
    assert_eq!(backup("key"), files[0]);
    assert_eq!(backup("pem"), b"damaged");
    let bundle = fs::read_to_string(home.bundle()).unwrap();
    assert!(bundle.starts_with(&fs::read_to_string(home.ca_certificate()).unwrap()));
}

#[test]
fn the_bundle_is_public_roots_and_ours() {
    let fixture = Fixture::now();
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS;
    use rustls::pki_types::pem::PemObject;
    let bundle: Vec<_> = CertificateDer::pem_file_iter(fixture.home.bundle())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(&bundle[0], fixture.leaves.authority().certificate());
    assert_eq!(&bundle[1..], roots);
}
