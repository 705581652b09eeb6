//! `bursar demo`: the first minute. A sandbox seller, a proxy with a fresh data directory, and a plain HTTP client that
//! knows nothing about payments, all on loopback; nothing is left behind. It makes one purchase over x402 and one over
//! MPP, which a person approves, both under one budget.

mod client;

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use alloy_primitives::{Address, hex};
use clap::Args;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind};

use super::serve::watch;
use super::{Exit, Failure, init, journal};
use crate::admin::{self, AdminError, Door};
use crate::agents::{IssuedToken, Registry};
use crate::serve::{self, Running};
use bursar_core::agent_name::AgentName;
use bursar_core::clock::{self, SharedClock, SystemClock};
use bursar_core::money::{Atoms, MicroUsd};
use bursar_home::{self as home, Home, Readers};
use bursar_ledger as ledger;
use bursar_sandbox::stripe::StripeSandbox;
use bursar_sandbox::{Options, Sandbox};
use client::{Client, Page};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Enough for everything on sale, so that only the limits refuse a purchase.
const FUNDS: Atoms = Atoms::new(100_000_000);

/// Longer lines of a response body are cut to this many characters.
const WIDEST: usize = 260;

#[derive(Args)]
pub(super) struct Demo {
    /// Keep the seller and proxy running afterwards, to try other clients
    #[arg(long)]
    stay: bool,
}

impl Demo {
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let mut signals = Signals::watch()?;
        let folder = Folder::make()?;
        let stage = Stage::set(&folder).await?;
        let result = tokio::select! {
            result = stage.play() => result,
            () = signals.any() => Err(Failure::negative("the demo was interrupted")),
        };
        if self.stay && result.is_ok() {
            stage.invite();
            signals.any().await;
        }
        stage.clear().await;
        result.map(|()| Exit::Done)
    }
}

/// Signals that end the demo early; without handling them its folder would be left behind.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn watch() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The demo's data directory, deleted when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self, Failure> {
        let random = clock::random::<6>().map_err(|error| Failure::negative(error.to_string()))?;
        let name: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self(std::env::temp_dir().join(format!("bursar-demo-{name}"))))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Stage {
    home: Home,
    sandbox: Sandbox,
    proxy: Running,
    agent: IssuedToken,
    client: Client,
    wallet: Address,
}

/// The balances that the demo shows.
struct Balances {
    wallet: String,
    seller: String,
    stripe: String,
}

impl Stage {
    async fn set(folder: &Folder) -> Result<Self, Failure> {
        let home = Home::at(&folder.0)?;
        // Every run has its own throw-away key (R58).
        let made = init::make(&home, true)?;
        let stripe_key = stripe_key()?;
        let clock: SharedClock = Arc::new(SystemClock);
        let options = Options {
            stripe: Some(Arc::new(StripeSandbox::of_shop(clock.clone(), &stripe_key))),
            clock: clock.clone(),
            ..Options::default()
        };
        let sandbox = Sandbox::start(LOOPBACK, options)
            .await
            .map_err(|error| Failure::negative(format!("cannot start the sandbox seller: {error}")))?;
        // Before the proxy starts: it reads the wallet's balance at start, and not again for a while.
        let wallet = made.wallet.ok_or_else(|| Failure::negative("the demo has no wallet"))?;
        sandbox
            .token()
            .fund(wallet, FUNDS)
            .map_err(|error| Failure::negative(error.to_string()))?;
        home::write_atomic(
            &home.root().join("seller-ca.pem"),
            sandbox.ca_pem().as_bytes(),
            Readers::Everyone,
        )?;
        home::write_atomic(&home.root().join("stripe.key"), stripe_key.as_bytes(), Readers::Owner)?;
        home::write_atomic(&home.config(), config(&sandbox).as_bytes(), Readers::Owner)?;
        home::write_atomic(&home.limits(), LIMITS.as_bytes(), Readers::Owner)?;
        let agent = Registry::new(&home).add(&"demo".parse::<AgentName>()?, Timestamp::now())?;
        let proxy = serve::start(&home, clock, Arc::new(|_| {})).await?;
        let ca = std::fs::read(home.ca_certificate()).map_err(|error| Failure::negative(error.to_string()))?;
        let client = Client::new(proxy.address, &agent, &ca)?;
        Ok(Self {
            home,
            sandbox,
            proxy,
            agent,
            client,
            wallet,
        })
    }

    async fn play(&self) -> Result<(), Failure> {
        let seller = self.sandbox.base_url();
        let before = self.balances();
        title(
            "A seller, a proxy and a plain HTTP client, all on this machine. The money is a sandbox token and a sandbox Stripe.",
        );
        say("seller", &format!("{seller}  charges for most things (x402, MPP)"));
        say(
            "proxy",
            &format!(
                "http://{}  pays for agent \"demo\", within these limits:",
                self.proxy.address
            ),
        );
        say(
            "",
            "at most 0.60 USD per payment and 1.00 USD per day; above 0.30 USD a person must approve",
        );
        say(
            "client",
            "sends GET through HTTPS_PROXY; it has no key and knows nothing about payments",
        );

        title("Something free");
        self.visit("/free", None).await?;
        title("Something that costs 0.01 sandbox USDC (x402)");
        self.visit("/v2/quote", Some(200)).await?;
        title("Something that costs 0.50 USD (MPP, through the sandbox Stripe): a person must approve it");
        self.visit("/mpp/report", Some(503)).await?;
        self.approve().await?;
        title("The same request again, now that it is approved");
        self.visit("/mpp/report", Some(200)).await?;
        title("Something that costs 25.00 sandbox USDC: more than finance allows for one payment");
        self.visit("/v2/dataset", Some(403)).await?;
        title("The 0.50 USD purchase again: that would make 1.01 USD today, and finance allows 1.00");
        self.visit("/mpp/report", Some(403)).await?;

        title("The ledger (bursar payments list): USDC is the sandbox token, USD is the sandbox Stripe");
        // Refusals are written in the background; once this query is answered, they are in the journal.
        self.proxy
            .ledger()
            .open_items()
            .await
            .map_err(|error| Failure::negative(error.to_string()))?;
        let payments = journal::read_again(ledger::read_payments(self.home.root()))?;
        write(format_args!("{}", super::payments::shown(&payments)));
        let after = self.balances();
        title("Where the money went (sandbox token, sandbox Stripe)");
        for (who, before, after) in [
            ("wallet", before.wallet, after.wallet),
            ("seller", before.seller, after.seller),
            ("Stripe", before.stripe, after.stripe),
        ] {
            say(who, &format!("{before} before, {after} now"));
        }
        next();
        Ok(())
    }

    /// What the operator does meanwhile, through the same socket as the commands use.
    async fn approve(&self) -> Result<(), Failure> {
        let failed = |error: AdminError| Failure::negative(error.to_string());
        let pending = admin::pending(&Door::of(&self.home))
            .await
            .map_err(failed)?
            .unwrap_or_default();
        let [question] = pending.as_slice() else {
            let count = pending.len();
            return Err(Failure::negative(format!(
                "the demo expected one question and found {count}; this is a bug, please report it"
            )));
        };
        let (id, code) = (question.id.to_string(), question.code.clone());
        title("Meanwhile, on the operator's terminal");
        line("$ bursar pending");
        line(&format!("  {}", question.sentence));
        line(&format!("$ bursar approve {id} --code {code}"));
        admin::ask(&self.home, &admin::Approve { id, code })
            .await
            .map_err(failed)
    }

    async fn visit(&self, path: &str, expected: Option<u16>) -> Result<(), Failure> {
        let page = self.client.visit(self.sandbox.address(), path).await?;
        show(path, &page);
        match expected {
            Some(status) if status != page.status => Err(Failure::negative(format!(
                "the demo expected status {status} for {path} and got {}; this is a bug, please report it",
                page.status
            ))),
            _ => Ok(()),
        }
    }

    fn balances(&self) -> Balances {
        let token = |owner| format!("{} sandbox USDC", self.sandbox.token().balance_of(owner).decimal(6));
        let charged = self.sandbox.stripe().counters().captured.values().sum::<u64>();
        Balances {
            wallet: token(self.wallet),
            seller: token(self.sandbox.pay_to()),
            stripe: match MicroUsd::of(Atoms::new(charged.into()), 2) {
                Ok(usd) => format!("{usd} sandbox USD charged"),
                Err(error) => error.to_string(),
            },
        }
    }

    fn invite(&self) {
        title("Still running; press Ctrl-C to stop. Try in another terminal:");
        let proxy = format!(
            "http://demo:{}@{}",
            self.agent.token.expose_secret(),
            self.proxy.address
        );
        let dir = self.home.root().display();
        line(&format!(
            "curl -i --proxy {proxy} --cacert {dir}/ca.pem {}/both/report",
            self.sandbox.base_url()
        ));
        line(&format!("bursar payments list --dir {dir}"));
    }

    async fn clear(self) {
        self.proxy.stop().await;
        self.sandbox.stop().await;
    }
}

const LIMITS: &str = "\
timezone = \"UTC\"

[agents.demo]
per_transaction = \"0.60\"
day = \"1.00\"
approval_above = \"0.30\"
";

/// A new one for every run, like the wallet's key (R58), and recognisably not a real one.
fn stripe_key() -> Result<String, Failure> {
    let random = clock::random::<12>().map_err(|error| Failure::negative(error.to_string()))?;
    Ok(format!("sk_test_sandbox_{}", hex::encode(random)))
}

fn config(sandbox: &Sandbox) -> String {
    format!(
        "\
[proxy]
listen = \"127.0.0.1:0\"
[upstream]
extra_ca = \"seller-ca.pem\"
allow_private = [\"127.0.0.0/8\", \"::1/128\"]
[wallet.evm]
key = \"file:wallet.key\"
[networks.\"eip155:84532\"]
rpc = [\"{url}/rpc\"]
[stripe]
key = \"file:stripe.key\"
payment_method = \"pm_card_visa\"
api_base = \"{url}\"
[approval]
backend = \"operator\"
hold_s = 0
",
        url = sandbox.base_url()
    )
}

/// A demo whose reader has gone (`bursar demo | head`) must still clean up, so write errors are ignored.
fn write(text: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

fn title(text: &str) {
    if std::io::stdout().is_terminal() {
        write(format_args!("\n\x1b[1m{text}\x1b[0m\n"));
    } else {
        write(format_args!("\n{text}\n"));
    }
}

fn say(what: &str, text: &str) {
    write(format_args!("   {what:<9} {text}\n"));
}

fn line(text: &str) {
    write(format_args!("   {text}\n"));
}

fn show(path: &str, page: &Page) {
    line(&format!("GET {path}"));
    line(&format!("{} {}", page.status, page.reason));
    for (name, value) in &page.fields {
        line(&format!("{name}: {value}"));
    }
    for text in page.body.lines().take(16) {
        match text.char_indices().nth(WIDEST) {
            Some((end, _)) => line(&format!("| {} ...", &text[..end])),
            None => line(&format!("| {text}")),
        }
    }
}

fn next() {
    title("What to try next");
    line("bursar demo --stay                      keep the seller and proxy running, for curl and other clients");
    line("bursar init --dir D --sandbox           create your own data directory, which pays at a sandbox seller");
    line("bursar init --dir D --wallet            create one with a wallet to fund, for real sellers");
    line("bursar serve --dir D                    run the proxy; its limits are in D/limits.toml");
    line("bursar run --dir D --agent NAME -- CMD  run any program, unchanged, behind it");
}
