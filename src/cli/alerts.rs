//! `bursar alerts`: checks that alerts would reach someone.

use std::sync::Arc;

use clap::Subcommand;
use jiff::Timestamp;

use super::output::say;
use super::{Exit, Failure};
use crate::alerts::{self, Alert};
use crate::config::Config;
use crate::serve;
use bursar_home::Home;

#[derive(Subcommand)]
pub(super) enum AlertsCommand {
    /// Send one test alert through each channel in bursar.toml, and report which ones worked
    Test,
}

impl AlertsCommand {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let config = Config::load(home.root())?;
        let tls = serve::upstream_tls(&config, home.root()).map_err(|error| Failure::usage(error.to_string()))?;
        let channels = alerts::channels(&config.alerts, home.root().to_owned(), &Arc::new(tls));
        let channels = channels.map_err(|error| Failure::usage(format!("[alerts]: {error}")))?;
        if channels.is_empty() {
            return Err(Failure::usage(
                "no alert channel is configured: set `command` or `webhook` under [alerts] in bursar.toml",
            ));
        }
        let message = Alert::Test.message(Timestamp::now());
        let mut exit = Exit::Done;
        for channel in channels {
            match channel.send(&message).await {
                Ok(()) => say!("{}: delivered.", channel.shown())?,
                Err(why) => {
                    exit = Exit::Negative;
                    say!("{}: failed: {why}", channel.shown())?;
                }
            }
        }
        Ok(exit)
    }
}
