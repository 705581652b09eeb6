//! `bursar run`: exit codes, signals, and tokens that end.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{bare, printed, ran, run, shop, text};
use crate::support::agent::Agent;
use crate::support::bursar::{Home, bin, bursar, setup};

/// A server on all addresses is reached over loopback.
#[tokio::test]
async fn a_child_finds_a_server_that_listens_everywhere() {
    let origin = shop().await;
    let home = setup().trust(&origin.ca_pem).proxy("allow_plain = true\n").home();
    let path = home.path().join("bursar.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        config.replace("listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:0\""),
    )
    .unwrap();
    let bursar = home.serve();
    assert!(bursar.address.ip().is_unspecified());
    let command = run(bursar.path(), &["sh", "-c", "printf %s \"$HTTPS_PROXY\""]);
    let output = tokio::task::spawn_blocking(move || ran(command)).await.unwrap();
    let address = text(&output.stdout).rsplit_once('@').unwrap().1;
    assert_eq!(address, format!("127.0.0.1:{}", bursar.address.port()));
    let agent = Agent {
        proxy: address.parse().unwrap(),
        ..Agent::of(&bursar)
    };
    assert_eq!(agent.get(origin.address, "/goods").await.status, 200);
}

#[test]
fn the_exit_code_is_the_childs() {
    let bursar = setup().start();
    let code = |script: &str| {
        run(bursar.path(), &["sh", "-c", script])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(code("exit 0"), Some(0));
    assert_eq!(code("exit 42"), Some(42));
    assert_eq!(code("kill -9 $$"), Some(128 + 9));

    let failed = run(bursar.path(), &["/no/such/program", "--flag"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(125));
    assert!(
        text(&failed.stderr).contains("cannot run /no/such/program"),
        "{failed:?}"
    );
    let mut stranger = bare(bin());
    stranger
        .args(["run", "--agent", "stranger", "--dir"])
        .arg(bursar.path())
        .args(["--", "true"]);
    let failed = stranger.output().unwrap();
    assert_eq!(failed.status.code(), Some(125));
    assert!(
        text(&failed.stderr).contains("bursar agents add stranger"),
        "{failed:?}"
    );
}

#[test]
fn without_a_server_nothing_is_run_and_the_remedy_is_named() {
    let home = setup().home();
    let start = format!("bursar serve --dir {}", home.path().display());
    let assert_said = |home: &Home| {
        let failed = run(home.path(), &["touch", "was-run"])
            .current_dir(home.path())
            .output()
            .unwrap();
        assert_eq!(failed.status.code(), Some(125));
        assert!(text(&failed.stderr).contains(&start), "{failed:?}");
        assert!(!home.path().join("was-run").exists());
        let failed = bursar(home.path(), &["env", "--agent", "research"]);
        assert_eq!(failed.status.code(), Some(5));
        assert!(
            failed.stdout.is_empty() && text(&failed.stderr).contains(&start),
            "{failed:?}"
        );
    };
    assert_said(&home);

    // A killed server leaves its address file behind. Another process may have its port now.
    let mut server = home.serve();
    let port = server.address;
    let home = server.kill();
    assert!(home.path().join("run/listen").exists());
    let _somebody_else = std::net::TcpListener::bind(port).unwrap();
    assert_said(&home);
}

#[test]
fn signals_are_handed_to_the_child() {
    let bursar = setup().start();
    for (name, signal) in [("TERM", Signal::TERM), ("HUP", Signal::HUP), ("INT", Signal::INT)] {
        // Without a terminal, as under a service manager, which signals a single process.
        let mut command = bare("setsid");
        command
            .args([bin(), "run", "--agent", "research", "--dir"])
            .arg(bursar.path());
        let script = format!("trap 'exit 7' {name}; echo ready; read line; exit 8");
        command.args(["--", "sh", "-c", &script]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // `read` returns, and the child ends, when this goes out of scope.
        let _stdin = child.stdin.take().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        assert_eq!(ended(&mut child), Some(7), "{name}");
    }
}

fn ended(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the child did not end");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn the_token_of_a_run_dies_with_its_child() {
    let bursar = setup().start();
    let output = ran(run(bursar.path(), &["sh", "-c", "printf %s \"$HTTPS_PROXY\""]));
    let login = text(&output.stdout)
        .strip_prefix("http://")
        .unwrap()
        .rsplit_once('@')
        .unwrap()
        .0
        .to_owned();
    let agent = Agent {
        login,
        ..Agent::of(&bursar)
    };
    let began = Instant::now();
    loop {
        let (_, head) = agent.connect_answer("localhost:1").await;
        if head.starts_with("HTTP/1.1 407") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "still let in: {head}");
    }
    // The agent's own token remains valid.
    let (_, head) = Agent::of(&bursar).connect_answer("localhost:1").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn tokens_are_stored_only_as_hashes() {
    let bursar = setup().start();
    let of_run = ran(run(bursar.path(), &["sh", "-c", "printf %s \"$HTTPS_PROXY\""]));
    let mut during = run(
        bursar.path(),
        &[
            "sh",
            "-c",
            "printf '%s ' \"$HTTPS_PROXY\"; cat \"$1/agents.toml\"",
            "sh",
        ],
    );
    during.arg(bursar.path());
    let during = ran(during);
    let of_env = printed(&bursar, "dotenv");
    let token = |output: &Output| {
        let after = text(&output.stdout).split_once("bur_").unwrap().1;
        after.split('@').next().unwrap().to_owned()
    };
    let tokens = [
        bursar.home.token.strip_prefix("bur_").unwrap().to_owned(),
        token(&of_run),
        token(&of_env),
        token(&during),
    ];
    let file_during_run = text(&during.stdout).split_once(' ').unwrap().1;
    assert!(file_during_run.contains("purpose = \"run\"") && !file_during_run.contains(&tokens[3]));
    let files = files_below(bursar.path());
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let content = std::fs::read(&file).unwrap();
        for token in &tokens {
            assert_eq!(token.len(), 43);
            let found = content.windows(token.len()).any(|window| window == token.as_bytes());
            assert!(!found, "{} holds a token", file.display());
        }
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files.extend(files_below(&entry.path()));
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    files
}
