//! Child processes that do not outlive the benchmark.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bursar_bench_proxy::Fault;
use rustix::process::{Pid, Signal, kill_process};

static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A server. It ends with this value.
pub(crate) struct Server {
    child: Child,
    /// What it says first.
    pub(crate) first_line: String,
}

impl Server {
    /// Starts it, and waits until it says where it listens.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Fault> {
        let name = command.get_program().to_owned();
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", name.display());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| failed(&error))?;
        running().push(child.id());
        let stdout = child.stdout.take().ok_or("a child without output")?;
        let mut server = Self {
            child,
            first_line: String::new(),
        };
        if BufReader::new(stdout).read_line(&mut server.first_line)? == 0 {
            return Err(failed(&"ended before it listened").into());
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        running().retain(|other| *other != pid);
    }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output_of(command: &mut Command) -> Result<String, Fault> {
    let name = command.get_program().to_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", name.display()))?;
    let pid = child.id();
    running().push(pid);
    let output = child.wait_with_output();
    running().retain(|other| *other != pid);
    let output = output?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed: {}", name.display(), said.trim()).into())
}

/// Whatever still runs is killed after `bound`, this process included: a benchmark must not hang.
pub(crate) fn end_all_after(bound: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(bound);
        eprintln!("proxy: not done after {} s; giving up", bound.as_secs());
        for pid in running().iter() {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::process::exit(1);
    });
}

fn running() -> std::sync::MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
