//! `bursar limits show` and `bursar spend`: the same numbers with a server and without one, and none without a ledger.

use serde_json::Value;

use super::{DONE, NEGATIVE, UNAVAILABLE, USAGE, done, fails, json_lines, stderr, stdout, with_payments};
use crate::support::bursar::setup;

fn budget<'v>(view: &'v Value, rule: &str) -> &'v Value {
    let sections = view["sections"].as_array().unwrap().iter();
    let mut budgets = sections.flat_map(|section| section["budgets"].as_array().unwrap());
    budgets
        .find(|budget| budget["rule"] == rule)
        .unwrap_or_else(|| panic!("{rule}: {view:#}"))
}

fn figures(budget: &Value) -> [&str; 7] {
    ["limit", "settled", "open", "held", "armed", "unknown", "left"].map(|name| budget[name].as_str().unwrap())
}

#[tokio::test]
async fn show_says_what_decides_with_and_without_a_server() {
    let (_origin, mut bursar) = with_payments().await;
    let dir = bursar.path().to_owned();
    let shown = |arguments: &[&str]| {
        let output = done(&dir, &[&["limits", "show", "--json"], arguments].concat());
        json_lines(&output).remove(0)
    };
    let newest = bursar.journal().len() - 1;
    let check = |newest: usize| {
        let view = shown(&["research"]);
        assert_eq!(
            figures(budget(&view, "agents.research.day")),
            ["5.00", "0.01", "0.01", "0.00", "0.00", "0.01", "4.98"]
        );
        assert_eq!(
            (&view["zone"], &view["as_of"]),
            (&"UTC".into(), &newest.into()),
            "{view:#}"
        );
        assert!(budget(&view, "agents.research.day")["resets_at"].is_string());
        let names: Vec<&str> = view["sections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["", "research"]);
        // The payment of `writer` counts for its group, too.
        let view = shown(&["writer"]);
        assert_eq!(figures(budget(&view, "groups.eng.day"))[..3], ["50.00", "0.01", "0.00"]);
        assert_eq!(shown(&["groups.eng"])["sections"].as_array().unwrap().len(), 2);
        assert_eq!(shown(&[])["sections"].as_array().unwrap().len(), 4);
        let output = done(&dir, &["limits", "show"]);
        let text = stdout(&output);
        let line = text.lines().find(|line| line.ends_with("agents.research.day")).unwrap();
        assert!(
            line.starts_with("  day  [#:..................]  0.02  of 5.00  4.98 left  resets "),
            "{line}"
        );
        assert!(text.contains("\nwriter (group eng)\n") && text.contains("  agents.research.per_transaction  1.00\n"));
        assert!(
            text.lines().all(|line| line.chars().count() <= 100) && !text.contains('\x1b'),
            "{text}"
        );
        let said = fails(
            &dir,
            &["limits", "show", "reserch"],
            USAGE,
            &["no agent and no group reserch"],
        );
        assert!(said.contains("Did you mean research?"), "{said}");
    };
    check(newest);
    assert_eq!(bursar.journal().len(), newest + 1, "nothing is recorded");
    // A rejected file: the limits of before stay in force, and it is said.
    bursar
        .home
        .write_limits("timezone = \"UTC\"\n[agents.research]\ndaay = \"1.00\"\n");
    crate::support::bursar::eventually("the rejection", || {
        shown(&[])["rejected"]
            .as_str()
            .map(|why| assert!(why.contains("limits.toml, line 3"), "{why}"))
    })
    .await;
    let output = done(&dir, &["limits", "show"]);
    assert!(stderr(&output).contains("is not in force: ") && stdout(&output).contains("agents.research.day"));
    assert!(
        bursar
            .run(&["pause", "--agent", "writer", "--why", "a leak"])
            .status
            .success()
    );
    let paused = |of: &str| shown(&[of])["pauses"].as_array().unwrap().len();
    assert_eq!((paused("writer"), paused("eng"), paused("research")), (1, 1, 0));
    assert_eq!(bursar.stop(), DONE);
    // The file that is not in force cannot be shown without a server either.
    fails(&dir, &["limits", "show"], USAGE, &["limits.toml:3:1"]);
    bursar.home.write_limits(
        "timezone = \"UTC\"\n[groups.eng]\nday = \"50.00\"\n[agents.research]\nper_transaction = \"1.00\"\nday = \
         \"5.00\"\n[agents.writer]\ngroup = \"eng\"\nday = \"5.00\"\n",
    );
    check(bursar.journal().len() - 1);
    bursar
        .home
        .write_limits("timezone = \"UTC\"\n[agents.research]\nper_transaction = \"1.00\"\n");
    let output = done(&dir, &["limits", "show", "research"]);
    assert!(
        stdout(&output).contains("cannot spend: there is no budget")
            && stderr(&output).contains("no server is running"),
        "{output:?}"
    );
}

#[test]
fn show_without_the_ledger_prints_no_number() {
    let home = setup()
        .config("[store]\nurl = \"postgres://bursar@127.0.0.1:1/bursar\"\n")
        .home();
    fails(
        home.path(),
        &["limits", "show"],
        UNAVAILABLE,
        &["a database", "bursar serve"],
    );
}

#[tokio::test]
async fn spend_adds_up_what_was_bought() {
    let (_origin, mut bursar) = with_payments().await;
    let dir = bursar.path().to_owned();
    let host = "localhost";
    let check = || {
        let lines = json_lines(&done(&dir, &["spend", "--by", "agent,merchant", "--json"]));
        let [research, writer, summary] = &lines[..] else {
            panic!("{lines:#?}");
        };
        assert_eq!(
            (
                &research["agent"],
                &research["merchant"],
                &research["settled"],
                &research["unknown"]
            ),
            (&"research".into(), &host.into(), &"0.01".into(), &"0.01".into())
        );
        assert_eq!(
            (&writer["agent"], &writer["settled"], &writer["count"]),
            (&"writer".into(), &"0.01".into(), &1.into())
        );
        assert_eq!(
            (
                &summary["kind"],
                &summary["settled"],
                &summary["outstanding"],
                &summary["count"],
                &summary["zone"]
            ),
            (
                &"summary".into(),
                &"0.02".into(),
                &"0.01".into(),
                &3.into(),
                &"UTC".into()
            )
        );
        let text = stdout(&done(&dir, &["spend"]));
        assert!(
            text.contains("\nresearch     0.01         0.01  0.00      0.00      2\n"),
            "{text}"
        );
        let csv = stdout(&done(&dir, &["spend", "--by", "agent,day", "--csv"]));
        let rows: Vec<&str> = csv.split("\r\n").collect();
        assert_eq!(
            rows[0],
            "agent,day,zone,settled_usd,outstanding_usd,armed_usd,unknown_usd,held_usd,returned_usd,count"
        );
        assert!(
            rows[1].starts_with("research,20") && rows[1].ends_with(",UTC,0.01,0.01,0.00,0.01,0.00,0.00,2"),
            "{csv}"
        );
        let only = |more: &[&str]| {
            let lines = json_lines(&done(&dir, &[&["spend", "--json"], more].concat()));
            lines.last().unwrap()["count"].as_u64().unwrap()
        };
        assert_eq!(only(&["--agent", "writer"]), 1);
        assert_eq!(only(&["--merchant", host]), 3);
        assert_eq!(only(&["--merchant", "other.example"]), 0);
        assert_eq!((only(&["--since", "1h"]), only(&["--until", "2020-01-01"])), (3, 0));
    };
    check();
    assert_eq!(bursar.stop(), DONE);
    check();
    fails(&dir, &["spend", "--by", "colour"], USAGE, &["--by colour", "merchant"]);
    fails(&dir, &["spend", "--since", "yesterday"], USAGE, &["2026-11-01"]);
    fails(
        &dir,
        &["spend", "--since", "2026-11-02", "--until", "2026-11-01"],
        USAGE,
        &["later than"],
    );
    // An entry that is gone: nothing is printed.
    let segment = dir.join("audit/seg-00000000000000000000.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    let lines: Vec<&str> = text.trim_end_matches('\n').lines().collect();
    std::fs::write(&segment, lines[..lines.len() - 2].join("\n") + "\n").unwrap();
    fails(&dir, &["spend"], NEGATIVE, &["entries"]);
    fails(&dir, &["limits", "show"], NEGATIVE, &["entries"]);
}
