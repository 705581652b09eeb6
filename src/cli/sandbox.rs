//! `bursar sandbox`: the demo's seller by itself, for containers and for trying a client.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::SignalKind;

use super::output::say;
use super::serve::watch;
use super::{Exit, Failure};
use bursar_core::money::Atoms;
use bursar_home::{self as home, Readers};
use bursar_sandbox::{Funding, Options, stripe};

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
            names: self.names.clone(),
            ..Options::default()
        };
        let sandbox = bursar_sandbox::Sandbox::start(self.listen, options)
            .await
            .map_err(|error| Failure::unavailable(format!("cannot sell on {}: {error}", self.listen)))?;
        if let Some(path) = &self.ca_out {
            home::write_atomic(path, sandbox.ca_pem().as_bytes(), Readers::Everyone)?;
        }
        say!("selling on {}", sandbox.base_url())?;
        // Scripts read the line above; what follows is for people.
        eprint!("{}", self.instructions(sandbox.address().port()));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sandbox.stop().await;
        Ok(Exit::Done)
    }

    /// What a proxy needs in its bursar.toml to buy here.
    fn instructions(&self, port: u16) -> String {
        let host = self.names.first().map_or("localhost", String::as_str);
        let url = format!("https://{host}:{port}");
        let ca = match &self.ca_out {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
            None => PathBuf::from("FILE"),
        };
        format!(
            "\
Prices are in sandbox USDC and in dollars of a sandbox Stripe, which exist in this process only. GET / lists what is sold.
A proxy buys here with a wallet, STRIPE_SECRET_KEY={key} in its environment, and this in bursar.toml:

    [upstream]
    extra_ca = {ca:?}
    allow_private = [\"127.0.0.0/8\", \"::1/128\"]
    [networks.\"eip155:84532\"]
    rpc = [\"{url}/rpc\"]
    [stripe]
    key = \"env:STRIPE_SECRET_KEY\"
    payment_method = \"pm_card_visa\"
    api_base = \"{url}\"

extra_ca, which --ca-out writes, is whom it trusts as the seller and as Stripe; allow_private is where they are.
",
            key = stripe::AGENT_KEY,
        )
    }
}
