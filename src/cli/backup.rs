//! `bursar backup`, `bursar restore` and `bursar retain`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;

use super::environment::sh_word;
use super::output::say;
use super::zone::ShownZone;
use super::{Exit, Failure, journal};
use crate::admin;
use crate::backup::take::{self, CopyKeys};
use crate::backup::{BackupError, restore, retain};
use bursar_core::clock::SystemClock;
use bursar_home::Home;
use bursar_ledger::{OpenError, compare};

#[derive(Args)]
pub(super) struct Backup {
    /// Directory to back up to; it must be empty or not exist yet
    #[arg(value_name = "TARGET")]
    target: PathBuf,
    /// Also copy the keys; anyone who has the copy then controls the funds
    #[arg(long)]
    with_keys: bool,
}

#[derive(Args)]
pub(super) struct Restore {
    /// Directory that `bursar backup` wrote
    #[arg(value_name = "SOURCE", required_unless_present = "accept", conflicts_with = "accept")]
    source: Option<PathBuf>,
    /// Confirm that you checked what is missing from the restored ledger, so that `serve` starts again
    #[arg(long, requires = "why")]
    accept: bool,
    /// What you found; recorded in the ledger
    #[arg(long, value_name = "TEXT", requires = "accept")]
    why: Option<String>,
}

#[derive(Args)]
pub(super) struct Retain {
    /// Move only entries older than this, at least 8 days ago: a day (2026-11-20, which begins at its midnight in the time
    /// zone of limits.toml), a time (2026-11-20T08:00:00Z), or how long ago (400d)
    #[arg(long, value_name = "TIME", value_parser = super::dates::has_form)]
    before: String,
    /// Folder to move them to
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
}

impl Retain {
    /// Needs the directory's lock, so the server must be stopped.
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let to = absolute(&self.to)?;
        let who = admin::decider(rustix::process::geteuid().as_raw());
        let before = ShownZone::of(home).since(&self.before)?;
        match retain::retain(home, before, &to, Arc::new(SystemClock), who).await? {
            None => say!("Nothing to move: every segment has newer entries, or payments that are still open.")?,
            Some(moved) => {
                let (count, first) = (moved.segments, moved.first_seq);
                say!(
                    "Segments moved to {}: {count}. The ledger here now begins with entry {first}.",
                    to.display()
                )?;
                say!("Their amounts still count toward the limits. Their payments are no longer listed here.")?;
            }
        }
        Ok(Exit::Done)
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

impl Backup {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let target = absolute(&self.target)?;
        if take::is_inside(home, &target) {
            return Err(Failure::usage(format!(
                "{} is inside the data directory and would be lost with it; choose a target elsewhere",
                target.display()
            )));
        }
        let keys = if self.with_keys {
            CopyKeys::Included
        } else {
            CopyKeys::LeftOut
        };
        // A damaged ledger must not take the place of an older, whole backup.
        let exit = journal::noted(compare(home.root()).map_err(journal::damaged)?);
        let mut progress = Progress::new();
        let made = take::backup(home, &target, keys, Timestamp::now(), &mut |bytes| progress.at(bytes));
        progress.end();
        let manifest = made?;
        say!(
            "Backed up to {}: {} ledger entries and {} files.",
            target.display(),
            manifest.entries,
            manifest.files.len()
        )?;
        if self.with_keys {
            say!("It contains the keys: anyone who has it controls the funds.")?;
        }
        if !manifest.left_out.is_empty() {
            say!("Not included: {}.", manifest.left_out.join(", "))?;
        }
        say!(
            "Never included: run/, index/ and lock, which belong to this machine, and the credentials of \
             outstanding payments."
        )?;
        Ok(exit)
    }
}

impl Restore {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
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
        "Restored {dir}: {} ledger entries, as of {}.",
        manifest.entries,
        manifest.made_at
    )?;
    if !manifest.left_out.is_empty() {
        say!("Not in the backup: {}.", manifest.left_out.join(", "))?;
        say!(
            "  Put back your copies of the keys before you start it; a new log.key would not match the signed journal."
        )?;
    }
    say!()?;
    say!(
        "Payments made after {} are missing from this ledger, so the limits would allow that money to be spent again.",
        manifest.made_at
    )?;
    say!("If the original directory still runs with the same wallet, neither counts what the other spends.")?;
    say!("`bursar serve` therefore refuses to start until you have done this:")?;
    say!("  1. make sure that no other bursar uses this wallet")?;
    say!("  2. compare the wallet's transfers since then with `bursar payments list --dir {dir}`")?;
    say!("  3. lower the limits by what is missing, or set paused = true in limits.toml until their windows are over")?;
    say!("  4. bursar restore --accept --why TEXT --dir {dir}")?;
    Ok(Exit::Done)
}

async fn accept(home: &Home, why: String) -> Result<Exit, Failure> {
    home.require_initialised()?;
    if why.trim().is_empty() {
        return Err(Failure::usage(
            "--why is empty; say what you found: the ledger records it",
        ));
    }
    let who = admin::decider(rustix::process::geteuid().as_raw());
    restore::accept(home, Arc::new(SystemClock), who, &why).await?;
    say!("Accepted. `bursar serve` will start now.")?;
    Ok(Exit::Done)
}

/// Progress of a long copy, shown on a terminal.
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
            // Not worth failing for.
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
