//! `bursar sandbox` and `bursar demo`, as a newcomer runs them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{DONE, Ended, mode, stderr, stdout};
use crate::support::agent::Agent;
use crate::support::bursar::{bin, setup};
use crate::support::buyer::{site, skip};

#[tokio::test]
async fn a_sandbox_sells_to_those_who_pay() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("seller.pem");
    let mut command = Command::new(bin());
    command
        .args(["sandbox", "--listen", "127.0.0.1:0", "--ca-out"])
        .arg(&ca);
    let mut sandbox = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
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

    let networks = format!("[networks.\"eip155:84532\"]\nrpc = [\"{url}/rpc\"]\n");
    let bursar = setup()
        .trust(&std::fs::read_to_string(&ca).unwrap())
        .config(&networks)
        .start();
    let page = Agent::of(&bursar).get(site(&url), "/v2/quote").await;
    assert_eq!(page.status, 200, "{page:?}");
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(sandbox.signal(Signal::TERM), Some(DONE));
}

/// The demo without a home, without variables, and with a place for temporary files that can be looked into.
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
    let told = demo(temporary.path(), &[]).output().unwrap();
    assert_eq!((told.status.code(), stderr(&told).as_str()), (Some(DONE), ""));
    let text = stdout(&told);
    for part in [
        "sandbox token",
        "GET /v2/quote",
        "200 OK",
        "bursar-payment: ",
        "GET /v1/weather",
        "GET /v2/dataset",
        "403 Forbidden",
        "agents.demo.per_transaction",
        "settled",
        "refused",
        "99.985 sandbox USDC now",
        "0.015 sandbox USDC now",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
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
            let listed = Command::new(bin()).args(&arguments).output().unwrap();
            assert_eq!(stdout(&listed).matches("settled").count(), 3, "{listed:?}");
        }
        assert_eq!(child.signal(signal), Some(DONE), "{signal:?}");
        assert_empty(temporary.path());
    }
}
