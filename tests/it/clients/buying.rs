//! curl, wget, git, Node and Python buy from sellers that are third-party programs too.

use serde_json::Value;

use super::{found, python, ran, run, shop, text};
use crate::support::bursar::setup;
use crate::support::buyer::{Buyer, buyer, lab, skip};
use crate::support::lab::{Lab, interop};
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const FUNDS: u128 = 1_000_000;
const CENT: u128 = 10_000;

/// Both protocol versions, one cent each.
fn assert_two_cents_moved(buyer: &Buyer, lab: &Lab) {
    let moved = buyer.transfers();
    assert_eq!(moved.len(), 2, "{moved:?}");
    for transfer in &moved {
        assert_eq!(
            (transfer.to.as_str(), transfer.atoms),
            (lab.pay_to.to_lowercase().as_str(), CENT)
        );
    }
    assert_eq!(buyer.balance(), FUNDS - 2 * CENT);
    assert_eq!(buyer.bursar.states(), ["settled", "settled"]);
}

fn shops(lab: &Lab) -> [String; 2] {
    [format!("{}/paid", lab.v2), format!("{}/v1/paid", lab.v1)]
}

/// Runs an agent from `tests/interop/agents`, which prints what it got.
fn agents_buy(agent: &[&str]) {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    for url in shops(lab) {
        let mut client = agent.to_vec();
        client.push(&url);
        let page: Value = serde_json::from_slice(&ran(run(buyer.bursar.path(), &client)).stdout).unwrap();
        assert_eq!(page["status"], 200, "{page}");
        assert!(page["body"].as_str().unwrap().contains("\"paid\":true"), "{page}");
        assert!(page["headers"]["bursar-payment"].is_string(), "{page}");
    }
    assert_two_cents_moved(&buyer, lab);
}

#[test]
fn curl_buys() {
    let Some(lab) = lab() else { return };
    if !found("curl") {
        return skip("curl is not installed");
    }
    for version in ["--http1.1", "--http2"] {
        let buyer = buyer(lab, FUNDS);
        for url in shops(lab) {
            let page = ran(run(buyer.bursar.path(), &["curl", "-q", "-sSf", version, &url]));
            assert!(text(&page.stdout).contains("\"paid\":true"), "{page:?}");
        }
        assert_two_cents_moved(&buyer, lab);
    }
}

#[tokio::test]
async fn curl_buys_over_h2_where_the_site_speaks_it() {
    if !found("curl") {
        return skip("curl is not installed");
    }
    let origin = shop().await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let url = origin.url("/goods");
    let asked = run(
        bursar.path(),
        &[
            "curl",
            "-q",
            "-sS",
            "--http2",
            "-w",
            " %{http_version} %{http_code}",
            &url,
        ],
    );
    let page = tokio::task::spawn_blocking(move || ran(asked)).await.unwrap();
    assert_eq!(text(&page.stdout), "goods 2 200");
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(origin.seen()[1].version, http::Version::HTTP_2);
}

#[test]
fn node_fetch_buys() {
    let Some(lab) = lab() else { return };
    let agent = interop().join("agents/fetch.mjs");
    agents_buy(&[lab.node.to_str().unwrap(), agent.to_str().unwrap()]);
}

/// Whatever Node is on the PATH: Node 20 needs `NODE_OPTIONS`.
#[test]
fn the_machines_own_node_buys() {
    if !found("node") {
        return skip("node is not installed");
    }
    let agent = interop().join("agents/fetch.mjs");
    agents_buy(&["node", agent.to_str().unwrap()]);
}

#[test]
fn python_requests_buys() {
    let Some(python) = python("requests") else { return };
    let agent = interop().join("agents/requests_get.py");
    agents_buy(&[&python, agent.to_str().unwrap()]);
}

/// wget has no variable for root certificates, so they are passed as an option, as its users do.
#[test]
fn wget_buys() {
    let Some(lab) = lab() else { return };
    if !found("wget") {
        return eprintln!("skipped: wget is not installed");
    }
    let buyer = buyer(lab, FUNDS);
    for url in shops(lab) {
        let script = format!("exec wget --no-config -q -O - --ca-certificate=\"$SSL_CERT_FILE\" {url}");
        let page = ran(run(buyer.bursar.path(), &["sh", "-c", &script]));
        assert!(text(&page.stdout).contains("\"paid\":true"), "{page:?}");
    }
    assert_two_cents_moved(&buyer, lab);
}

#[tokio::test]
async fn git_buys() {
    if !found("git") {
        return eprintln!("skipped: git is not installed");
    }
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    // The "dumb" protocol: the list of refs is a file.
    let origin = Origin::https(|request| async move {
        match (request.target.split('?').next(), request.is_paid()) {
            (Some("/repository.git/info/refs"), false) => seller::asks("10000"),
            (Some("/repository.git/info/refs"), true) => answer(
                200,
                &[
                    ("payment-response", &seller::receipt(true, seller::TX)),
                    ("content-type", "text/plain"),
                ],
                format!("{COMMIT}\trefs/heads/main\n"),
            ),
            _ => answer(200, &[("content-type", "text/plain")], "ref: refs/heads/main\n"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let url = origin.url("/repository.git");
    let mut asked = run(bursar.path(), &["git", "ls-remote", &url, "refs/heads/main"]);
    asked
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    asked.env("GIT_TERMINAL_PROMPT", "0");
    let listed = tokio::task::spawn_blocking(move || ran(asked)).await.unwrap();
    assert_eq!(text(&listed.stdout), format!("{COMMIT}\trefs/heads/main\n"));
    assert_eq!(bursar.states(), ["settled"]);
}
