//! The operator's command: gets a message as one line of JSON on its standard input; no shell, and its output is
//! discarded.

use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::io::AsyncWriteExt;

/// The environment variables passed to the command. Others may contain the wallet's key (`env:NAME`).
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// Program and arguments.
pub struct Program {
    command: Vec<String>,
    /// The data directory: its working directory, and the base of relative paths.
    dir: PathBuf,
}

/// The command and its child processes. All are killed if this is dropped before the command ends.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.take() {
            // It may just have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Program {
    /// `command` names at least the program; the reader of bursar.toml ensures that.
    pub fn new(command: Vec<String>, dir: PathBuf) -> Self {
        Self { command, dir }
    }

    pub fn shown(&self) -> &str {
        self.command.first().map_or("", String::as_str)
    }

    /// Runs it until it exits. Dropping the future kills it.
    pub async fn run(&self, message: &impl Serialize) -> Result<(), String> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err("no program is configured".to_owned());
        };
        // A bare name is looked up in PATH; a path is relative to the data directory.
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
            .map_err(|error| format!("could not start it: {error}"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group(pid);
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input may still do its work.
            let _ = stdin.write_all(&line).await;
        }
        let status = child.wait().await;
        // Processes it left running in the background are its own affair.
        group.0 = None;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("it failed with {status}")),
            Err(error) => Err(error.to_string()),
        }
    }
}
