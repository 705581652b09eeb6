//! `bursar ca`: the authority's expiry is announced, and it is rotated.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{DONE, NEGATIVE, USAGE, done, fails, json_lines, mode, shop, stderr, stdout};
use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::buyer::skip;

/// `ca.pem` with another expiry; clients do not check a trusted root's own signature.
fn end_ca(dir: &Path, at: jiff::Timestamp) {
    let path = dir.join("ca.pem");
    let pem = std::fs::read_to_string(&path).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let mut der = STANDARD.decode(body).unwrap();
    // Two UTCTimes, the second is notAfter (RFC 5280 §4.1.2.5).
    let times: Vec<usize> = (0..der.len() - 15)
        .filter(|&at| der[at..at + 2] == [0x17, 13] && der[at + 14] == b'Z')
        .collect();
    let end = at.strftime("%y%m%d%H%M%SZ").to_string();
    der[times[1] + 2..times[1] + 15].copy_from_slice(end.as_bytes());
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        STANDARD.encode(der)
    );
    std::fs::write(path, pem).unwrap();
}

#[tokio::test]
async fn a_ca_that_ends_is_announced_and_rotated() {
    let origin = shop().await;
    let home = setup().trust(&origin.ca_pem).home();
    let dir = home.path().to_owned();
    let shown = json_lines(&done(&dir, &["ca", "show", "--json"])).remove(0);
    assert_eq!(shown["certificate"], dir.join("ca.pem").display().to_string());
    assert!((363..=365).contains(&shown["days_left"].as_i64().unwrap()), "{shown}");
    let text = done(&dir, &["ca", "show"]);
    assert!(
        stdout(&text).contains(shown["sha256"].as_str().unwrap()) && stderr(&text).is_empty(),
        "{text:?}"
    );
    let openssl = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(dir.join("ca.pem"))
        .output();
    match openssl {
        Ok(openssl) => assert!(
            stdout(&openssl).contains(shown["sha256"].as_str().unwrap()),
            "{openssl:?}"
        ),
        Err(_) => skip("openssl is not installed"),
    }

    end_ca(&dir, jiff::Timestamp::now() + jiff::SignedDuration::from_hours(29 * 24));
    assert!(stderr(&done(&dir, &["ca", "show"])).contains("bursar ca rotate"));
    let mut bursar = home.serve();
    assert!(bursar.log().contains("the CA expires soon"), "{}", bursar.log());
    assert_eq!(bursar.stop(), DONE);

    end_ca(&dir, jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1));
    fails(&dir, &["serve"], USAGE, &["ca.pem expired on", "bursar ca rotate"]);
    fails(
        &dir,
        &["ca", "show"],
        NEGATIVE,
        &["ca.pem expired on", "bursar ca rotate"],
    );

    let old = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let rotated = done(&dir, &["ca", "rotate"]);
    assert!(stderr(&rotated).contains("Restart the server"), "{rotated:?}");
    let new = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    assert_ne!(old, new);
    let bundle = std::fs::read_to_string(dir.join("bundle.pem")).unwrap();
    assert!(bundle.starts_with(&new), "the bundle begins with our certificate");
    assert!(
        bundle.matches("BEGIN CERTIFICATE").count() > 100,
        "the public roots are still there"
    );
    assert_eq!((mode(&dir.join("ca.key")), mode(&dir.join("ca.pem"))), (0o600, 0o644));
    assert!(!stdout(&done(&dir, &["ca", "show"])).contains(shown["sha256"].as_str().unwrap()));

    let home = bursar.kill();
    std::fs::remove_file(dir.join("serve.log")).unwrap();
    let bursar = home.serve();
    assert!(!bursar.log().contains("the CA expires soon"));
    let page = Agent::of(&bursar).get(origin.address, "/paid").await;
    assert_eq!(page.status, 200, "an agent that trusts the new ca.pem");
}
