use super::*;
use crate::examples;

const EXAMPLE: &str = include_str!("../../../../limits.example.toml");

#[test]
fn the_example_is_a_good_file_with_its_switches_off_and_on() {
    for text in [EXAMPLE.to_owned(), examples::switched_on(EXAMPLE)] {
        if let Err(error) = parse("limits.example.toml", &text) {
            panic!("{error}");
        }
    }
}

#[test]
fn the_example_shows_every_key() {
    let text = examples::switched_on(EXAMPLE);
    let error = parse("limits.example.toml", &examples::probed(&text)).err().unwrap();
    // The three kinds of level take the same keys; the example shows them in the agent's section.
    examples::check_that_keys_are_shown(&text, &error, |section| match section {
        "account" | "groups.eng" => "agents.research".to_owned(),
        list if list.starts_with("groups.eng.") => list.replace("groups.eng", "agents.research"),
        other => other.to_owned(),
    });
}

#[test]
fn a_key_at_the_top_that_belongs_into_a_section_is_sent_there() {
    let problem = |text: &str| match parse("limits.toml", text).err() {
        Some(ConfigError::Invalid(problems)) => problems.into_iter().next().unwrap().way_out,
        other => panic!("{text}: {other:?}"),
    };
    let keys = problem("[agents.a]\nzzzzzz = 1\n");
    let keys = keys
        .trim_start_matches("Known keys: ")
        .trim_end_matches('.')
        .split(", ");
    // `merchants` has a meaning at the top, too.
    let missing: Vec<&str> = keys
        .filter(|key| *key != "merchants" && problem(&format!("{key} = 1\n")) != LEVEL_KEY)
        .collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn an_empty_file_has_the_documented_defaults() {
    let limits = parse("limits.toml", "").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(limits.rails, Rail::USUAL);
    assert_eq!(limits.max_validity_s(), 300);
    assert!(!limits.zero_amount());
    assert_eq!(limits.methods, Methods::Usual);
    assert_eq!(limits.agents().count(), 0);
}

#[test]
fn the_hash_is_that_of_the_files_bytes() {
    let text = "[agents.a]\ntotal = \"1\"\n";
    let limits = parse("limits.toml", text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(limits.sha256, <[u8; 32]>::from(Sha256::digest(text)));
}

/// One mistake gives one message: a wrong zone is not also reported as missing.
#[test]
fn a_wrong_zone_is_reported_once() {
    let error = parse("limits.toml", "timezone = \"Mars\"\n[account]\nday = \"1\"\n")
        .err()
        .unwrap();
    let ConfigError::Invalid(problems) = error else {
        panic!("{error}");
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z.\\[\\]\"'={}#,0-9 \n\u{e9}\u{1f600}]{0,60}") {
        let _ = parse("limits.toml", &text).map_err(|error| error.to_string());
        let _ = parse("limits.toml", &format!("[agents.a]\n{text}")).map_err(|error| error.to_string());
    }
}

/// One of the two would silently win, with its list of realms.
#[test]
fn two_sections_of_one_merchant_are_a_mistake() {
    for (one, other) in [
        ("API.example.com", "api.example.com"),
        ("192.0.2.1", "::ffff:192.0.2.1"),
    ] {
        let text =
            format!("[merchants.\"{one}\"]\nrealms = [\"MPP Payment\"]\n[merchants.\"{other}\"]\nrealms = [\"x\"]\n");
        let error = parse("limits.toml", &text).err().unwrap().to_string();
        let said = format!("[merchants] \"{one}\" and \"{other}\" are the same host");
        let either = format!("[merchants] \"{other}\" and \"{one}\" are the same host");
        assert!(error.contains(&said) || error.contains(&either), "{error}");
    }
}

#[test]
fn a_group_has_one_former_name_that_no_section_has() {
    let group = |name: &str, was: &str| format!("[groups.{name}]\nwas = \"{was}\"\ntotal = \"1\"\n");
    let parsed = parse(
        "limits.toml",
        &format!("{}[agents.a]\ngroup = \"new\"\n", group("new", "old")),
    )
    .unwrap();
    let level = parsed.agents["a"].group.as_ref().unwrap();
    assert_eq!(level.was.as_deref(), Some("old"));
    assert_eq!(level.level.budgets[0].was(), Some("group:old"));
    for (text, what) in [
        (
            group("new", "new"),
            "groups.new.was: this file still has a section [groups.new]",
        ),
        (
            format!("[groups.old]\n{}", group("new", "old")),
            "groups.new.was: this file still has a section [groups.old]",
        ),
        (group("new", "o/d"), "groups.new.was: \"o/d\" is not a valid group name"),
        (
            format!("{}{}", group("a", "old"), group("b", "old")),
            "groups.b.was: [groups.a] is \"old\" under a new name already",
        ),
        ("[account]\nwas = \"old\"\n".to_owned(), "[account] has no key `was`"),
    ] {
        let error = parse("limits.toml", &text).err().unwrap().to_string();
        assert!(error.contains(what), "{error}");
    }
}
