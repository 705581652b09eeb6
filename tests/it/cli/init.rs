//! `bursar init`, and how the data directory is found.

use std::path::Path;
use std::process::Command;

use super::{DONE, USAGE, done, fails, mode, stderr, stdout};
use crate::support::bursar::bin;

#[test]
fn init_makes_everything_for_one_user() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("new/bursar");
    let said = stdout(&done(&dir, &["init"]));
    assert!(
        said.starts_with(&format!("Created the data directory {}.\n", dir.display())),
        "{said}"
    );
    assert!(
        said.contains("nothing can be paid") && said.contains("[wallet.evm]"),
        "{said}"
    );
    for folder in ["", "audit", "index", "private", "run"] {
        assert_eq!(mode(&dir.join(folder)), 0o700, "{folder}");
    }
    for file in ["bursar.toml", "limits.toml", "agents.toml", "ca.key", "log.key"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    // Agents under other uids must be able to read these.
    for file in ["ca.pem", "bundle.pem"] {
        assert_eq!(mode(&dir.join(file)), 0o644, "{file}");
    }
    assert!(!dir.join("wallet.key").exists());

    // The other commands accept what init wrote.
    assert!(stderr(&done(&dir, &["agents", "list"])).contains("bursar agents add NAME"));
    assert!(stderr(&done(&dir, &["payments", "list"])).contains("No payments"));
    done(&dir, &["ca", "show"]);
}

#[test]
fn init_with_a_wallet_says_where_it_is_and_to_back_it_up() {
    let dir = tempfile::tempdir().unwrap();
    let said = stdout(&done(dir.path(), &["init", "--wallet"]));
    let address = said.lines().find_map(|line| line.strip_prefix("Wallet ")).unwrap();
    assert!(said.contains("Back it up") && said.contains("wallet.key"), "{said}");
    assert_eq!(mode(&dir.path().join("wallet.key")), 0o600);
    let shown = done(dir.path(), &["wallet", "show"]);
    assert_eq!(stdout(&shown).lines().next(), Some(address));
    assert!(stderr(&shown).contains("[networks]"), "{shown:?}");
    let key = std::fs::read_to_string(dir.path().join("wallet.key")).unwrap();
    assert!(!said.contains(key.trim()) && !said.contains(key.trim().trim_start_matches("0x")));
}

#[test]
fn init_overwrites_nothing() {
    for file in [
        "bursar.toml",
        "limits.toml",
        "agents.toml",
        "ca.pem",
        "ca.key",
        "log.key",
        "wallet.key",
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(file), "mine").unwrap();
        fails(
            dir.path(),
            &["init", "--wallet"],
            USAGE,
            &[file, "not overwritten", "--dir"],
        );
        assert_eq!(std::fs::read(dir.path().join(file)).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{file}");
    }
}

#[test]
fn the_directory_comes_from_the_variable_when_no_flag_names_it() {
    let outer = tempfile::tempdir().unwrap();
    let (by_variable, by_xdg) = (outer.path().join("variable"), outer.path().join("xdg"));
    let init = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(bin());
        command.arg("init").env_remove("BURSAR_DIR").env_remove("XDG_DATA_HOME");
        for (name, value) in variables {
            command.env(name, value);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!(
        init(&[("BURSAR_DIR", &by_variable), ("XDG_DATA_HOME", &by_xdg)]),
        Some(DONE)
    );
    assert!(by_variable.join("bursar.toml").is_file() && !by_xdg.exists());
    assert_eq!(init(&[("XDG_DATA_HOME", &by_xdg)]), Some(DONE));
    assert!(by_xdg.join("bursar/bursar.toml").is_file());
    let mut nowhere = Command::new(bin());
    let nowhere = nowhere.args(["agents", "list"]).env_clear().output().unwrap();
    assert_eq!(nowhere.status.code(), Some(USAGE));
    assert!(stderr(&nowhere).contains("--dir"), "{nowhere:?}");
}

#[test]
fn every_command_on_an_empty_directory_names_init() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display().to_string();
    let init = format!("bursar init --dir {root}");
    for command in [
        "serve",
        "env --agent a",
        "agents list",
        "agents add a",
        "payments list",
        "payments show 01a1f8b7-7082-7a04-a377-0dc81aefda02",
        "ca show",
        "ca rotate",
        "wallet show",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        fails(dir.path(), &arguments, USAGE, &[&init]);
    }
    fails(
        dir.path(),
        &["run", "--dir", &root, "--agent", "a", "--", "true"],
        125,
        &[&init],
    );
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "reading created nothing"
    );
}
