//! `bursar serve`.

use std::sync::Arc;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::output::say;
use super::{Exit, Failure, progress};
use crate::config::ConfigError;
use crate::serve::{self, StartError};
use crate::store::StoreError;
use bursar_core::clock::SystemClock;
use bursar_home::Home;
use bursar_ledger::OpenError;

#[derive(Args)]
pub(super) struct Serve {}

impl Serve {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        keep_keys_out_of_dumps();
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        let mut reload = watch(SignalKind::hangup())?;
        let running = serve::start(home, Arc::new(SystemClock), progress::of_start()).await?;
        say_who_could_read(home);
        // Scripts wait for this line.
        say!("listening on {}", running.url())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = reload.recv() => running.refresh_rules().await,
            }
        }
        tracing::info!("shutting down; send a second signal to stop immediately");
        tokio::select! {
            () = running.stop() => {}
            _ = terminate.recv() => tracing::warn!("stopped immediately"),
            _ = interrupt.recv() => tracing::warn!("stopped immediately"),
        }
        Ok(Exit::Done)
    }
}

/// Called before any key is read: no core file, and no other process of this uid may attach or read our memory
/// (threat 3.3).
#[cfg(target_os = "linux")]
fn keep_keys_out_of_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, none);
    if let Err(error) = limited.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "a crash could leave keys in a core dump");
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_keys_out_of_dumps() {}

pub(super) fn watch(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::negative(format!("cannot handle signals: {error}")))
}

/// Under the same uid nothing keeps an agent from the keys (R47), so say so.
fn say_who_could_read(home: &Home) {
    tracing::warn!(
        "any process running under this uid can read the keys in {}; run agents under another uid or in a container",
        home.root().display()
    );
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(StoreError::Ledger(OpenError::InUse(_))) => Self::unavailable(error.to_string()),
            StartError::NoLedger(_)
            | StartError::NotAccepted(_)
            | StartError::Store(StoreError::Ledger(_))
            | StartError::Descriptors(_)
            | StartError::Admin { .. } => Self::negative(error.to_string()),
            StartError::Listen { .. } => Self::unavailable(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}
