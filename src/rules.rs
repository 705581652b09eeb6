//! The limits in force: `limits.toml`, read again when it changes. A broken file changes nothing (DESIGN, "Two files").

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::config::{ConfigError, limits};
use crate::ledger::Event;
use crate::policy::Limits;

pub struct Rules {
    path: PathBuf,
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
    /// New limits are in force.
    Loaded(Event),
    /// The file is broken; the old limits stay in force.
    Rejected(Event, Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Rules {
    /// Reads the file for the first time: here a broken one is an error.
    pub fn load(path: PathBuf) -> Result<(Self, Event), RulesError> {
        let seen = Stamp::of(&path);
        let (limits, sha256) = read(&path)?;
        let state = State { limits: Arc::new(limits), generation: 1, seen };
        let event = Event::PolicyLoad { generation: 1, sha256 };
        Ok((Self { path, state: RwLock::new(state) }, event))
    }

    pub fn current(&self) -> (Arc<Limits>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.limits.clone(), state.generation)
    }

    /// One `stat`; reads the file if it is another one than last time. Called every second and at SIGHUP.
    pub fn look(&self) -> Look {
        let seen = Stamp::of(&self.path);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if seen == state.seen {
            return Look::Unchanged;
        }
        state.seen = seen;
        match read(&self.path) {
            Ok((limits, sha256)) => {
                state.limits = Arc::new(limits);
                state.generation += 1;
                Look::Loaded(Event::PolicyLoad { generation: state.generation, sha256 })
            }
            Err(error) => {
                let sha256 = fs::read(&self.path).map(|text| Sha256::digest(text).into()).unwrap_or_default();
                Look::Rejected(Event::PolicyRejected { sha256 }, error.into())
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<(Limits, [u8; 32]), RulesError> {
    let text = fs::read_to_string(path).map_err(|source| RulesError::Read { path: path.clone(), source })?;
    let sha256 = Sha256::digest(text.as_bytes()).into();
    let limits = limits::parse(path, &text)?;
    Ok((limits, sha256))
}

impl Stamp {
    fn of(path: &PathBuf) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        Some(Self {
            modified: (about.mtime(), about.mtime_nsec()),
            length: about.len(),
            inode: about.ino(),
        })
    }
}
