//! The real binary, on its own data directory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The published first development key of anvil and hardhat; never use it with real money.
pub(crate) const WALLET_KEY: &str = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
pub(crate) const WALLET: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// Long enough for a loaded machine; never reached when all goes well.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const LIMITS: &str = "\
timezone = \"UTC\"
[agents.research]
per_transaction = \"1.00\"
day = \"100.00\"
";

pub(crate) struct Setup {
    dir: TempDir,
    limits: String,
    config: String,
    upstream: String,
    proxy: String,
    wallet: String,
}

/// A directory without a server.
pub(crate) struct Home {
    pub dir: TempDir,
    pub token: String,
}

pub(crate) struct Bursar {
    pub home: Home,
    pub address: SocketAddr,
    child: Child,
}

pub(crate) fn bin() -> &'static str {
    env!("CARGO_BIN_EXE_bursar")
}

/// Runs a command until it exits.
pub(crate) fn bursar(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(bin())
        .args(arguments)
        .arg("--dir")
        .arg(dir)
        .env_remove("BURSAR_DIR")
        .env("BURSAR_TEST_WALLET", WALLET_KEY)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn setup() -> Setup {
    Setup {
        dir: tempfile::tempdir().unwrap(),
        limits: LIMITS.to_owned(),
        config: String::new(),
        upstream: String::new(),
        proxy: String::new(),
        wallet: "[wallet.evm]\nkey = \"env:BURSAR_TEST_WALLET\"\n".to_owned(),
    }
}

impl Setup {
    /// Another name for the data directory; call it before anything that writes into it.
    pub(crate) fn folder(mut self, prefix: &str) -> Self {
        self.dir = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        self
    }

    pub(crate) fn limits(mut self, text: &str) -> Self {
        self.limits = text.to_owned();
        self
    }

    /// Sections added to bursar.toml.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config += text;
        self
    }

    /// Lines added to `[proxy]`.
    pub(crate) fn proxy(mut self, text: &str) -> Self {
        self.proxy += text;
        self
    }

    /// Replaces the section about the wallet key.
    pub(crate) fn wallet(mut self, text: &str) -> Self {
        text.clone_into(&mut self.wallet);
        self
    }

    /// Lines added to `[upstream]`.
    pub(crate) fn upstream(mut self, text: &str) -> Self {
        self.upstream += text;
        self
    }

    /// A file in the data directory.
    pub(crate) fn file(self, name: &str, text: &str, mode: u32) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// Trusts a test CA.
    pub(crate) fn trust(self, ca_pem: &str) -> Self {
        std::fs::write(self.dir.path().join("origin-ca.pem"), ca_pem).unwrap();
        self.upstream("extra_ca = \"origin-ca.pem\"\n")
    }

    pub(crate) fn home(self) -> Home {
        // `init` into a folder that exists but is empty, as a volume is.
        let dir = self.dir;
        let made = bursar(dir.path(), &["init"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let upstream = if self.upstream.contains("allow_private") {
            self.upstream
        } else {
            format!("{}allow_private = [\"127.0.0.0/8\", \"::1/128\"]\n", self.upstream)
        };
        let networks = if self.config.contains("[networks") {
            ""
        } else {
            "[networks.\"eip155:84532\"]\nrpc = []\n"
        };
        let config = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\n{}\n[upstream]\n{upstream}\n{}{networks}\n{}",
            self.proxy, self.wallet, self.config
        );
        std::fs::write(dir.path().join("bursar.toml"), config).unwrap();
        std::fs::write(dir.path().join("limits.toml"), self.limits).unwrap();
        let mut home = Home {
            dir,
            token: String::new(),
        };
        home.token = home.add_agent("research");
        home
    }

    pub(crate) fn start(self) -> Bursar {
        self.home().serve()
    }
}

impl Home {
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn serve(self) -> Bursar {
        self.serve_by(Command::new(bin()))
    }

    /// `program` is the binary, or a wrapper that executes it and takes its arguments.
    pub(crate) fn serve_by(self, program: Command) -> Bursar {
        self.try_serve_by(program).unwrap_or_else(|(home, line)| {
            let log = std::fs::read_to_string(home.path().join("serve.log")).unwrap();
            panic!("serve said {line:?}; its log:\n{log}");
        })
    }

    /// Returns the directory and the output if the server exits before it listens.
    pub(crate) fn try_serve_by(self, mut program: Command) -> Result<Bursar, (Self, String)> {
        // Appends, so that the log of a killed server is kept.
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path().join("serve.log"))
            .unwrap();
        let mut child = program
            .args([
                "serve",
                "--log",
                "debug,hyper=warn,h2=warn,rustls=warn,sled=warn",
                "--dir",
            ])
            .arg(self.path())
            .env("BURSAR_TEST_WALLET", WALLET_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            // It has closed its output, so it is about to exit.
            child.wait().unwrap();
            return Err((self, line));
        };
        let address = url.split_once("://").unwrap().1.parse().unwrap();
        Ok(Bursar {
            home: self,
            address,
            child,
        })
    }

    /// `payments list --json`, with more arguments.
    pub(crate) fn payments(&self, more: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["payments", "list", "--json"];
        arguments.extend(more);
        let listed = bursar(self.path(), &arguments);
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Adds an agent and returns its token.
    pub(crate) fn add_agent(&self, name: &str) -> String {
        let added = self.run(&["agents", "add", name]);
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        String::from_utf8(added.stdout).unwrap().trim().to_owned()
    }

    /// Replaces limits.toml as an editor does: whole.
    pub(crate) fn write_limits(&self, text: &str) {
        let new = self.path().join("limits.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path().join("limits.toml")).unwrap();
    }

    /// Runs a command on this directory.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        bursar(self.path(), arguments)
    }

    /// The journal's entries. Checks the hash chain independently: `prev` is SHA-256(0x00 || previous line).
    pub(crate) fn journal(&self) -> Vec<Value> {
        let audit = std::fs::read_dir(self.path().join("audit")).unwrap();
        let mut segments: Vec<PathBuf> = audit.map(|file| file.unwrap().path()).collect();
        segments.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-"));
        segments.sort();
        let (mut entries, mut prev) = (Vec::new(), "0".repeat(64));
        for segment in segments {
            let bytes = std::fs::read(&segment).unwrap();
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let entry: Value = serde_json::from_slice(line).unwrap();
                assert_eq!(entry["seq"], entries.len(), "{}", segment.display());
                assert_eq!(entry["prev"], prev, "entry {}", entry["seq"]);
                let leaf = Sha256::new().chain_update([0]).chain_update(line).finalize();
                prev = leaf.iter().map(|byte| format!("{byte:02x}")).collect();
                entries.push(entry);
            }
        }
        entries
    }
}

/// Polls until `look` returns something, within a time limit. Yields in between, so that scripted sites go on.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

impl Bursar {
    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn payments(&self) -> Vec<Value> {
        self.home.payments(&[])
    }

    /// The states of all payments, oldest first.
    pub(crate) fn states(&self) -> Vec<String> {
        self.payments()
            .iter()
            .map(|payment| payment["state"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The journaled refusals, oldest first.
    pub(crate) fn refusals(&self) -> Vec<Value> {
        let mut all = self.home.payments(&["--refused"]);
        all.retain(|line| line["state"] == "refused");
        all
    }

    /// The address that approval backends call.
    pub(crate) fn callbacks(&self) -> SocketAddr {
        let log = self.log();
        let line = log
            .lines()
            .rfind(|line| line.contains("listening for callbacks from the approval backend"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        line.split("address=").nth(1).unwrap().trim().parse().unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.home.run(arguments)
    }

    pub(crate) fn journal(&self) -> Vec<Value> {
        self.home.journal()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("serve.log")).unwrap()
    }

    /// SIGKILL: no destructor runs, nothing is flushed.
    pub(crate) fn kill(&mut self) -> Home {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let empty = Home {
            dir: tempfile::tempdir().unwrap(),
            token: String::new(),
        };
        std::mem::replace(&mut self.home, empty)
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        self.terminate();
        self.ended()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Whether it answers on its port.
    pub(crate) fn answers(&self) -> bool {
        let ask = || {
            let mut stream = std::net::TcpStream::connect(self.address)?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)
        };
        ask().is_ok_and(|read| read > 0)
    }

    /// Waits until it exits, and returns the exit code.
    pub(crate) fn ended(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(began.elapsed() < PATIENCE, "serve did not end after SIGTERM");
            std::thread::yield_now();
        }
    }
}

impl Drop for Bursar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.home.path().join("serve.log"))
        {
            eprintln!("--- log of bursar serve\n{log}");
        }
    }
}
