//! `bursar clock`: the operator confirms the system clock (R63).

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::output::say;
use super::{Exit, Failure, progress};
use crate::admin::{self, AcceptClock, AdminError};
use bursar_core::clock::SystemClock;
use bursar_home::Home;
use bursar_ledger::{Embedded, Event, Ledger};

#[derive(Subcommand)]
pub(super) enum ClockCommand {
    /// Accept the clock as right: limit windows follow it from now on, even backwards; the ledger records why
    Accept(Accept),
}

#[derive(Args)]
pub(super) struct Accept {
    /// How you know that it is right
    #[arg(long, value_name = "TEXT")]
    why: String,
}

impl ClockCommand {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let Self::Accept(Accept { why }) = self;
        if why.trim().is_empty() {
            return Err(Failure::usage(
                "--why is empty; say how you know: the ledger records it",
            ));
        }
        match admin::ask(home, &AcceptClock { why: why.clone() }).await {
            Ok(()) => {}
            Err(AdminError::NoServer) => accept_offline(home, why).await?,
            Err(error) => return Err(Failure::negative(error.to_string())),
        }
        say!("Clock accepted. Limit windows follow it from now on.")?;
        Ok(Exit::Done)
    }
}

/// Without a server: takes the directory's lock and writes the entry itself (R57).
async fn accept_offline(home: &Home, why: String) -> Result<(), Failure> {
    let ledger = Embedded::open(home.root(), progress::options(Arc::new(SystemClock)))
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let who = admin::decider(rustix::process::geteuid().as_raw());
    let accepted = ledger.append(Event::ClockAccepted { who, why }).await;
    ledger.close().await;
    accepted.map_err(|error| Failure::negative(error.to_string()))
}
