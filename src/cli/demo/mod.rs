//! `bursar demo`: the first minute. A sandbox seller, a proxy with a fresh data directory, and a plain HTTP client that
//! knows nothing of payments; everything on loopback, nothing left behind. One purchase over x402, one over MPP that a person
//! approves, and one budget for both.

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

use super::payments::{refusal_table, table};
use super::serve::watch;
use super::{Exit, Failure, init};
use crate::admin::{self, AdminError};
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
/// Enough for everything that is sold, so that what is refused is refused by the limits alone.
const FUNDS: Atoms = Atoms::new(100_000_000);

/// Of a body's line that much is shown, in characters.
const WIDEST: usize = 260;

#[derive(Args)]
pub struct Demo {
    /// Leave seller and proxy running afterwards, to try other clients
    #[arg(long)]
    stay: bool,
}

impl Demo {
    pub async fn run(self) -> Result<Exit, Failure> {
        let mut signals = Signals::watch()?;
        let folder = Folder::make()?;
        let stage = Stage::set(&folder).await?;
        let told = tokio::select! {
            told = stage.tell() => told,
            () = signals.any() => Err(Failure::negative("the demo was interrupted")),
        };
        if self.stay && told.is_ok() {
            stage.invite();
            signals.any().await;
        }
        stage.clear().await;
        told.map(|()| Exit::Done)
    }
}

/// What ends a demo early; without these its folder would stay behind.
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

/// The demo's data directory; gone when the demo ends.
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

/// Who has what, as it is shown.
struct Balances {
    wallet: String,
    seller: String,
    stripe: String,
}

impl Stage {
    async fn set(folder: &Folder) -> Result<Self, Failure> {
        let home = Home::at(&folder.0)?;
        // A throw-away key on every run (R58).
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
            .map_err(|error| Failure::negative(format!("the sandbox seller could not start: {error}")))?;
        // Before the proxy starts, which looks what the wallet holds and would not look again for a while.
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
        let proxy = serve::start(&home, clock).await?;
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

    async fn tell(&self) -> Result<(), Failure> {
        let seller = self.sandbox.base_url();
        let before = self.balances();
        title(
            "A seller, a proxy and a plain HTTP client, all on this machine. The money is a sandbox token and a sandbox Stripe.",
        );
        say(
            "seller",
            &format!("{seller}  wants to be paid for most things (x402, MPP)"),
        );
        say(
            "proxy",
            &format!(
                "http://{}  pays for agent \"demo\", within limits.toml:",
                self.proxy.address
            ),
        );
        say(
            "",
            "at most 0.60 USD a payment, 1.00 USD a day, and above 0.30 USD a person is asked",
        );
        say(
            "client",
            "sends GET through HTTPS_PROXY; it has no key and has never heard of payments",
        );

        title("Something free");
        self.visit("/free", None).await?;
        title("Something that costs 0.01 sandbox USDC (x402)");
        self.visit("/v2/quote", Some(200)).await?;
        title("Something that costs 0.50 USD (MPP, through the sandbox Stripe): somebody has to approve that");
        self.visit("/mpp/report", Some(503)).await?;
        self.approve().await?;
        title("The same request once more");
        self.visit("/mpp/report", Some(200)).await?;
        title("Something that costs 25.00 sandbox USDC: more than finance allows for one payment");
        self.visit("/v2/dataset", Some(403)).await?;
        title("The 0.50 USD once more: with both payments it would be 1.01 today, and finance allows 1.00");
        self.visit("/mpp/report", Some(403)).await?;

        title("The books (bursar payments list): USDC is the sandbox token, USD the sandbox Stripe's");
        // Nobody waits for a refusal's entry; whoever is answered after it finds it in the journal.
        self.proxy
            .ledger()
            .open_items()
            .await
            .map_err(|error| Failure::negative(error.to_string()))?;
        let payments = ledger::read_payments(self.home.root()).map_err(|error| Failure::negative(error.to_string()))?;
        write(format_args!(
            "{}{}",
            table(&payments.payments),
            refusal_table(&payments.refusals)
        ));
        let after = self.balances();
        title("The money (sandbox token, sandbox Stripe)");
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

    /// What the operator does meanwhile, over the same socket as the commands.
    async fn approve(&self) -> Result<(), Failure> {
        let failed = |error: AdminError| Failure::negative(error.to_string());
        let pending = admin::pending(&self.home).await.map_err(failed)?.unwrap_or_default();
        let [question] = pending.as_slice() else {
            let count = pending.len();
            return Err(Failure::negative(format!(
                "the demo expected one question and found {count}; please report this"
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
                "the demo expected {status} for {path} and got {}; please report this",
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
        title("Still running; Ctrl-C ends it. In another terminal:");
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

/// Of this run alone, as the wallet's key (R58), and plainly nobody's.
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

/// A demo whose reader has gone (`bursar demo | head`) still clears up after itself, so what cannot be written is dropped.
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
    line("bursar demo --stay                      leaves seller and proxy running, for curl and others");
    line("bursar init --dir D --wallet            a directory of your own, with a wallet to fund");
    line("bursar serve --dir D                    the proxy; limits are in D/limits.toml");
    line("bursar run --dir D --agent NAME -- CMD  any program, unchanged, behind it");
}
