//! `bursar serve`: what it prints, and what keeps it from starting.

use std::time::{Duration, Instant};

use super::{DONE, NEGATIVE, UNAVAILABLE, USAGE, done, fails, mode};
use crate::support::bursar::{WALLET, setup};

#[test]
fn a_second_server_on_a_directory_is_turned_away() {
    let mut bursar = setup().start();
    let dir = bursar.path().to_owned();
    fails(
        &dir,
        &["serve"],
        UNAVAILABLE,
        &["another bursar uses", &dir.display().to_string()],
    );
    // The first server is not affected.
    assert_eq!(
        std::fs::read_to_string(dir.join("run/listen")).unwrap().trim(),
        bursar.address.to_string()
    );
    assert_eq!(done(&dir, &["env", "--agent", "research"]).status.code(), Some(DONE));
    assert_eq!(
        (mode(&dir.join("run/admin.sock")), mode(&dir.join("run/listen"))),
        (0o600, 0o600)
    );
    assert_eq!(bursar.stop(), DONE);
    for left in ["run/listen", "run/admin.sock"] {
        assert!(!dir.join(left).exists(), "{left} is left behind");
    }
}

#[test]
fn a_missing_ledger_is_not_silently_started_anew() {
    let home = setup().home();
    std::fs::remove_dir_all(home.path().join("audit")).unwrap();
    fails(home.path(), &["serve"], NEGATIVE, &["audit is missing", "restore it"]);
}

#[test]
fn what_keeps_a_server_from_starting_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let home = setup().home();
    let config = |text: &str| std::fs::write(home.path().join("bursar.toml"), text).unwrap();
    let fails = |code: i32, words: &[&str]| fails(home.path(), &["serve"], code, words);

    let address = taken.local_addr().unwrap().to_string();
    config(&format!("[proxy]\nlisten = \"{address}\"\n"));
    fails(
        UNAVAILABLE,
        &[&address, "another program uses this port", "bursar.toml"],
    );
    let file = home.path().join("bursar.toml").display().to_string();
    config("[proxy]\nlisten = \"127.0.0.1:0\"\nlisen = 3\n");
    fails(USAGE, &[&format!("{file}:3:1: "), "lisen", "Did you mean `listen`?"]);
    config("[proxy\n");
    fails(USAGE, &[&format!("{file}:1:"), "not valid TOML"]);
    config("[wallet.evm]\nkey = \"0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\"\n");
    let said = fails(USAGE, &[&format!("{file}:2:"), "env:NAME"]);
    assert!(!said.contains("ac0974"), "{said}");
    config("[upstream]\nextra_ca = \"nowhere.pem\"\n");
    fails(USAGE, &["nowhere.pem"]);

    config("[proxy]\nlisten = \"127.0.0.1:0\"\n");
    let file = home.path().join("limits.toml").display().to_string();
    let limits = |text: &str| std::fs::write(home.path().join("limits.toml"), text).unwrap();
    limits("timezone = \"UTC\"\n[agents.research]\ndaay = \"5.00\"\n");
    fails(USAGE, &[&format!("{file}:3:1: "), "Did you mean `day`?"]);
    limits("timezone = \"UTC\"\n[agents.Research]\nday = \"5.00\"\n");
    fails(
        USAGE,
        &[
            &format!("{file}:2:9: "),
            "is not a valid agent name",
            "[agents.research]",
        ],
    );
    limits("timezone = \"UTC\"\n[agents.\"my agent\"]\nday = \"5.00\"\n");
    fails(USAGE, &[&format!("{file}:2:9: "), "lower-case letters"]);
    std::fs::remove_file(&file).unwrap();
    fails(USAGE, &[&file, "No such file"]);
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_named() {
    let home = setup().folder(&"long-".repeat(20)).home();
    fails(
        home.path(),
        &["serve"],
        NEGATIVE,
        &["admin.sock", "at most 107 bytes", "shorter path"],
    );
}

#[test]
fn a_run_folder_that_was_cleaned_away_comes_back() {
    let home = setup().home();
    let run = home.path().join("run");
    std::fs::remove_dir_all(&run).unwrap();
    done(home.path(), &["agents", "add", "writer"]);
    std::fs::remove_dir_all(&run).unwrap();
    let mut bursar = home.serve();
    assert_eq!(mode(&run), 0o700);
    assert_eq!(bursar.stop(), DONE);
}

#[test]
fn a_node_that_never_answers_does_not_hold_up_the_end() {
    // The kernel accepts the connections; nobody reads from them.
    let node = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rpc = format!(
        "[networks.\"eip155:84532\"]\nrpc = [\"http://{}\"]\n",
        node.local_addr().unwrap()
    );
    let mut bursar = setup().config(&rpc).start();
    let _asked = node.accept().unwrap();
    let began = Instant::now();
    assert_eq!(bursar.stop(), DONE);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_server_says_what_it_can_and_cannot_pay() {
    let bursar = setup().start();
    assert!(
        bursar
            .log()
            .contains(&format!("ready to pay wallet={WALLET} networks=\"eip155:84532\"")),
        "{}",
        bursar.log()
    );
    let without = |remove: &str, expected: &str| {
        let home = setup().home();
        let path = home.path().join("bursar.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, after) = text.split_once(remove).unwrap();
        let after = after.split_once("\n[").map_or("", |(_, rest)| rest);
        std::fs::write(
            &path,
            format!(
                "{before}{}",
                if after.is_empty() {
                    String::new()
                } else {
                    format!("[{after}")
                }
            ),
        )
        .unwrap();
        let bursar = home.serve();
        assert!(bursar.log().contains(expected), "{}", bursar.log());
    };
    without("[wallet.evm]", "no [wallet.evm] in bursar.toml: nothing can be paid");
    without("[networks", "no [networks] in bursar.toml: nothing can be paid");
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_leaves_no_core_dump() {
    let bursar = setup().start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", bursar.pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let sizes: Vec<&str> = core["Max core file size".len()..].split_whitespace().take(2).collect();
    assert_eq!(sizes, ["0", "0"], "{core}");
    // A process that may not be dumped belongs to root under /proc, whichever user runs it.
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(format!("/proc/{}/environ", bursar.pid()))
        .unwrap()
        .uid();
    assert_eq!(owner, 0);
}
