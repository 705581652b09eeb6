//! The limits in force: `limits.toml`, reloaded when it changes. A file with errors, or one that others could have changed
//! (R79), changes nothing; people are alerted as long as it stays like that.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use crate::alerts::{Alert, Alerts};
use crate::config::{ConfigError, LimitsFile};
use bursar_core::policy::Limits;
use bursar_ledger::{Event, Ledger};

pub(crate) struct Rules {
    file: LimitsFile,
    state: RwLock<State>,
    alerts: Option<Alerts>,
}

struct State {
    limits: Arc<Limits>,
    /// Number of the version in force, counted from 1; `policy_gen` in entries.
    generation: u64,
    /// The last version examined, valid or not, so that an invalid one is reported once.
    seen: Option<Stamp>,
    /// Why the file as it is now is not in force.
    rejected: Option<String>,
}

/// What a change of the file changes: its content, or who may change it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
    rights: Rights,
    of_folder: Option<Rights>,
}

/// Owner and mode.
type Rights = (u32, u32);

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
    pub(crate) fn load(file: LimitsFile) -> Result<(Self, Event), ConfigError> {
        let seen = Stamp::of(file.path());
        let limits = file.load()?;
        let event = loaded(&limits, 1);
        let state = State {
            limits: Arc::new(limits),
            generation: 1,
            seen,
            rejected: None,
        };
        Ok((
            Self {
                file,
                state: RwLock::new(state),
                alerts: None,
            },
            event,
        ))
    }

    /// Alerts people from now on when the file is rejected.
    pub(crate) fn alerting(self, alerts: Alerts) -> Self {
        Self {
            alerts: Some(alerts),
            ..self
        }
    }

    pub(crate) fn current(&self) -> (Arc<Limits>, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.limits.clone(), state.generation)
    }

    /// Reads `limits.toml` again if it changed. New limits are in force once their entry is on disk, so that no payment
    /// names limits that the ledger does not know.
    pub(crate) async fn refresh(&self, ledger: &dyn Ledger) {
        match self.look() {
            Look::Unchanged => self.alert_if_rejected(),
            Look::Loaded(event, pending) => {
                if record(ledger, event).await {
                    self.enforce(pending);
                    tracing::info!("limits.toml read again; the new limits are in force");
                }
            }
            Look::Rejected(event, error) => {
                tracing::error!(
                    "limits.toml was not accepted, so the limits of before stay in force: {}",
                    error.place()
                );
                record(ledger, event).await;
                self.alert_if_rejected();
            }
        }
    }

    /// Called as often as the file is looked at; the same alert is sent once an hour.
    fn alert_if_rejected(&self) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(alerts), Some(why)) = (&self.alerts, &state.rejected) {
            alerts.raise(Alert::LimitsRejected {
                path: self.file.path().display().to_string(),
                why: why.clone(),
            });
        }
    }

    fn enforce(&self, pending: Box<Pending>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.limits = Arc::new(pending.limits);
        state.generation = pending.generation;
    }

    /// One `stat`; reads the file only if it has changed since the last call. Called every second and on SIGHUP.
    fn look(&self) -> Look {
        let seen = Stamp::of(self.file.path());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if seen == state.seen {
            return Look::Unchanged;
        }
        state.seen = seen;
        match self.file.load() {
            Ok(limits) => {
                state.rejected = None;
                let generation = state.generation + 1;
                Look::Loaded(loaded(&limits, generation), Box::new(Pending { limits, generation }))
            }
            Err(error) => {
                let sha256 = fs::read(self.file.path())
                    .map(|text| Sha256::digest(text).into())
                    .unwrap_or_default();
                state.rejected = Some(error.place());
                // The error quotes the file, so it does not go into the entry.
                let reason = match error {
                    ConfigError::Untrusted(_) => "limits.toml can be changed by others",
                    ConfigError::Unreadable { .. } | ConfigError::Invalid(_) => "limits.toml has errors",
                };
                let reason = reason.to_owned();
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
        let limits = crate::config::limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
        Self {
            file: LimitsFile::in_data("/nonexistent/limits.toml".into(), "/nonexistent".as_ref()),
            state: RwLock::new(State {
                limits: Arc::new(limits),
                generation: 1,
                seen: None,
                rejected: None,
            }),
            alerts: None,
        }
    }

    /// Other ones from now on.
    pub(crate) fn replace(&self, text: &str) {
        let limits = crate::config::limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
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
            rights: rights(&about),
            of_folder: path
                .parent()
                .and_then(|folder| fs::metadata(folder).ok())
                .map(|about| rights(&about)),
        })
    }
}

fn rights(about: &fs::Metadata) -> Rights {
    (about.uid(), about.mode())
}
