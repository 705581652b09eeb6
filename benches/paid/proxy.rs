//! The real binary on a data directory of its own, and what its books say in the end.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Fault;
use crate::bkey::CLIENT_SECRET;
use crate::figures::LedgerTotals;
use crate::load::ProxyLogin;
use crate::process::Process;
use crate::seller::Opened;

/// The published first development key of anvil and hardhat; never use it with real money.
pub(crate) const WALLET_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

pub(crate) struct Proxy {
    pub process: Process,
    pub home: PathBuf,
    address: SocketAddr,
    program: PathBuf,
}

/// What a proxy is started with.
pub(crate) struct Settings<'a> {
    pub program: &'a Path,
    /// Not there yet.
    pub home: PathBuf,
    pub seller: &'a Opened,
    pub limits: &'a str,
    /// Added to its bursar.toml.
    pub more: &'a str,
}

impl Proxy {
    /// With a login for each of `agents`.
    pub(crate) fn start<const N: usize>(
        settings: Settings<'_>,
        agents: [&str; N],
    ) -> Result<(Self, [ProxyLogin; N]), Fault> {
        let Settings {
            program,
            home,
            seller,
            limits,
            more,
        } = settings;
        std::fs::create_dir(&home)?;
        command(program, &home, &["init"])?;
        std::fs::write(home.join("seller-ca.pem"), &seller.ca_pem)?;
        let config = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\n[upstream]\nextra_ca = \"seller-ca.pem\"\n\
             allow_private = [\"127.0.0.0/8\", \"::1/128\"]\n[wallet.evm]\nkey = \"env:BENCH_WALLET\"\n\
             [networks.\"eip155:84532\"]\nrpc = []\n{more}"
        );
        std::fs::write(home.join("bursar.toml"), config)?;
        std::fs::write(home.join("limits.toml"), limits)?;
        let mut tokens = [const { String::new() }; N];
        for (token, agent) in tokens.iter_mut().zip(agents) {
            *token = command(program, &home, &["agents", "add", agent])?;
        }
        let mut process = Process::start(
            "bursar",
            Command::new(program)
                .args(["serve", "--dir"])
                .arg(&home)
                .env("BENCH_WALLET", WALLET_KEY)
                .env("BENCH_SECRET", CLIENT_SECRET)
                .env_remove("BURSAR_DIR")
                .stderr(File::create(home.join("serve.log"))?),
        )?;
        let line = process.next_line()?;
        let address = line
            .strip_prefix("listening on http://")
            .ok_or("bursar does not listen")?;
        let proxy = Self {
            address: address.parse()?,
            process,
            home,
            program: program.to_owned(),
        };
        let mut agents = agents.iter().zip(tokens);
        let logins = std::array::from_fn(|_| proxy.login(agents.next()));
        Ok((proxy, logins))
    }

    fn login(&self, agent: Option<(&&str, String)>) -> ProxyLogin {
        let login = agent.map(|(name, token)| format!("{name}:{}", token.trim()));
        ProxyLogin {
            address: self.address,
            basic: STANDARD.encode(login.unwrap_or_default()),
        }
    }

    /// What it logs; it has no other way of saying where it hears callbacks.
    pub(crate) fn log(&self) -> Result<String, Fault> {
        Ok(std::fs::read_to_string(self.home.join("serve.log"))?)
    }

    /// Stops it, and compares its books with what the seller was paid.
    pub(crate) fn close(mut self, sold: u64) -> Result<LedgerTotals, Fault> {
        self.process.stop()?;
        let listed = command(&self.program, &self.home, &["payments", "list", "--json"])?;
        let books = LedgerTotals {
            sold_by_seller: sold,
            recorded: listed.lines().count() as u64,
            settled: listed.matches(r#""state":"settled""#).count() as u64,
        };
        if books.recorded != sold || books.settled != sold {
            let LedgerTotals { recorded, settled, .. } = books;
            return Err(format!("{sold} sold, but {recorded} recorded and {settled} settled").into());
        }
        Ok(books)
    }
}

/// Runs a bursar command to its end and returns what it printed.
fn command(program: &Path, home: &Path, arguments: &[&str]) -> Result<String, Fault> {
    let output = Command::new(program)
        .args(arguments)
        .arg("--dir")
        .arg(home)
        .env_remove("BURSAR_DIR")
        .env("BENCH_WALLET", WALLET_KEY)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`bursar {}` failed: {said}", arguments.join(" ")).into())
    }
}
