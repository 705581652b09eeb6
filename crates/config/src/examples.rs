//! Checks that the example files show every key that the readers accept.

use toml::{Table, Value};

use crate::diagnose::ConfigError;

const PROBE: &str = "zzzzzz";

/// The example with its commented-out settings (`#key = …`) turned on.
pub fn switched_on(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| !c.is_whitespace()) => setting,
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The example with an unknown key in every section, so that the error lists the known keys of each.
pub fn probed(example: &str) -> String {
    let mut text = format!("{PROBE} = 1\n");
    for line in example.lines() {
        if line.starts_with('#') {
            continue;
        }
        // The names in `rolling` are lengths, not keys.
        if line.starts_with("rolling") {
            text += line;
        } else {
            text += &line.replace("{ ", &format!("{{ {PROBE} = 1, "));
        }
        text += "\n";
        if line.starts_with('[') {
            text += &format!("{PROBE} = 1\n");
        }
    }
    text
}

/// `stands_for` maps a section to the one in which the example shows its keys.
#[track_caller]
pub fn check_that_keys_are_shown(example: &str, error: &ConfigError, stands_for: impl Fn(&str) -> String) {
    let ConfigError::Invalid(problems) = error else {
        panic!("{error}");
    };
    let example: Table = example.parse().unwrap();
    let mut keys_seen = 0;
    for problem in problems {
        let section = problem
            .what
            .strip_prefix('[')
            .and_then(|what| what.strip_suffix(&format!("] has no key `{PROBE}`")))
            .unwrap_or("");
        let keys = problem
            .way_out
            .strip_prefix("Known keys: ")
            .unwrap_or_else(|| panic!("{problem}"));
        let mut shown = table_at(&example, &stands_for(section));
        if is_in(&example, section) {
            shown.extend(table_at(&example, section));
        }
        for key in keys.trim_end_matches('.').split(", ") {
            assert!(
                shown.contains_key(key),
                "the example does not show `{key}` in [{section}]"
            );
            keys_seen += 1;
        }
    }
    assert!(keys_seen > 20, "only {keys_seen} keys were looked at");
}

/// Whether the example has a section of this name.
fn is_in(example: &Table, section: &str) -> bool {
    let mut names = section.split('.');
    let first = names.next().and_then(|name| example.get(name));
    names
        .try_fold(first, |table, name| table.map(|table| table.get(name)))
        .flatten()
        .is_some()
}

/// The table at `path`, which is written as in a section header. Of several under one name, `[[name]]`, all together are
/// one that shows the keys.
fn table_at(example: &Table, path: &str) -> Table {
    let mut table = example.clone();
    if path.is_empty() {
        return table;
    }
    let header: Table = format!("[{path}]").parse().unwrap();
    let mut names = &header;
    while let Some((name, below)) = names.iter().next() {
        table = match &table[name] {
            Value::Table(one) => one.clone(),
            Value::Array(several) => several.iter().flat_map(|one| one.as_table().unwrap().clone()).collect(),
            other => panic!("{name} is neither a section nor several: {other:?}"),
        };
        names = below.as_table().unwrap();
    }
    table
}
