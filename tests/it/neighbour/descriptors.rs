//! Connections that say nothing, on a machine that allows few open files.

use std::process::Command;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{Town, held};
use crate::support::bursar::{bin, setup};

/// The binary, with at most so many open files.
fn with_files(most: usize) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\""), bin()]);
    shell
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_lock_out_nobody_and_stop_no_signature() {
    const FILES: usize = 96;
    const STRANGERS: usize = 100;
    let mut town = Town::new(setup(), held(), Some(with_files(FILES))).await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(TcpStream::connect(town.bursar.address).await.unwrap());
    }
    let address = town.bursar.address;
    // As one is closed, the next one comes.
    let more = tokio::spawn(async move {
        let mut silence = [0];
        for _ in 0..STRANGERS * 20 {
            let mut oldest = strangers.remove(0);
            strangers.push(TcpStream::connect(address).await.unwrap());
            let _ = oldest.read(&mut silence).await;
        }
        // Those that are left stay until the test ends.
        std::future::pending::<()>().await;
    });
    for _ in 0..2 {
        town.good_ones_buy(4).await;
        town.commands_work();
    }
    assert!(!more.is_finished());
    more.abort();
    let open = std::fs::read_dir(format!("/proc/{}/fd", town.bursar.pid()))
        .unwrap()
        .count();
    assert!(open < FILES - 16, "{open} of {FILES} are open: the reserve is in use");
    let log = town.bursar.log();
    assert!(!log.contains("Too many open files"), "{log}");
    town.the_books_are_right().await;
}

#[tokio::test]
async fn a_server_that_could_not_serve_says_how_many_files_it_needs() {
    let home = setup().home();
    let (home, line) = home.try_serve_by(with_files(40)).err().expect("40 files are too few");
    assert_eq!(line, "");
    let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
    assert!(log.contains("may open 40 files") && log.contains("ulimit -Hn"), "{log}");
}

#[tokio::test]
async fn the_limit_on_open_files_is_raised_to_what_the_machine_allows() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 64 && ulimit -Hn 4096 && exec \"$0\" \"$@\"", bin()]);
    let bursar = setup().home().serve_by(shell);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", bursar.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["4096", "4096"]);
}
