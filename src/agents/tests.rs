use secrecy::ExposeSecret;

use super::*;

pub(super) fn home() -> (tempfile::TempDir, Home) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path()).unwrap();
    home.create().unwrap();
    (folder, home)
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(super) fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

#[test]
fn names() {
    for good in ["a", "0", "research", "crawler-7", "a.b_c-d", &"x".repeat(64)] {
        assert!(good.parse::<AgentName>().is_ok(), "{good}");
    }
    for bad in [
        "",
        "-a",
        ".a",
        "_a",
        "A",
        "a b",
        "a:b",
        "ä",
        "a\n",
        "a/b",
        &"x".repeat(65),
    ] {
        assert!(matches!(bad.parse::<AgentName>(), Err(NotAnAgentName(_))), "{bad:?}");
    }
}

#[test]
fn add_rotate_revoke() {
    let (_folder, home) = home();
    let registry = Registry::new(&home);
    let first = registry.add(&name("research"), at(0)).unwrap();
    assert!(matches!(
        registry.add(&name("research"), at(0)),
        Err(AgentsError::Exists(_))
    ));
    let added = registry.list().unwrap();
    assert_eq!(added[0].tokens[0].digest, first.digest);
    assert_eq!(added[0].id.get_version_num(), 7);

    let temporary = registry
        .mint_temporary(&name("research"), Purpose::Env, at(100), at(1))
        .unwrap();
    assert_eq!(registry.list().unwrap()[0].tokens.len(), 2);
    let second = registry.rotate(&name("research"), at(2)).unwrap();
    let rotated = registry.list().unwrap();
    assert_eq!(
        rotated[0].tokens.iter().map(|t| t.digest).collect::<Vec<_>>(),
        [second.digest]
    );
    assert_eq!(rotated[0].id, added[0].id);
    assert!(second.digest != first.digest && second.digest != temporary.digest);

    registry.revoke(&name("research"), at(3)).unwrap();
    assert!(registry.list().unwrap()[0].tokens.is_empty());
    assert!(matches!(
        registry.mint_temporary(&name("research"), Purpose::Run, at(9), at(4)),
        Err(AgentsError::Revoked(_))
    ));
    for unknown in [
        registry.rotate(&name("other"), at(4)).err(),
        registry.revoke(&name("other"), at(4)).err(),
        registry
            .mint_temporary(&name("other"), Purpose::Run, at(9), at(4))
            .err(),
    ] {
        assert!(matches!(unknown, Some(AgentsError::Unknown(_))));
    }
}

#[test]
fn tokens_end_one_by_one() {
    let (_folder, home) = home();
    let registry = Registry::new(&home);
    let own = registry.add(&name("a"), at(0)).unwrap();
    let other = registry.add(&name("b"), at(0)).unwrap();
    let mint = || registry.mint_temporary(&name("a"), Purpose::Env, at(10), at(1));
    let (first, second) = (mint().unwrap(), mint().unwrap());
    let left = || -> Vec<_> { registry.list().unwrap()[0].tokens.iter().map(|t| t.digest).collect() };

    registry.revoke_token(&name("a"), first.digest.id(), at(2)).unwrap();
    assert_eq!(left(), [own.digest, second.digest]);
    // Neither again, nor of another agent, nor after its end.
    for (agent, id, now) in [
        ("a", first.digest.id(), at(2)),
        ("a", other.digest.id(), at(2)),
        ("a", second.digest.id(), at(10)),
    ] {
        let refused = registry.revoke_token(&name(agent), id, now);
        assert!(matches!(refused, Err(AgentsError::UnknownToken { .. })), "{id}");
    }
    assert_eq!(registry.list().unwrap()[1].tokens.len(), 1);

    let third = mint().unwrap();
    registry.revoke_token(&name("a"), own.digest.id(), at(2)).unwrap();
    assert!(left().contains(&third.digest));
    assert!(matches!(mint(), Err(AgentsError::NoOwnToken(_))));
    registry.revoke(&name("a"), at(3)).unwrap();
    assert!(matches!(mint(), Err(AgentsError::Revoked(_))));
}

#[test]
fn ids_of_tokens() {
    let id = TokenDigest::of("bur_x").id();
    let text = id.to_string();
    assert_eq!(text, TokenDigest::of("bur_x").to_string()[..12]);
    assert_eq!(text.parse::<TokenId>().unwrap(), id);
    assert_eq!(text.to_uppercase().parse::<TokenId>().unwrap(), id);
    for wrong in ["", "abc", "0x0123456789", "0123456789ag", "0123456789abcd", "ääääää"] {
        assert!(wrong.parse::<TokenId>().is_err(), "{wrong}");
    }
}

#[test]
fn temporary_tokens_are_forgotten_or_run_out() {
    let (_folder, home) = home();
    let registry = Registry::new(&home);
    let own = registry.add(&name("a"), at(0)).unwrap();
    let mint = |until| {
        registry
            .mint_temporary(&name("a"), Purpose::Run, at(until), at(1))
            .unwrap()
    };
    let (first, _second) = (mint(10), mint(20));
    registry.forget(&first.digest, at(2)).unwrap();
    registry.forget(&first.digest, at(2)).unwrap();
    assert_eq!(registry.list().unwrap()[0].tokens.len(), 2);
    registry.add(&name("b"), at(20)).unwrap();
    let left: Vec<_> = registry.list().unwrap()[0].tokens.iter().map(|t| t.digest).collect();
    assert_eq!(left, [own.digest]);
}

#[test]
fn the_file_holds_no_token_and_is_private() {
    let (_folder, home) = home();
    let issued = Registry::new(&home).add(&name("a"), at(0)).unwrap();
    let token = issued.token.expose_secret();
    assert_eq!(token.len(), 4 + 43);
    assert!(token.starts_with("bur_"));
    let file = home::read_secret(&home.agents()).unwrap();
    assert!(!file.contains(&token[4..]));
    assert!(file.contains(&TokenDigest::of(token).to_string()));
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let (_folder, home) = home();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let home = &home;
            scope.spawn(move || Registry::new(home).add(&name(&format!("agent-{i}")), at(0)).unwrap());
        }
    });
    assert_eq!(Registry::new(&home).list().unwrap().len(), 8);
}

#[test]
fn damage_is_named() {
    let (_folder, home) = home();
    let token = "[[agents.tokens]]\npurpose = \"own\"\ncreated = \"2026-01-01T00:00:00Z\"\n";
    let agent = "[[agents]]\nname = \"a\"\nid = \"0198c0de-0000-7000-8000-000000000000\"\n\
                 created = \"2026-01-01T00:00:00Z\"\n";
    for (text, expected) in [
        ("agents = 3".to_string(), "agents"),
        (agent.replace("\"a\"", "\"A b\""), "is not a valid agent name"),
        (format!("{agent}{agent}"), "two agents are named a"),
        (
            format!("{agent}{token}token_sha256 = \"00\"\n"),
            "64 hexadecimal digits",
        ),
        (format!("{agent}surprise = 1\n"), "surprise"),
    ] {
        home::write_atomic(&home.agents(), text.as_bytes(), Readers::Owner).unwrap();
        let said = Registry::new(&home).list().unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("agents.toml"), "{said}");
    }
}
