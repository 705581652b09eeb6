//! The site, the floors, the peer and bursar, each in a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_bench_proxy::order::{DOMAIN, Measured, Order, ProxyLogin, Route, Work};
use bursar_bench_proxy::{Fault, keys, sockets};
use tempfile::TempDir;

use crate::child::{Server, output_of};
use crate::rows::Row;

/// The published first development key of anvil and hardhat; never use it with real money.
const WALLET_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const AGENT: &str = "bench";
const LIMITS: &str = "timezone = \"UTC\"\n[agents.bench]\nper_transaction = \"1.00\"\nday = \"10.00\"\n";
/// All load comes from one agent, which may not take the whole proxy by default.
const CONFIG: &str = "\
[proxy]
listen = \"127.0.0.1:0\"
[upstream]
extra_ca = \"../site-ca.pem\"
allow_private = [\"127.0.0.0/8\"]
[wallet.evm]
key = \"env:BENCH_WALLET\"
[networks.\"eip155:84532\"]
rpc = []
[capacity]
connections_per_agent = 2048
requests_per_agent = 2048
";
/// Tunnels, on both sides, and what is open besides.
const FILES: u64 = 12_000;

/// Where the programs are.
pub(crate) struct Programs {
    /// The folder of this program, with those that were built beside it.
    ours: PathBuf,
    bursar: PathBuf,
    against: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn new(bursar: PathBuf, against: Option<PathBuf>) -> Result<Self, Fault> {
        let ours = std::env::current_exe()?
            .parent()
            .ok_or("a program without a folder")?
            .to_owned();
        Ok(Self { ours, bursar, against })
    }
}

pub(crate) struct Cast {
    programs: Programs,
    folder: TempDir,
    _site: Server,
    http1: SocketAddr,
    http2: SocketAddr,
    host: String,
    /// Those that stay from the first round to the last.
    proxies: Vec<Proxy>,
    homes: usize,
    next_host: u32,
}

pub(crate) struct Proxy {
    pub(crate) row: Row,
    pub(crate) server: Server,
    login: ProxyLogin,
    ca: PathBuf,
}

impl Cast {
    pub(crate) fn gather(programs: Programs, rows: &[Row], names: bool) -> Result<Self, Fault> {
        let files = sockets::raise_limit()?;
        if files < FILES {
            eprintln!("proxy: only {files} files may be open (`ulimit -Hn`); tests with many tunnels may fail");
        }
        let folder = tempfile::tempdir()?;
        let every_name = format!("*.{DOMAIN}");
        keys::create(folder.path(), &["localhost", &every_name])?;
        let mut site = Command::new(programs.ours.join("site"));
        site.arg(folder.path()).args(names.then_some("name-server"));
        let site = Server::start(&mut site)?;
        let (http1, http2) = site
            .first_line
            .trim()
            .split_once(' ')
            .ok_or("the site does not listen")?;
        let mut cast = Self {
            http1: http1.parse()?,
            http2: http2.parse()?,
            _site: site,
            host: if names {
                format!("known.{DOMAIN}")
            } else {
                "localhost".to_owned()
            },
            programs,
            folder,
            proxies: Vec::new(),
            homes: 0,
            next_host: 0,
        };
        for row in rows {
            let proxy = cast.start(*row)?;
            cast.proxies.extend(proxy);
        }
        Ok(cast)
    }

    /// Runs the load against a proxy that has been there all the time.
    pub(crate) fn measure(&mut self, row: Row, work: Work, warmup_s: f64, window_s: f64) -> Result<Measured, Fault> {
        let proxy = self.proxies.iter().find(|proxy| proxy.row == row);
        let order = self.order(proxy, work, warmup_s, window_s);
        self.load(&order)
    }

    /// Runs the load against a proxy that has just been started.
    pub(crate) fn measure_fresh(&mut self, proxy: &Proxy, work: Work, warmup_s: f64) -> Result<Measured, Fault> {
        let order = self.order(Some(proxy), work, warmup_s, 0.0);
        self.load(&order)
    }

    /// A new process; None for the row without a proxy.
    pub(crate) fn start(&mut self, row: Row) -> Result<Option<Proxy>, Fault> {
        let folder = self.folder.path();
        let ours = |name: &str| Command::new(self.programs.ours.join(name));
        let (server, basic, ca) = match row {
            Row::Direct => return Ok(None),
            Row::Splice | Row::Parse => {
                let server = Server::start(ours("floor").arg(row.name()).arg(folder))?;
                (server, None, folder.join(keys::PROXY_CA))
            }
            Row::Hudsucker => {
                let server = Server::start(ours("peer").arg(folder))?;
                (server, None, folder.join(keys::PROXY_CA))
            }
            Row::Bursar => self.start_bursar(&self.programs.bursar.clone())?,
            Row::Against => {
                let program = self.programs.against.clone().ok_or("`against` needs --against PATH")?;
                self.start_bursar(&program)?
            }
        };
        let address = server.first_line.trim().strip_prefix("listening on http://");
        let address = address
            .ok_or_else(|| format!("{} does not listen", row.name()))?
            .parse()?;
        Ok(Some(Proxy {
            row,
            login: ProxyLogin { address, basic },
            server,
            ca,
        }))
    }

    fn start_bursar(&mut self, program: &Path) -> Result<(Server, Option<String>, PathBuf), Fault> {
        self.homes += 1;
        let home = self.folder.path().join(format!("home-{}", self.homes));
        std::fs::create_dir(&home)?;
        let command = |arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).arg("--dir").arg(&home);
            command.env_remove("BURSAR_DIR").env("BENCH_WALLET", WALLET_KEY);
            command
        };
        output_of(&mut command(&["init"]))?;
        std::fs::write(home.join("bursar.toml"), CONFIG)?;
        std::fs::write(home.join("limits.toml"), LIMITS)?;
        let token = output_of(&mut command(&["agents", "add", AGENT]))?;
        let log = File::create(home.join("serve.log"))?;
        let server = Server::start(command(&["serve"]).stderr(log));
        let server = server.map_err(|fault| {
            let log = std::fs::read_to_string(home.join("serve.log")).unwrap_or_default();
            format!("{fault}\n{log}")
        })?;
        let basic = STANDARD.encode(format!("{AGENT}:{}", token.trim()));
        Ok((server, Some(basic), home.join("ca.pem")))
    }

    fn order(&self, proxy: Option<&Proxy>, work: Work, warmup_s: f64, window_s: f64) -> Order {
        Order {
            work,
            route: Route {
                http1: self.http1,
                http2: self.http2,
                proxy: proxy.map(|proxy| proxy.login.clone()),
                ca: proxy.map_or_else(|| self.folder.path().join(keys::SITE_CA), |proxy| proxy.ca.clone()),
            },
            host: self.host.clone(),
            first_host: self.next_host,
            watch: proxy.map(|proxy| proxy.server.pid()),
            warmup_s,
            window_s,
        }
    }

    fn load(&mut self, order: &Order) -> Result<Measured, Fault> {
        let mut command = Command::new(self.programs.ours.join("load"));
        let said = output_of(command.arg(serde_json::to_string(order)?))?;
        let measured: Measured = serde_json::from_str(&said)?;
        self.next_host += measured.new_hosts;
        Ok(measured)
    }
}
