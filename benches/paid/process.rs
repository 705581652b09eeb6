//! Child processes: lines in, lines out, CPU from `/proc`, and an end that is certain.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::Fault;

/// Linux counts CPU time for user space in hundredths of a second (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A child that does not outlive this value.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    name: &'static str,
}

/// Whatever still runs is killed after `bound`, this process included: a benchmark must not hang in CI.
pub(crate) fn end_all_after(bound: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(bound);
        eprintln!("paid: not done after {} s; giving up", bound.as_secs());
        for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            signal(*pid, Signal::KILL);
        }
        std::process::exit(1);
    });
}

impl Process {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self, Fault> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("a child without output")?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
            name,
        })
    }

    /// This program again, in another role.
    pub(crate) fn role(name: &'static str) -> Result<Self, Fault> {
        Self::start(name, Command::new(std::env::current_exe()?).arg(name))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<(), Fault> {
        let stdin = self.stdin.as_mut().ok_or("a child without input")?;
        writeln!(stdin, "{line}").map_err(|error| format!("{} does not listen: {error}", self.name).into())
    }

    pub(crate) fn next_line(&mut self) -> Result<String, Fault> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line)? {
            0 => Err(format!("{} ended without an answer", self.name).into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Everything it still says, once it has ended.
    pub(crate) fn read_last(&mut self) -> Result<String, Fault> {
        let mut text = String::new();
        self.stdin = None;
        self.stdout.read_to_string(&mut text)?;
        Ok(text)
    }

    /// SIGTERM, and its exit.
    pub(crate) fn stop(&mut self) -> Result<(), Fault> {
        signal(self.child.id(), Signal::TERM);
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{} ended with {status}", self.name).into())
        }
    }

    /// User and system time so far, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration, Fault> {
        let stat = std::fs::read_to_string(self.proc("stat"))?;
        // The second field is the program's name in brackets, with anything in it.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
        Ok(TICK * ticks)
    }

    /// Bytes it has caused to be written to storage. `None`: this kernel does not count them.
    pub(crate) fn written(&self) -> Option<u64> {
        let io = std::fs::read_to_string(self.proc("io")).ok()?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?;
        line.trim().parse().ok()
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|pid| *pid != self.child.id());
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}
