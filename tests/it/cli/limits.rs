//! `bursar limits`: what finance asks before and after it changes the file.

use std::path::Path;

use serde_json::Value;

use super::{DONE, NEGATIVE, UNAVAILABLE, USAGE, done, fails, json_lines, stderr, stdout, with_payments};
use crate::support::bursar::{LIMITS, bursar, setup};

const PENDING: i32 = 4;
const UNVERIFIABLE: i32 = 3;

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Exit code and the JSON object on stdout.
fn ask(dir: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = bursar(dir, &[arguments, &["--json"]].concat());
    let text = stdout(&output);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {}", stderr(&output)));
    (output.status.code().unwrap(), value)
}

#[test]
fn check_shows_mistakes_and_warnings() {
    let home = setup().home();
    let bad = file(
        home.path(),
        "bad.toml",
        "timezone = \"UTC\"\n[agents.research]\ndya = \"5\"\nweek = \"$20\"\n",
    );
    let words = [
        "bad.toml:3:1: ",
        "Did you mean `day`?",
        "bad.toml:4:8: ",
        "week = \"20.00\"",
    ];
    fails(home.path(), &["limits", "check", &bad], USAGE, &words);
    let (code, report) = ask(home.path(), &["limits", "check", &bad]);
    assert_eq!((code, report["errors"].as_array().unwrap().len()), (USAGE, 2));
    assert_eq!(report["errors"][0]["line"], 3);

    let odd = file(
        home.path(),
        "odd.toml",
        "[agents.reserach]\ntotal = \"5\"\nper_transaction = \"9\"\n",
    );
    let output = done(home.path(), &["limits", "check", &odd]);
    for words in [
        "Did you mean [agents.research]?",
        "(unknown-agent)",
        "(never-reached)",
        "3 warnings",
    ] {
        assert!(stdout(&output).contains(words), "{words}\n{}", stdout(&output));
    }
    let (code, report) = ask(home.path(), &["limits", "check", &odd, "--strict"]);
    assert_eq!((code, report["warnings"].as_array().unwrap().len()), (NEGATIVE, 3));
    assert_eq!(report["agents_known"], true);
    done(home.path(), &["limits", "check", "--strict"]);
    // Without a data directory the file alone is checked.
    let nowhere = home.path().join("nowhere");
    let output = done(&nowhere, &["limits", "check", &odd]);
    assert!(
        stderr(&output).contains("not compared with the agents"),
        "{}",
        stderr(&output)
    );
    fails(&nowhere, &["limits", "check"], USAGE, &[]);
    let output = bursar(home.path(), &["limits", "check", "--wait"]);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
}

#[test]
fn check_waits_until_the_file_is_in_force() {
    let mut bursar = setup().start();
    let dir = bursar.path().to_owned();
    let waited =
        |more: &[&str]| super::super::support::bursar::bursar(&dir, &[&["limits", "check", "--wait"], more].concat());
    assert_eq!(waited(&[]).status.code(), Some(DONE));
    bursar.home.write_limits(&LIMITS.replace("100.00", "50.00"));
    let output = waited(&["--timeout", "60s"]);
    assert_eq!(output.status.code(), Some(DONE), "{output:?}");
    assert!(stderr(&output).contains("is in force"), "{output:?}");
    // Another file is not what the server reads.
    let other = file(&dir, "other.toml", &LIMITS.replace("100.00", "40.00"));
    let output = waited(&[&other, "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(PENDING), "{output:?}");
    bursar.home.write_limits("[agents.research]\ndaay = \"5\"\n");
    assert_eq!(waited(&[]).status.code(), Some(USAGE));
    assert_eq!(bursar.stop(), DONE);
}

#[tokio::test]
async fn try_says_what_the_ledger_says_with_and_without_a_server() {
    let (_origin, mut bursar) = with_payments().await;
    let dir = bursar.path().to_owned();
    let asked = |amount: &str, more: &[&str]| {
        let arguments = [
            "limits",
            "try",
            "--agent",
            "research",
            "--host",
            "127.0.0.1",
            "--amount",
            amount,
        ];
        ask(&dir, &[&arguments[..], more].concat())
    };
    let used = |report: &Value| {
        let rules = report["rules"].as_array().unwrap();
        let day = rules.iter().find(|rule| rule["rule"] == "agents.research.day").unwrap();
        (day["outcome"].clone(), day["used"].clone(), day["reserved"].clone())
    };
    let check = || {
        let (code, report) = asked("0.50", &[]);
        assert_eq!((code, &report["verdict"]), (DONE, &Value::from("pay")), "{report:#}");
        assert_eq!(
            used(&report),
            ("pass".into(), "0.01".into(), "0.01".into()),
            "{report:#}"
        );
        assert!(report["as_of"].is_string());
        let (code, report) = asked("3.00", &[]);
        assert_eq!((code, &report["code"]), (NEGATIVE, &Value::from("over-limit")));
        assert_eq!(report["rule"], "agents.research.per_transaction");
        assert_eq!(used(&report).0, "not-reached");
        let tight = file(
            &dir,
            "tight.toml",
            "timezone = \"UTC\"\n[agents.research]\nday = \"0.03\"\n",
        );
        let (code, report) = asked("0.02", &["--with", &tight]);
        assert_eq!(
            (code, &report["rule"]),
            (NEGATIVE, &Value::from("agents.research.day")),
            "{report:#}"
        );
        assert_eq!(asked("0.01", &["--with", &tight]).0, DONE);
    };
    let before = bursar.journal().len();
    check();
    assert_eq!(bursar.journal().len(), before, "nothing is recorded");
    assert!(bursar.run(&["pause", "--all", "--why", "a leak"]).status.success());
    let (code, report) = asked("0.50", &[]);
    assert_eq!(
        (code, &report["code"]),
        (NEGATIVE, &Value::from("paused")),
        "{report:#}"
    );
    assert!(bursar.run(&["resume", "--all", "--why", "a new key"]).status.success());
    let text = stdout(&super::super::support::bursar::bursar(
        &dir,
        &[
            "limits",
            "try",
            "--agent",
            "research",
            "--host",
            "127.0.0.1",
            "--amount",
            "3.00",
        ],
    ));
    assert!(
        text.starts_with("REFUSED over-limit by agents.research.per_transaction: asked 3.00, limit 1.00\n"),
        "{text}"
    );
    assert_eq!(bursar.stop(), DONE);
    check();
}

#[test]
fn try_without_a_ledger_prints_no_number() {
    let home = setup().home();
    let limits = file(
        home.path(),
        "new.toml",
        "timezone = \"UTC\"\n[agents.research]\nday = \"5\"\nper_transaction = \"1\"\n",
    );
    let nowhere = home.path().join("nowhere");
    let arguments = [
        "limits",
        "try",
        "--agent",
        "research",
        "--host",
        "a.example",
        "--with",
        &limits,
    ];
    let (code, report) = ask(&nowhere, &[&arguments[..], &["--amount", "0.50"]].concat());
    assert_eq!((code, &report["verdict"]), (UNVERIFIABLE, &Value::from("unknown")));
    for rule in report["rules"].as_array().unwrap() {
        assert!(rule["used"].is_null() && rule["reserved"].is_null(), "{rule}");
    }
    let (code, report) = ask(&nowhere, &[&arguments[..], &["--amount", "2"]].concat());
    assert_eq!(
        (code, &report["rule"]),
        (NEGATIVE, &Value::from("agents.research.per_transaction"))
    );
    fails(
        home.path(),
        &[&arguments[..], &["--amount", "much"]].concat(),
        USAGE,
        &["is not an amount"],
    );
    let more = ["--amount", "1", "--rail", "x403"];
    fails(
        home.path(),
        &[&arguments[..], &more].concat(),
        USAGE,
        &["did you mean x402?"],
    );
}

#[test]
fn diff_says_who_may_spend_more() {
    let home = setup().home();
    let old = file(home.path(), "old.toml", LIMITS);
    let new = file(home.path(), "new.toml", &LIMITS.replace("1.00", "2.00"));
    let diff = |old: &str, new: &str| bursar(home.path(), &["limits", "diff", old, new]);
    let more = diff(&old, &new);
    assert_eq!(more.status.code(), Some(NEGATIVE));
    let text = stdout(&more);
    assert!(
        text.starts_with("research: more\n  + agents.research.per_transaction: GET "),
        "{text}"
    );
    assert!(
        text.contains("refused over-limit by agents.research.per_transaction -> paid"),
        "{text}"
    );
    assert_eq!(diff(&new, &old).status.code(), Some(DONE));
    assert_eq!(diff(&old, &old).status.code(), Some(DONE));
    let lines = json_lines(&bursar(home.path(), &["limits", "diff", &old, &new, "--json"]));
    assert_eq!(
        (&lines[0]["direction"], &lines[0]["more"][0]["proven"]),
        (&"more".into(), &true.into())
    );
    let bad = file(home.path(), "bad.toml", "day = 5\n");
    fails(home.path(), &["limits", "diff", &old, &bad], USAGE, &["bad.toml:1:1: "]);
}

/// The example in the repository, which docs/limits.md names.
#[test]
fn test_runs_the_example_cases() {
    let home = setup().home();
    let (cases, limits) = ("fixtures/limits-cases/cases", "fixtures/limits-cases/limits.toml");
    let arguments = ["limits", "test", cases, "--with", limits, "--coverage"];
    let (code, report) = ask(home.path(), &arguments);
    assert_eq!(
        (code, &report["failed"], &report["passed"]),
        (DONE, &0.into(), &5.into()),
        "{report:#}"
    );
    let not_reached = report["coverage"]["not_reached"].as_array().unwrap();
    assert_eq!(*not_reached, [] as [Value; 0], "{report:#}");

    let own = home.path().join("cases");
    std::fs::create_dir(&own).unwrap();
    let case = |expect: &str| {
        let text =
            format!("agent = \"research\"\nhost = \"a.example\"\nexpect = \"{expect}\"\n[[offer]]\namount = \"9\"\n");
        file(&own, "one.toml", &text);
    };
    case("pay");
    let output = bursar(
        home.path(),
        &[
            "limits",
            "test",
            &own.display().to_string(),
            "--with",
            limits,
            "--coverage",
        ],
    );
    assert_eq!(output.status.code(), Some(NEGATIVE));
    let text = stdout(&output);
    assert!(
        text.contains("expected pay, got refuse by agents.research.per_transaction"),
        "{text}"
    );
    assert!(text.contains("not reached: agents.research.day"), "{text}");
    case("perhaps");
    fails(
        home.path(),
        &["limits", "test", &own.display().to_string()],
        USAGE,
        &["one.toml:3:10: "],
    );
}
