//! The limits in force: `limits.toml`, reloaded when it changes. A file with errors changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::config::{ConfigError, limits};
use bursar_core::policy::Limits;
use bursar_home::Home;
use bursar_ledger::{Event, Ledger};

pub(crate) struct Rules {
    home: Home,
    state: RwLock<State>,
}

struct State {
    limits: Arc<Limits>,
    /// Number of the version in force, counted from 1; `policy_gen` in entries.
    generation: u64,
    /// The last version examined, valid or not, so that an invalid one is reported once.
    seen: Option<Stamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

/// The result of checking the file.
enum Look {
    Unchanged,
    /// New limits, which [`Rules::enforce`] puts into force once their entry is on disk.
    Loaded(Event, Box<Pending>),
    /// The file has errors; the old limits stay in force.
    Rejected(Event, ConfigError),
}

impl Rules {
    /// Reads the file for the first time; here a file with errors fails.
    pub(crate) fn load(home: &Home) -> Result<(Self, Event), ConfigError> {
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

    pub(crate) fn current(&self) -> (Arc<Limits>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.limits.clone(), state.generation)
    }

    /// Reads `limits.toml` again if it changed. New limits are in force once their entry is on disk, so that no payment
    /// names limits that the ledger does not know.
    pub(crate) async fn refresh(&self, ledger: &dyn Ledger) {
        match self.look() {
            Look::Unchanged => {}
            Look::Loaded(event, pending) => {
                if record(ledger, event).await {
                    self.enforce(pending);
                    tracing::info!("limits.toml read again; the new limits are in force");
                }
            }
            Look::Rejected(event, error) => {
                tracing::error!("limits.toml is invalid; the previous limits stay in force\n{error}");
                record(ledger, event).await;
            }
        }
    }

    fn enforce(&self, pending: Box<Pending>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.limits = Arc::new(pending.limits);
        state.generation = pending.generation;
    }

    /// One `stat`; reads the file only if it has changed since the last call. Called every second and on SIGHUP.
    fn look(&self) -> Look {
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
                // The error quotes the file, so it does not go into the entry.
                let reason = "limits.toml has errors".to_owned();
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

/// Whether it is on disk. Without that nothing is paid anyway: the writer has failed and does not recover.
pub(crate) async fn record(ledger: &dyn Ledger, event: Event) -> bool {
    match ledger.append(event).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "the change of limits could not be recorded, so it is not in force");
            false
        }
    }
}

/// Limits that have been read but are not in force yet.
struct Pending {
    limits: Limits,
    generation: u64,
}

/// A file does not show who changed it.
const WHO: &str = "file";

fn loaded(limits: &Limits, generation: u64) -> Event {
    Event::PolicyLoaded {
        generation,
        sha256: limits.sha256,
        who: WHO.to_owned(),
    }
}

#[cfg(test)]
impl Rules {
    /// These limits, without a file.
    pub(crate) fn fixed(text: &str) -> Self {
        let limits = limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
        Self {
            home: Home::at(Path::new("/nonexistent")).unwrap(),
            state: RwLock::new(State {
                limits: Arc::new(limits),
                generation: 1,
                seen: None,
            }),
        }
    }

    /// Other ones from now on.
    pub(crate) fn replace(&self, text: &str) {
        let limits = limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
        let generation = self.current().1 + 1;
        self.enforce(Box::new(Pending { limits, generation }));
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
