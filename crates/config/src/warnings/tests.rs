use super::*;
use crate::limits::parse;

/// What is said about `text` while `before` is in force.
fn warned_after(before: &str, text: &str) -> Vec<(String, usize, String, String)> {
    let members = parse("limits.toml", before).unwrap().members();
    let limits = parse("limits.toml", text).unwrap();
    let around = Surroundings {
        agents: None,
        members: Some(&members),
        now: "2026-11-20T12:00:00Z".parse().unwrap(),
    };
    let found = warnings("limits.toml", text, &limits, around).into_iter();
    found
        .map(|Warning { code, problem }| (code.name().to_owned(), problem.line, problem.what, problem.way_out))
        .collect()
}

fn warned(text: &str, agents: Option<&[&str]>) -> Vec<(String, usize, String, String)> {
    let limits = parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let agents: Option<Vec<String>> = agents.map(|agents| agents.iter().map(|&name| name.to_owned()).collect());
    let around = Surroundings {
        agents: agents.as_deref(),
        members: None,
        now: "2026-11-20T12:00:00Z".parse().unwrap(),
    };
    let found = warnings("limits.toml", text, &limits, around).into_iter();
    found
        .map(|Warning { code, problem }| (code.name().to_owned(), problem.line, problem.what, problem.way_out))
        .collect()
}

/// Code and line of each warning.
#[track_caller]
fn check(text: &str, expected: &[(&str, usize)]) {
    let found = warned(text, None);
    let short: Vec<_> = found.iter().map(|(code, line, ..)| (code.as_str(), *line)).collect();
    assert_eq!(short, expected, "{found:#?}");
}

#[test]
fn a_sensible_file_has_no_warnings() {
    check(
        "timezone = \"UTC\"\n[account]\nday = \"500\"\nmonth = \"5000\"\n[groups.eng]\nday = \"100\"\n[agents.research]\n\
         group = \"eng\"\nper_transaction = \"0.50\"\nday = \"5\"\nweek = \"20\"\nrolling = { \"24h\" = \"6\" }\napproval_above = \
         \"0.25\"\ncount = { hour = 200, day = 1000 }\nmerchants = { allow = [\"*.data.example\"], deny = [\"old.data.example\"] }\n",
        &[],
    );
}

#[test]
fn names_that_do_not_belong_together() {
    let text = "[agents.reserach]\ntotal = \"5\"\n[agents.writer]\ntotal = \"5\"\n";
    let found = warned(text, Some(&["research", "writer", "helper"]));
    let codes: Vec<_> = found.iter().map(|(code, line, ..)| (code.as_str(), *line)).collect();
    assert_eq!(
        codes,
        [("no-section", 1), ("no-section", 1), ("unknown-agent", 1)],
        "{found:#?}"
    );
    assert!(found[2].3.contains("Did you mean [agents.research]?"), "{found:#?}");
    // Where the agents are not known, nothing is said about them.
    assert_eq!(warned(text, None), []);
}

#[test]
fn what_can_never_be_paid() {
    check("", &[("empty-file", 1)]);
    check("[agents.a]\nper_transaction = \"1\"\n", &[("no-budget", 1)]);
    check("[groups.ops]\n[agents.a]\ntotal = \"1\"\n", &[("unused-group", 1)]);
}

#[test]
fn budgets_that_a_tighter_one_ends_first() {
    let zone = "timezone = \"UTC\"\n";
    check(
        &format!("{zone}[account]\nday = \"5\"\n[agents.a]\nday = \"10\"\n"),
        &[("never-reached", 5)],
    );
    check(&format!("{zone}[account]\nday = \"5\"\n[agents.a]\nday = \"5\"\n"), &[]);
    check(
        &format!("{zone}[agents.a]\nday = \"10\"\nmonth = \"7\"\n"),
        &[("never-reached", 3)],
    );
    // A week can begin in the month before.
    check(&format!("{zone}[agents.a]\nweek = \"10\"\nmonth = \"7\"\n"), &[]);
    check(
        &format!("{zone}[agents.a]\nday = \"1\"\ncount = {{ hour = 9, day = 5 }}\n"),
        &[("never-reached", 4)],
    );
    check(
        "[agents.a]\ntotal = \"1\"\nrolling = { \"24h\" = \"2\", \"2h\" = \"1\" }\n",
        &[("never-reached", 3)],
    );
    // A person can let a payment pass the upper one, so that the lower one is reached.
    let asks = "[account]\nday = \"5\"\nover_limit = \"ask\"\n[agents.a]\nday = \"10\"\n";
    check(&format!("{zone}{asks}"), &[]);
}

#[test]
fn prices_that_another_rule_refuses_first() {
    check(
        "[account]\nper_transaction = \"1\"\n[agents.a]\ntotal = \"9\"\nper_transaction = \"2\"\n",
        &[("never-reached", 5)],
    );
    check(
        "[agents.a]\ntotal = \"9\"\nper_transaction = \"1\"\napproval_above = \"1\"\n",
        &[("never-asks", 4)],
    );
    check(
        "[agents.a]\ntotal = \"9\"\napproval_above = \"9\"\n",
        &[("never-asks", 3)],
    );
    check(
        "[agents.a]\ntotal = \"9\"\nper_transaction = \"1\"\napproval_above = \"2\"\nover_limit = \"ask\"\n",
        &[],
    );
}

#[test]
fn lists_and_rates_and_approvers() {
    check(
        "[account]\nmerchants = { deny = [\"*.casino.example\"] }\n[agents.a]\ntotal = \"1\"\nmerchants = { allow = \
         [\"api.casino.example\", \"x.example\"] }\n",
        &[("shadowed-allow", 5)],
    );
    let rate =
        |until: &str| format!("[rates.eur]\nusd = \"1.1\"\nvalid_until = \"{until}\"\n[agents.a]\ntotal = \"1\"\n");
    check(&rate("2026-11-19"), &[("rate-ends", 3)]);
    check(&rate("2026-12-01"), &[("rate-ends", 3)]);
    check(&rate("2026-12-31"), &[]);
    check(
        "[account]\napprovers = [\"ann\", \"bob\"]\n[agents.a]\ntotal = \"1\"\napprovers = [\"ann\", \"eve\"]\nowner = \"ann\"\n",
        &[("approvers-widened", 5), ("owner-approves", 5)],
    );
    check(
        "[account]\napprovers = [\"ann\", \"bob\"]\n[agents.a]\ntotal = \"1\"\nowner = \"ann\"\n",
        &[("owner-approves", 5)],
    );
}

#[test]
fn many_of_a_kind_are_counted() {
    let sections: String = (0..50).map(|n| format!("[agents.a{n}]\n")).collect();
    let found = warned(&sections, None);
    assert_eq!(found.len(), MOST_OF_A_KIND);
    assert!(
        found
            .iter()
            .any(|(.., way_out)| way_out.ends_with("There are 30 more warnings of this kind."))
    );
}

#[test]
fn a_warning_shows_its_line() {
    let text = "timezone = \"UTC\"\n[account]\nday = \"5\"\n[agents.a]\nday = \"10\"\n";
    let limits = parse("limits.toml", text).unwrap();
    let around = Surroundings {
        agents: None,
        members: None,
        now: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(
        warnings("limits.toml", text, &limits, around)[0].to_string(),
        "limits.toml:5:1: agents.a.day can never be reached: account.day already ends spending at 5.00 USD\n  5 | day = \"10\"\n    \
         | ^^^\n  Lower it, raise the other one, or remove it.\n  (never-reached)"
    );
}

#[test]
fn a_group_that_is_dropped_while_its_agents_carry_on() {
    let file = |groups: &str, group: &str| {
        format!("{groups}\n[agents.a]\ngroup = \"{group}\"\n[agents.b]\ngroup = \"{group}\"\n")
    };
    let before = file("[groups.old]\ntotal = \"5\"", "old");
    let found = warned_after(&before, &file("[groups.new]\ntotal = \"5\"", "new"));
    assert_eq!(found.len(), 1, "{found:#?}");
    let (code, line, what, way_out) = &found[0];
    assert_eq!((code.as_str(), *line), ("group-dropped", 1));
    assert!(
        what.contains("\"old\" is gone and its agent \"a\" is in \"new\" now"),
        "{what}"
    );
    assert!(way_out.contains("write was = \"old\" in [groups.new]"), "{way_out}");
    let renamed = file("[groups.new]\nwas = \"old\"\ntotal = \"5\"", "new");
    assert_eq!(warned_after(&before, &renamed), []);
    assert_eq!(warned_after(&before, "[agents.a]\ntotal = \"5\"\n"), []);
}
