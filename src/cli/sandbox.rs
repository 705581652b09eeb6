//! `bursar sandbox`: the demo's seller by itself, for containers and for trying a client.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::SignalKind;

use super::output::say;
use super::serve::watch;
use super::{Exit, Failure};
use crate::home::{self, Readers};
use crate::money::Atoms;
use crate::sandbox::{Funding, Options};

/// Whoever pays for the first time finds this much sandbox USDC in the wallet: the sandbox cannot know its payers.
const GIFT: Atoms = Atoms::new(100_000_000);

#[derive(Args)]
pub struct Sandbox {
    /// Where to listen; port 0 is any free one
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Write the seller's CA certificate here, for `extra_ca` in bursar.toml
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// A further host name for its certificate, besides localhost; may be given several times
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
}

impl Sandbox {
    pub async fn run(self) -> Result<Exit, Failure> {
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        let options = Options {
            funding: Funding::FirstSight(GIFT),
            names: self.names,
            ..Options::default()
        };
        let sandbox = crate::sandbox::Sandbox::start(self.listen, options)
            .await
            .map_err(|error| Failure::unavailable(format!("cannot sell on {}: {error}", self.listen)))?;
        if let Some(path) = &self.ca_out {
            home::write_atomic(path, sandbox.ca_pem().as_bytes(), Readers::Everyone)?;
        }
        say!("selling on {}", sandbox.base_url())?;
        eprintln!("Prices are in sandbox USDC, which exists in this process only. GET / lists what is sold.");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sandbox.stop().await;
        Ok(Exit::Done)
    }
}
