//! After a purchase, every file and the whole log are searched for secrets that must not be there.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Request;
use http_body_util::Full;

use crate::support::agent::Agent;
use crate::support::bursar::{WALLET_KEY, bin, setup};
use crate::support::mpp;
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const QUERY: &str = "canary-query-7c1f";
const COOKIE: &str = "canary-cookie-91ab";
const BEARER: &str = "canary-bearer-5d2e";
const BODY: &str = "canary-body-c0de";
const ANSWER: &str = "canary-answer-11aa";
const MERCHANT: &str = "canary-merchant-text-77";

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// The text itself, and the encodings in which a file might contain it by accident.
pub(crate) fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let mut all = vec![secret.as_bytes().to_vec(), STANDARD.encode(secret).into_bytes()];
    if let Some(digits) = secret.strip_prefix("0x") {
        let bytes = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        all.extend([
            bytes.collect(),
            digits.to_lowercase().into_bytes(),
            digits.to_uppercase().into_bytes(),
        ]);
    }
    all
}

/// `private/` holds disclosures as base64url of JSON, one per line.
fn opened(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split('"').filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let mut all: Vec<u8> = parts.flatten().collect();
    all.extend_from_slice(bytes);
    all
}

pub(crate) fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The binary with the most verbose logging, down to HTTP/2 frames.
pub(crate) fn loud() -> Command {
    let mut loudly = Command::new("sh");
    let levels = "trace,bursar=trace,h2=trace,hyper=trace,rustls=trace,sled=debug";
    loudly.args([
        "-c",
        &format!("shift 3; exec \"$0\" serve --log {levels} \"$@\""),
        bin(),
    ]);
    loudly
}

#[tokio::test]
async fn no_secret_is_left_in_a_file_or_in_the_log() {
    let origin = Origin::https(|request| async move {
        let mut challenge = seller::challenge("/", &[seller::requirement("10000")]);
        challenge["error"] = MERCHANT.into();
        challenge["resource"]["description"] = MERCHANT.into();
        match (request.is_paid(), request.target.starts_with("/never")) {
            (true, false) => seller::sold(ANSWER),
            (true, true) => answer(500, &[("x-said", MERCHANT)], MERCHANT),
            (false, _) if request.target.contains("-mpp") => {
                let asks = mpp::evm("10000").with("description", MERCHANT).with("opaque", MERCHANT);
                mpp::asks(&[asks.with("header", "Payment-Authorization")])
            }
            (false, _) => seller::v2(&challenge),
        }
    })
    .await;
    let home = setup().trust(&origin.ca_pem).home();
    let mut bursar = home.serve_by(loud());
    let agent = Agent::of(&bursar);
    let ask = |path: &str| {
        Request::post(format!("{path}?secret={QUERY}"))
            .header("cookie", format!("session={COOKIE}"))
            .header("authorization", format!("Bearer {BEARER}"))
            .body(Full::new(BODY.into()))
            .unwrap()
    };
    for (alpn, paths) in [
        ("http/1.1", ["/bought", "/never", "/bought-mpp", "/never-mpp"]),
        (
            "h2",
            ["/bought-too", "/never-either", "/bought-mpp-too", "/never-mpp-either"],
        ),
    ] {
        for path in paths {
            let mut connection = agent.connect(origin.address, &[alpn]).await;
            let page = connection.send(origin.address, ask(path)).await.unwrap();
            assert_eq!(page.status, if path.starts_with("/never") { 500 } else { 200 });
        }
    }
    let wrong = Agent::named(&bursar, "research", BEARER)
        .get_plain("http://127.0.0.1:1/")
        .await;
    assert_eq!(wrong.status, 407);
    assert_eq!(bursar.payments().len(), 8);
    let log = bursar.log();
    assert!(
        log.contains("TRACE") && log.contains("payment refused") | log.contains("paid payment="),
        "the log lacks the most verbose lines: {log}"
    );

    let token = bursar.home.token.clone();
    let login = STANDARD.encode(format!("research:{token}"));
    let mut secrets: Vec<String> = [
        WALLET_KEY, &token, &login, QUERY, COOKIE, BEARER, BODY, ANSWER, MERCHANT,
    ]
    .map(str::to_owned)
    .to_vec();
    // A credential that was paid but not delivered may be presented again, from its own folder (R7).
    let mut presentable = Vec::new();
    for request in origin.seen().iter().filter(|request| request.is_paid()) {
        let credential = request.payment().unwrap();
        let decoded = match credential.strip_prefix("Payment ") {
            Some(_) => mpp::decoded(&credential),
            None => seller::decoded(&credential),
        };
        let credential = credential.trim_start_matches("Payment ").to_owned();
        let signature = decoded["payload"]["signature"].as_str().unwrap().to_owned();
        if request.target.starts_with("/never") {
            // The bytes it encodes are inside, and can be recognised if the search starts at the right offset.
            presentable.extend([credential.clone(), signature.clone()]);
        }
        secrets.extend([credential, signature]);
    }
    assert_eq!((secrets.len(), presentable.len()), (9 + 2 * 8, 2 * 4));

    assert_eq!(bursar.stop(), 0);
    let home = bursar.kill();
    let all = files(home.path());
    let named = |name: &str| all.iter().any(|path| path.ends_with(name));
    assert!(named("serve.log") && named("agents.toml") && named("limits.toml"));
    assert!(all.iter().any(|path| path.parent().unwrap().ends_with("audit")));
    for path in &all {
        let bytes = std::fs::read(path).unwrap();
        let private = path.parent().unwrap().ends_with("private");
        let may_hold_secrets = path.parent().unwrap().ends_with("private/credentials");
        // A credential repeats the merchant's text, and must itself not be anywhere else.
        let bytes = if may_hold_secrets { bytes } else { opened(&bytes) };
        for secret in &secrets {
            if private && secret == QUERY || may_hold_secrets && presentable.contains(secret) {
                continue;
            }
            for spelling in spellings(secret) {
                assert!(!holds(&bytes, &spelling), "{} holds {secret}", path.display());
            }
        }
    }
    // Proof that the search works: it finds what may be there.
    let private: Vec<u8> = all
        .iter()
        .filter(|path| path.parent().unwrap().ends_with("private"))
        .flat_map(|path| opened(&std::fs::read(path).unwrap()))
        .collect();
    assert!(holds(&private, QUERY.as_bytes()));
}

#[tokio::test]
async fn files_with_secrets_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let origin = Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let of_others = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o077;
    for folder in ["audit", "private", "run"] {
        assert_eq!(of_others(&bursar.path().join(folder)), 0, "{folder}");
    }
    for file in [
        "agents.toml",
        "ca.key",
        "log.key",
        "lock",
        "run/admin.sock",
        "run/listen",
    ] {
        assert_eq!(of_others(&bursar.path().join(file)), 0, "{file}");
    }
    for folder in ["audit", "private"] {
        for file in files(&bursar.path().join(folder)) {
            assert_eq!(of_others(&file), 0, "{}", file.display());
        }
    }
}
