//! The operator's command: a message as one line of JSON on its standard input, no shell, no output kept.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

/// What a command gets of our environment. The rest may hold the wallet's key (`env:NAME`).
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Program and arguments.
pub struct Program {
    command: Vec<String>,
    /// The data directory: where it runs, and where relative paths start.
    dir: PathBuf,
}

/// The command and what it has started. Dropped before its end, all of them are killed.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            // It may have ended this very moment.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Program {
    /// `command` has at least the program, which bursar.toml's reader has made sure of.
    pub fn new(command: Vec<String>, dir: PathBuf) -> Self {
        Self { command, dir }
    }

    pub fn shown(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Runs it to its end; whoever stops waiting kills it.
    pub async fn run(&self, message: &impl Serialize) -> Result<(), String> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err("no program is named".to_owned());
        };
        // A bare name is looked up in PATH, a path starts at the data directory.
        let program = if program.contains('/') {
            self.dir.join(program)
        } else {
            PathBuf::from(program)
        };
        let mut line = serde_json::to_vec(message).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let environment = PASSED_ON
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let mut child = tokio::process::Command::new(&program)
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group(pid);
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read what happened may still do its work.
            let _ = stdin.write_all(&line).await;
        }
        let status = child.wait().await;
        // What it left running in the background is its own affair.
        group.0 = None;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("it ended with {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
