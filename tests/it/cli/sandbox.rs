//! `bursar sandbox` and `bursar demo`, as a new user runs them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{DONE, Ended, json_lines, mode, stderr, stdout};
use crate::support::agent::Agent;
use crate::support::bursar::{bin, setup};
use crate::support::buyer::{site, skip};

/// With the configuration that it prints.
#[tokio::test]
async fn a_sandbox_sells_over_both_protocols_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("seller.pem");
    let mut command = Command::new(bin());
    command
        .args(["sandbox", "--listen", "127.0.0.1:0", "--ca-out"])
        .arg(&ca);
    let mut sandbox = Ended(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(sandbox.0.stdout.take().unwrap()).lines();
    let url = lines
        .next()
        .unwrap()
        .unwrap()
        .strip_prefix("selling on ")
        .unwrap()
        .to_owned();
    assert_eq!(mode(&ca), 0o644);

    let mut curl = Command::new("curl");
    curl.args(["-q", "-sS", "--noproxy", "*", "-w", " %{http_code}", "--cacert"])
        .arg(&ca);
    match curl.arg(format!("{url}/v2/quote")).output() {
        Ok(answer) => assert!(stdout(&answer).ends_with(" 402"), "{answer:?}"),
        Err(_) => skip("curl is not installed"),
    }

    let mut said = Vec::new();
    // Kept to the end, because the log goes there as well.
    let mut errors = BufReader::new(sandbox.0.stderr.take().unwrap()).lines();
    for line in errors.by_ref() {
        let line = line.unwrap();
        if line.starts_with("extra_ca, ") {
            break;
        }
        said.push(line);
    }
    let key = said
        .iter()
        .find_map(|line| line.split("STRIPE_SECRET_KEY=").nth(1))
        .unwrap();
    let key = key.split_whitespace().next().unwrap();
    let sections: String = said
        .iter()
        .filter_map(|line| Some(format!("{}\n", line.strip_prefix("    ")?)))
        .collect();
    let (upstream, others) = sections.split_once("[networks").unwrap();
    let mut program = Command::new(bin());
    program.env("STRIPE_SECRET_KEY", key);
    let bursar = setup()
        .upstream(upstream.strip_prefix("[upstream]\n").unwrap())
        .config(&format!("[networks{others}"))
        .home()
        .serve_by(program);
    let agent = Agent::of(&bursar);
    // The last is sold over both protocols; the cheaper offer is taken.
    for path in ["/v2/quote", "/mpp/report", "/both/report"] {
        let page = agent.get(site(&url), path).await;
        assert_eq!(page.status, 200, "{path} {page:?}");
    }
    let bought: Vec<_> = bursar
        .payments()
        .iter()
        .map(|payment| {
            ["rail", "state", "symbol", "usd", "network"].map(|name| payment[name].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(
        bought,
        [
            ["x402", "settled", "USDC", "0.01", "eip155:84532"],
            ["mpp.stripe", "settled", "USD", "0.50", "stripe:test"],
            ["x402", "settled", "USDC", "0.25", "eip155:84532"],
        ]
    );
    assert_eq!(sandbox.signal(Signal::TERM), Some(DONE));
}

/// The demo without a home directory, without variables, and with a temporary folder that the test can inspect.
fn demo(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(bin());
    command
        .arg("demo")
        .args(arguments)
        .env_clear()
        .env("TMPDIR", temporary)
        .stdin(Stdio::null());
    command
}

fn assert_empty(dir: &Path) {
    let left: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn the_demo_pays_is_refused_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let finished = demo(temporary.path(), &[]).output().unwrap();
    assert_eq!((finished.status.code(), stderr(&finished).as_str()), (Some(DONE), ""));
    let text = stdout(&finished);
    for part in [
        "sandbox token",
        "sandbox Stripe",
        "GET /v2/quote",
        "200 OK",
        "bursar-payment: ",
        "GET /mpp/report",
        "GET /v2/dataset",
        "403 Forbidden",
        "agents.demo.per_transaction",
        "0.01 USDC  demo         https://localhost:",
        "/v2/quote\n",
        "0.50 USD   demo         https://localhost:",
        "/mpp/report\n",
        "25.00 USD   demo         localhost by agents.demo.per_transaction",
        "0.50 USD   demo         localhost by agents.demo.day",
        "99.99 sandbox USDC now",
        "0.01 sandbox USDC now",
        "0.50 sandbox USD charged now",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let count = |words: &str| text.matches(words).count();
    assert_eq!((count("  settled  "), count("  refused  ")), (2, 2), "{text}");
    // The second refusal counts what was paid over both protocols.
    assert!(text.contains("0.51 USD used"), "{text}");
    assert!(!text.contains("sk_test_"), "{text}");
    assert_empty(temporary.path());

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let unread = demo(temporary.path(), &[]).stdout(writer).output().unwrap();
    assert_eq!((unread.status.code(), stderr(&unread).as_str()), (Some(DONE), ""));
    assert_empty(temporary.path());
}

#[test]
fn a_demo_that_stays_can_be_tried_as_it_says_and_ends_on_a_signal() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Ended(
            demo(temporary.path(), &["--stay"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(child.0.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let curl = lines.find(|line| line.starts_with("   curl ")).unwrap();
        let list = lines.find(|line| line.starts_with("   bursar ")).unwrap();
        if signal == Signal::TERM {
            let tried = Command::new("sh")
                .args(["-c", &curl])
                .env("NO_PROXY", "")
                .env("no_proxy", "")
                .output()
                .unwrap();
            assert!(stdout(&tried).contains("200 OK\r\n"), "{tried:?}");
            let arguments: Vec<&str> = list.split_whitespace().skip(1).collect();
            let listed = Command::new(bin()).args(&arguments).arg("--json").output().unwrap();
            let paid: Vec<_> = json_lines(&listed)
                .iter()
                .map(|payment| ["rail", "state", "usd"].map(|name| payment[name].as_str().unwrap().to_owned()))
                .collect();
            let expected = [
                ["x402", "settled", "0.01"],
                ["mpp.stripe", "settled", "0.50"],
                ["x402", "settled", "0.25"],
            ];
            assert_eq!(paid, expected, "{listed:?}");
        }
        assert_eq!(child.signal(signal), Some(DONE), "{signal:?}");
        assert_empty(temporary.path());
    }
}
