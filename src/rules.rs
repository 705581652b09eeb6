//! The limits in force: `limits.toml`, read again when it changes. A broken file changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::config::{ConfigError, limits};
use bursar_core::policy::Limits;
use bursar_home::Home;
use bursar_ledger::Event;

pub struct Rules {
    home: Home,
    state: RwLock<State>,
}

struct State {
    limits: Arc<Limits>,
    /// Counts the files that came into force, from 1; entries name it as `policy_gen`.
    generation: u64,
    /// The last file looked at, good or bad, so that a bad one is complained about once.
    seen: Option<Stamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

/// What a look at the file brought.
pub enum Look {
    Unchanged,
    /// New limits, which come into force by [`Rules::enforce`] once their entry is on disk.
    Loaded(Event, Box<Pending>),
    /// The file is broken; the old limits stay in force.
    Rejected(Event, ConfigError),
}

impl Rules {
    /// Reads the file for the first time: here a broken one is an error.
    pub fn load(home: &Home) -> Result<(Self, Event), ConfigError> {
        let seen = Stamp::of(&home.limits());
        let limits = limits::load(home.root())?;
        let event = loaded(&limits, 1);
        let state = State {
            limits: Arc::new(limits),
            generation: 1,
            seen,
        };
        Ok((
            Self {
                home: home.clone(),
                state: RwLock::new(state),
            },
            event,
        ))
    }

    pub fn current(&self) -> (Arc<Limits>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.limits.clone(), state.generation)
    }

    pub fn enforce(&self, pending: Box<Pending>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.limits = Arc::new(pending.limits);
        state.generation = pending.generation;
    }

    /// One `stat`; reads the file if it is another one than last time. Called every second and at SIGHUP.
    pub fn look(&self) -> Look {
        let seen = Stamp::of(&self.home.limits());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if seen == state.seen {
            return Look::Unchanged;
        }
        state.seen = seen;
        match limits::load(self.home.root()) {
            Ok(limits) => {
                let generation = state.generation + 1;
                Look::Loaded(loaded(&limits, generation), Box::new(Pending { limits, generation }))
            }
            Err(error) => {
                let sha256 = fs::read(self.home.limits())
                    .map(|text| Sha256::digest(text).into())
                    .unwrap_or_default();
                // The error quotes the file; the entry only says that there was one.
                let reason = "not readable as limits".to_owned();
                Look::Rejected(
                    Event::PolicyRejected {
                        sha256,
                        reason,
                        who: WHO.to_owned(),
                    },
                    error,
                )
            }
        }
    }
}

/// Limits that have been read and are not in force yet.
pub struct Pending {
    limits: Limits,
    generation: u64,
}

/// A file has no author that we could name.
const WHO: &str = "file";

fn loaded(limits: &Limits, generation: u64) -> Event {
    Event::PolicyLoaded {
        generation,
        sha256: limits.sha256,
        who: WHO.to_owned(),
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        Some(Self {
            modified: (about.mtime(), about.mtime_nsec()),
            length: about.len(),
            inode: about.ino(),
        })
    }
}
