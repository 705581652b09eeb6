//! The limits in force: `limits.toml`, reloaded when it changes. A file with errors, or one that others could have changed
//! (R79), changes nothing; people are alerted as long as it stays like that.

mod standing;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::agents::Registry;
use crate::alerts::{Alert, Alerts};
use crate::config::{ConfigError, LimitsFile};
use bursar_config::warnings::{Surroundings, Warning, warnings};
use bursar_core::policy::Limits;
use bursar_ledger::{Event, Ledger};
pub(crate) use standing::{Standing, still_allowed};

pub(crate) struct Rules {
    file: LimitsFile,
    state: RwLock<State>,
    /// Held while the file is looked at. Requests never wait for it: they need only `state`.
    turn: Mutex<()>,
    alerts: Option<Alerts>,
    /// Whose sections the file should have.
    registry: Option<Registry>,
}

struct State {
    limits: Arc<Limits>,
    /// Number of the version in force, counted from 1; `policy_gen` in entries.
    generation: u64,
    /// The last version examined, valid or not, so that an invalid one is reported once.
    seen: Option<Stamp>,
    /// Why the file as it is now is not in force.
    rejected: Option<Rejection>,
}

/// A file that is not in force.
struct Rejection {
    sha256: [u8; 32],
    /// Where and why, without quoting the file.
    place: String,
    /// Every mistake, for those who may read the file.
    said: String,
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

/// Limits that have been read, and what is probably not meant in them.
pub(crate) struct Examined {
    pub limits: Limits,
    pub warnings: Vec<Warning>,
}

/// Reads the file and looks for warnings. Takes a while for a large file.
pub(crate) fn examine(
    file: &LimitsFile,
    agents: Option<&[String]>,
    members: Option<&BTreeMap<String, Arc<str>>>,
    now: Timestamp,
) -> Result<Examined, ConfigError> {
    let text = file.read()?;
    let limits = file.parse(&text)?;
    let around = Surroundings { agents, members, now };
    let warnings = warnings(&file.path().display().to_string(), &text, &limits, around);
    Ok(Examined { limits, warnings })
}

/// The names in agents.toml; `None` if it cannot be read.
pub(crate) fn agents_of(registry: &Registry) -> Option<Vec<String>> {
    let agents = registry.list().ok()?;
    Some(agents.into_iter().map(|agent| agent.name.as_str().to_owned()).collect())
}

impl Rules {
    /// Reads the file for the first time; here a file with errors fails.
    pub(crate) fn load(file: LimitsFile, registry: Registry) -> Result<(Self, Event), ConfigError> {
        let seen = Stamp::of(file.path());
        let agents = agents_of(&registry);
        let Examined { limits, warnings } = examine(&file, agents.as_deref(), None, Timestamp::now())?;
        log(&warnings);
        let event = loaded(&limits, 1);
        let state = State {
            limits: Arc::new(limits),
            generation: 1,
            seen,
            rejected: None,
        };
        let rules = Self {
            file,
            state: RwLock::new(state),
            turn: Mutex::default(),
            alerts: None,
            registry: Some(registry),
        };
        Ok((rules, event))
    }

    /// Alerts people from now on when the file is rejected.
    pub(crate) fn alerting(self, alerts: Alerts) -> Self {
        Self {
            alerts: Some(alerts),
            ..self
        }
    }

    pub(crate) fn current(&self) -> (Arc<Limits>, u64) {
        let state = self.read();
        (state.limits.clone(), state.generation)
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Where and why the file as it is now is not in force, without quoting it.
    pub(crate) fn rejected(&self) -> Option<String> {
        self.read().rejected.as_ref().map(|rejected| rejected.place.clone())
    }

    /// Whether the file with this content is in force, for `limits check --wait`.
    pub(crate) fn standing(&self, sha256: &[u8; 32]) -> Standing {
        let state = self.read();
        match &state.rejected {
            _ if state.limits.sha256 == *sha256 => Standing::InForce {
                generation: state.generation,
            },
            Some(rejected) if rejected.sha256 == *sha256 => Standing::Rejected {
                why: rejected.said.clone(),
            },
            _ => Standing::Waiting,
        }
    }

    /// Reads `limits.toml` again if it changed: one `stat`, called every second and on SIGHUP. New limits are in force once
    /// their entry is on disk, so that no payment names limits that the ledger does not know.
    pub(crate) async fn refresh(&self, ledger: &dyn Ledger) {
        let _turn = self.turn.lock().await;
        let seen = Stamp::of(self.file.path());
        if seen == self.read().seen {
            self.alert_if_rejected();
            return;
        }
        let examined = self.examine().await;
        self.write().seen = seen;
        match examined {
            Ok(Examined { limits, warnings }) => {
                self.write().rejected = None;
                let generation = self.read().generation + 1;
                if record(ledger, loaded(&limits, generation)).await {
                    self.enforce(limits, generation);
                    tracing::info!("limits.toml read again; the new limits are in force");
                    log(&warnings);
                }
            }
            Err(error) => self.reject(error, ledger).await,
        }
    }

    /// Away from the threads that serve requests.
    async fn examine(&self) -> Result<Examined, ConfigError> {
        let (file, registry, in_force) = (self.file.clone(), self.registry.clone(), self.current().0);
        let examined = tokio::task::spawn_blocking(move || {
            let agents = registry.as_ref().and_then(agents_of);
            examine(&file, agents.as_deref(), Some(&in_force.members()), Timestamp::now())
        });
        examined.await.unwrap_or_else(|failed| {
            Err(ConfigError::Unreadable {
                file: self.file.path().display().to_string(),
                reason: failed.to_string(),
            })
        })
    }

    async fn reject(&self, error: ConfigError, ledger: &dyn Ledger) {
        tracing::error!(
            "limits.toml was not accepted, so the limits of before stay in force: {}",
            error.place()
        );
        let sha256 = fs::read(self.file.path())
            .map(|text| Sha256::digest(text).into())
            .unwrap_or_default();
        self.write().rejected = Some(Rejection {
            sha256,
            place: error.place(),
            said: error.to_string(),
        });
        // The error quotes the file, so it does not go into the entry.
        let reason = match error {
            ConfigError::Untrusted(_) => "limits.toml can be changed by others",
            ConfigError::Unreadable { .. } | ConfigError::Invalid(_) => "limits.toml has errors",
        };
        let rejected = Event::PolicyRejected {
            sha256,
            reason: reason.to_owned(),
            who: WHO.to_owned(),
        };
        record(ledger, rejected).await;
        self.alert_if_rejected();
    }

    /// Called as often as the file is looked at; the same alert is sent once an hour.
    fn alert_if_rejected(&self) {
        let state = self.read();
        if let (Some(alerts), Some(rejected)) = (&self.alerts, &state.rejected) {
            alerts.raise(Alert::LimitsRejected {
                path: self.file.path().display().to_string(),
                why: rejected.place.clone(),
                still: still_allowed(&state.limits),
            });
        }
    }

    fn enforce(&self, limits: Limits, generation: u64) {
        let mut state = self.write();
        state.limits = Arc::new(limits);
        state.generation = generation;
    }

    // A panic of another holder leaves the state usable: its members are replaced whole.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(warnings: &[Warning]) {
    for warning in warnings {
        let problem = &warning.problem;
        tracing::warn!(
            code = warning.code.name(),
            line = problem.line,
            "limits.toml: {} {}",
            problem.what,
            problem.way_out
        );
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
            turn: Mutex::default(),
            alerts: None,
            registry: None,
        }
    }

    /// Other ones from now on.
    pub(crate) fn replace(&self, text: &str) {
        let limits = crate::config::limits::parse("limits.toml", text).unwrap_or_else(|error| panic!("{error}"));
        let generation = self.current().1 + 1;
        self.enforce(limits, generation);
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
