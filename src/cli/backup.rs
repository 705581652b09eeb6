//! `bursar backup`, `bursar restore` and `bursar retain`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;

use super::environment::sh_word;
use super::output::say;
use super::{Exit, Failure};
use crate::admin;
use crate::backup::take::{self, CopyKeys};
use crate::backup::{BackupError, restore, retain};
use bursar_core::clock::SystemClock;
use bursar_home::Home;
use bursar_ledger::OpenError;

#[derive(Args)]
pub struct Backup {
    /// Where to: a directory that does not exist yet, or is empty
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Also copy the keys; whoever has the copy then has the money
    #[arg(long)]
    with_keys: bool,
}

#[derive(Args)]
pub struct Restore {
    /// A backup
    #[arg(value_name = "SOURCE", required_unless_present = "accept", conflicts_with = "accept")]
    source: Option<PathBuf>,
    /// You have looked what is missing in the restored books: `serve` may pay again
    #[arg(long, requires = "why")]
    accept: bool,
    /// What you found; the books keep it
    #[arg(long, value_name = "TEXT", requires = "accept")]
    why: Option<String>,
}

#[derive(Args)]
pub struct Retain {
    /// Only entries from before then: 2026-11-20, or 2026-11-20T08:00:00Z; at least 8 days ago
    #[arg(long, value_name = "TIME", value_parser = super::payments::moment)]
    before: Timestamp,
    /// Where to
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

impl Retain {
    /// With the server stopped: it takes the directory's lock.
    pub async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let to = absolute(&self.to)?;
        let who = admin::decider(rustix::process::geteuid().as_raw());
        match retain::retain(home, self.before, &to, Arc::new(SystemClock), who).await? {
            None => say!("Nothing to move: no whole segment is that old and free of open payments.")?,
            Some(moved) => {
                let (count, first) = (moved.segments, moved.first_seq);
                say!(
                    "{count} segments are in {} now; the books here begin with entry {first}.",
                    to.display()
                )?;
                say!("What they counted still counts. Payments in them are no longer listed here.")?;
            }
        }
        Ok(Exit::Done)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

impl Backup {
    pub fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let target = absolute(&self.target)?;
        if take::is_inside(home, &target) {
            return Err(Failure::usage(format!(
                "{} lies in the data directory and would be lost with it; name another place",
                target.display()
            )));
        }
        let keys = if self.with_keys {
            CopyKeys::Included
        } else {
            CopyKeys::LeftOut
        };
        let mut progress = Progress::new();
        let made = take::backup(home, &target, keys, Timestamp::now(), &mut |bytes| progress.at(bytes));
        progress.end();
        let manifest = made?;
        say!(
            "{}: {} entries of the books and {} files.",
            target.display(),
            manifest.entries,
            manifest.files.len()
        )?;
        if self.with_keys {
            say!("Keys are in it: whoever has it has the money.")?;
        }
        if !manifest.left_out.is_empty() {
            say!("Left out: {}.", manifest.left_out.join(", "))?;
        }
        say!("Always left out: run/, index/ and lock, which belong to this machine, and credentials in doubt.")?;
        Ok(Exit::Done)
    }
}

impl Restore {
    pub async fn run(self, home: &Home) -> Result<Exit, Failure> {
        match (self.source, self.why) {
            (Some(source), _) => restore_from(&source, home),
            (None, why) => accept(home, why.unwrap_or_default()).await,
        }
    }
}

fn restore_from(source: &Path, home: &Home) -> Result<Exit, Failure> {
    let mut progress = Progress::new();
    let restored = restore::restore(source, home, Timestamp::now(), &mut |bytes| progress.at(bytes));
    progress.end();
    let manifest = restored?;
    let dir = sh_word(&home.root().display().to_string());
    say!(
        "{dir} is restored: {} entries, as they were at {}.",
        manifest.entries,
        manifest.made_at
    )?;
    if !manifest.left_out.is_empty() {
        say!("Not in the backup: {}.", manifest.left_out.join(", "))?;
        say!(
            "  Put the keys back from where you keep them before you start it; a new log.key would not fit the signed journal."
        )?;
    }
    say!()?;
    say!(
        "What was paid after {} is missing here, so the limits would allow that money again.",
        manifest.made_at
    )?;
    say!("Two directories from one backup with one wallet each believe that they alone spend: only one may run.")?;
    say!("`bursar serve` therefore does not start until you have looked:")?;
    say!("  1. make sure that no other bursar runs with this wallet")?;
    say!("  2. compare the wallet's transfers since then with `bursar payments list --dir {dir}`")?;
    say!("  3. lower the limits by what is missing, or write paused = true in limits.toml until they are new")?;
    say!("  4. bursar restore --accept --why TEXT --dir {dir}")?;
    Ok(Exit::Done)
}

async fn accept(home: &Home, why: String) -> Result<Exit, Failure> {
    home.require_initialised()?;
    if why.trim().is_empty() {
        return Err(Failure::usage("--why is empty; say what you found, the books keep it"));
    }
    let who = admin::decider(rustix::process::geteuid().as_raw());
    restore::accept(home, Arc::new(SystemClock), who, &why).await?;
    say!("Accepted: `bursar serve` starts again.")?;
    Ok(Exit::Done)
}

/// How far a long copy is, for somebody who watches.
struct Progress {
    is_watched: bool,
    next: Instant,
    was_shown: bool,
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(500);

    fn new() -> Self {
        Self {
            is_watched: std::io::stderr().is_terminal(),
            next: Instant::now() + Self::EVERY,
            was_shown: false,
        }
    }

    fn at(&mut self, bytes: u64) {
        let now = Instant::now();
        if self.is_watched && now >= self.next {
            self.next = now + Self::EVERY;
            self.was_shown = true;
            // Nobody needs it enough to fail for it.
            let _ = write!(std::io::stderr(), "\r  {} MiB copied", bytes >> 20);
        }
    }

    fn end(&mut self) {
        if self.was_shown {
            let _ = writeln!(std::io::stderr());
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let message = error.to_string();
        match error {
            BackupError::NotEmpty(_)
            | BackupError::Unfinished(_)
            | BackupError::TooYoung
            | BackupError::NothingToAccept(_) => Self::usage(message),
            BackupError::Open(OpenError::InUse(_)) => Self::unavailable(message),
            _ => Self::negative(message),
        }
    }
}
