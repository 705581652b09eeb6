//! `bursar sandbox`: the demo's seller on its own, for containers and for trying out a client.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::SignalKind;

use super::output::say;
use super::serve::watch;
use super::{Exit, Failure};
use bursar_core::money::Atoms;
use bursar_home::{self as home, Home, Readers};
use bursar_sandbox::{Funding, Identity, Options, stripe};

/// Sandbox USDC credited to each wallet at its first payment: the sandbox cannot know its payers in advance.
const GIFT: Atoms = Atoms::new(100_000_000);

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Sandbox {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Write the seller's CA certificate here, for `extra_ca` in bursar.toml
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// Additional host name for its certificate, besides localhost; may be repeated
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
}

const AFTER_HELP: &str = "\
With a data directory that `bursar init --sandbox` made (--dir), the seller is the one that this directory's bursar.toml
names and trusts, also after a restart.";

/// For a directory that `init --sandbox` made.
const PREPARED: &str = "\
Prices are in sandbox USDC and sandbox Stripe dollars, which exist only in this process. GET / lists what is for sale.
This data directory is set up to buy here.
";

impl Sandbox {
    /// `home` says where the data directory is.
    pub(super) async fn run(self, home: impl FnOnce() -> Result<Home, Failure>) -> Result<Exit, Failure> {
        let identity = match home() {
            Ok(home) => identity(&home)?,
            // Nothing is needed of it.
            Err(_) => None,
        };
        let prepared = identity.is_some();
        let mut terminate = watch(SignalKind::terminate())?;
        let mut interrupt = watch(SignalKind::interrupt())?;
        let options = Options {
            funding: Funding::FirstSight(GIFT),
            names: self.names.clone(),
            identity,
            ..Options::default()
        };
        let sandbox = bursar_sandbox::Sandbox::start(self.listen, options)
            .await
            .map_err(|error| Failure::unavailable(format!("cannot listen on {}: {error}", self.listen)))?;
        if let Some(path) = &self.ca_out {
            home::write_atomic(path, sandbox.ca_pem().as_bytes(), Readers::Everyone)?;
        }
        say!("selling on {}", sandbox.base_url())?;
        // Scripts parse the line above; the rest is for people.
        match prepared {
            true => eprint!("{PREPARED}"),
            false => eprint!("{}", self.instructions(sandbox.address().port())),
        }
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sandbox.stop().await;
        Ok(Exit::Done)
    }

    /// What a proxy needs in its bursar.toml to buy from this sandbox.
    fn instructions(&self, port: u16) -> String {
        let host = self.names.first().map_or("localhost", String::as_str);
        let url = format!("https://{host}:{port}");
        let ca = match &self.ca_out {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
            None => PathBuf::from("FILE"),
        };
        format!(
            "\
Prices are in sandbox USDC and sandbox Stripe dollars, which exist only in this process. GET / lists what is for sale.
To buy here, a proxy needs a wallet, STRIPE_SECRET_KEY={key} in its environment, and this in bursar.toml:

    [upstream]
    extra_ca = {ca:?}
    allow_private = [\"127.0.0.0/8\", \"::1/128\"]
    [networks.\"eip155:84532\"]
    rpc = [\"{url}/rpc\"]
    [stripe]
    key = \"env:STRIPE_SECRET_KEY\"
    payment_method = \"pm_card_visa\"
    api_base = \"{url}\"

extra_ca, the certificate that --ca-out writes, makes the proxy trust the seller and its Stripe. allow_private
lets the proxy connect to their loopback addresses.
",
            key = stripe::AGENT_KEY,
        )
    }
}

/// The identity that `init --sandbox` has made for this directory.
fn identity(home: &Home) -> Result<Option<Identity>, Failure> {
    let path = home.sandbox_identity();
    if !path.exists() {
        return Ok(None);
    }
    let pem = home::read_secret(&path)?;
    let identity = Identity::read(&pem).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(Some(identity))
}
