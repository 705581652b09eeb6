//! Text that an agent or a site chose reaches no terminal, log line or alert as it is: what would move the cursor, hide
//! or reverse text is shown as an escape (R78).

use http::Request;
use http_body_util::Full;
use serde_json::Value;

use super::*;
use crate::approvals::{AT_ONCE, pending, question};
use crate::support::bursar::eventually;

/// What repaints a terminal, reverses a line, hides in it, or ends it.
const HOSTILE: &str = "\u{9b}2J\u{9b}1A\u{202e}\u{2066}\u{200b}\u{200f}\u{feff}\u{85}\u{2028}\u{ad}\u{e0041}";
const LIMITS: &str =
    "timezone = \"UTC\"\n[agents.research]\nday = \"0.30\"\nper_transaction = \"0.20\"\napproval_above = \"0.05\"\n";

/// Written from the characters that people name, not from the table in the program.
fn is_hostile(c: char) -> bool {
    let bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    let unseen = "\u{ad}\u{180e}\u{200b}\u{200c}\u{200d}\u{2028}\u{2029}\u{2060}\u{feff}\u{e0041}";
    (c.is_control() && c != '\n') || bidi.contains(c) || unseen.contains(c)
}

fn assert_plain(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("{what} is not UTF-8: {bytes:?}"));
    let hostile: Vec<char> = text.chars().filter(|c| is_hostile(*c)).collect();
    assert!(
        hostile.is_empty(),
        "{what} contains {hostile:?}: {}",
        text.escape_debug()
    );
}

async fn ask(agent: &Agent, origin: &Origin, path: &str) -> crate::support::agent::Page {
    let mut connection = agent.connect(origin.address, &["h2"]).await;
    let request = Request::get(path).body(Full::default()).unwrap();
    connection.send(origin.address, request).await.unwrap()
}

#[tokio::test]
async fn no_command_log_or_alert_shows_hostile_text_as_it_is() {
    let origin = Origin::https(|request| async move {
        match (request.is_paid(), request.target.contains("/unclear")) {
            (true, true) => answer(200, &[], "no receipt"),
            (true, false) => seller::sold("goods"),
            (false, _) if request.target.contains("/dear") => seller::asks("900000"),
            (false, _) if request.target.contains("/cheap") => seller::asks("40000"),
            (false, _) => seller::asks("100000"),
        }
    })
    .await;
    let alerts = "[alerts]\ncommand = [\"sh\", \"-c\", \"cat >> alerts.jsonl\"]\n";
    let mut bursar = setup()
        .trust(&origin.ca_pem)
        .limits(LIMITS)
        .config(AT_ONCE)
        .config(alerts)
        .start();
    let agent = Agent::of(&bursar);
    let url = |path: &str| format!("https://localhost:{}{path}", origin.address.port());

    let waiting = format!("/report{HOSTILE}");
    let page = ask(&agent, &origin, &waiting).await;
    assert_eq!(page.problem(), "approval-pending");
    assert_plain("the answer", &page.body);
    assert_eq!(ask(&agent, &origin, &format!("/cheap{HOSTILE}")).await.status, 200);
    assert_eq!(
        ask(&agent, &origin, &format!("/cheap/unclear{HOSTILE}")).await.status,
        200
    );
    let page = ask(&agent, &origin, &format!("/dear{HOSTILE}")).await;
    assert_eq!(page.problem(), "over-limit");
    assert_plain("the refusal", &page.body);

    let (id, code) = question(&bursar).await;
    assert_eq!(pending(&bursar)[0]["resource"], url(&waiting), "JSON keeps the value");
    let shown = "\\u{9b}2J\\u{9b}1A\\u{202e}\\u{2066}\\u{200b}";
    let run = |arguments: &[&str]| {
        let output = bursar.run(arguments);
        assert_plain(&format!("{arguments:?}, stdout"), &output.stdout);
        assert_plain(&format!("{arguments:?}, stderr"), &output.stderr);
        stdout(&output)
    };
    let text = run(&["pending"]);
    assert!(
        text.contains(&format!("agent research: GET {}", url("/report"))),
        "{text}"
    );
    assert!(text.contains(shown), "{text}");
    assert!(run(&["pending", "--json"]).contains("/report\\u009b2J\\u009b1A\\u202e\\u2066\\u200b"));

    run(&["approve", &id, "--code", HOSTILE]);
    run(&["approve", HOSTILE, "--code", &code]);
    assert!(run(&["approve", &id, "--code", &code]).contains("Approved"));
    assert_eq!(ask(&agent, &origin, &waiting).await.status, 200);
    let other = format!("/other{HOSTILE}");
    assert_eq!(ask(&agent, &origin, &other).await.problem(), "approval-pending");
    let (denied, _) = question(&bursar).await;
    run(&["deny", &denied, "--why", &format!("no{HOSTILE}")]);
    let page = ask(&agent, &origin, &other).await;
    assert_eq!(page.problem(), "approval-denied");
    assert_plain("the denial", &page.body);
    let detail = page.json()["detail"].as_str().unwrap().to_owned();
    assert!(
        detail.contains(&format!("no{HOSTILE}")),
        "JSON keeps the reason: {detail:?}"
    );

    for arguments in [
        &["payments", "list", "--refused"][..],
        &["payments", "list", "--refused", "--json"],
        &["payments", "show", HOSTILE],
        &["approvals", "export"],
        &["reconcile"],
        &["agents", "add", HOSTILE],
        &["explain-code", HOSTILE],
        &["payments", "list", "--state", HOSTILE],
    ] {
        run(arguments);
    }
    assert!(run(&["payments", "list"]).contains(shown));
    let payments = bursar.payments();
    assert_eq!(payments.len(), 4);
    for payment in &payments {
        let id = payment["id"].as_str().unwrap();
        for command in [&["payments", "show", id][..], &["explain", id]] {
            run(command);
            let json: Value = serde_json::from_str(&run(&[command, &["--json"]].concat())).unwrap();
            assert_eq!(json["id"], id);
        }
    }
    let resources: Vec<&str> = payments
        .iter()
        .map(|payment| payment["resource"].as_str().unwrap())
        .collect();
    assert!(resources.contains(&origin.url(&waiting).as_str()), "{resources:?}");

    let records = bursar.path().join("records.jsonl");
    std::fs::write(&records, run(&["approvals", "export"])).unwrap();
    let records = records.to_str().unwrap();
    assert!(run(&["approvals", "verify", records]).contains("undamaged"));
    run(&["approvals", "verify", records, "--json"]);

    // Someone else's document, damaged where nothing else would notice.
    let forged = bursar.path().join("forged.jsonl");
    let document = std::fs::read_to_string(records)
        .unwrap()
        .replace("localhost", &format!("a{HOSTILE}"));
    std::fs::write(&forged, document).unwrap();
    run(&["approvals", "verify", forged.to_str().unwrap()]);
    run(&["approvals", "verify", forged.to_str().unwrap(), "--json"]);

    let alerts = bursar.path().join("alerts.jsonl");
    let sent = eventually("an alert", || {
        std::fs::read(&alerts).ok().filter(|sent| !sent.is_empty())
    })
    .await;
    assert_plain("the alert", &sent);
    assert_eq!(bursar.stop(), 0);
    assert_plain("the log", bursar.log().as_bytes());
    assert!(bursar.log().contains("agent=research"));
}
