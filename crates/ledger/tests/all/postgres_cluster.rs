//! PostgreSQL servers for tests: in a temporary directory, on a free port, with fsync on. A server ends with the test
//! process that started it, however that ends.
#![allow(dead_code)] // each test binary uses its own part

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_postgres::{Client, Config, NoTls};

pub(crate) struct Cluster {
    dir: PathBuf,
    pub port: u16,
    /// The CA that signed the server's certificate.
    pub ca_pem: String,
    /// Stops the server and removes its files when our end of its input is closed.
    keeper: Child,
}

/// One database on a server.
pub(crate) struct Database {
    pub port: u16,
    pub name: String,
}

/// The server that the tests of one binary share.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// `settings` are lines for postgresql.conf.
    pub(crate) fn with(settings: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap().keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        own(&dir);
        let data = dir.join("data");
        run(as_owner("initdb")
            .args([
                "--auth=trust",
                "--username=bursar",
                "--encoding=UTF8",
                "--no-sync",
                "-D",
            ])
            .arg(&data));
        let (ca_pem, cert, key) = certificates();
        for (name, text) in [("server.crt", cert), ("server.key", key)] {
            std::fs::write(data.join(name), text).unwrap();
            std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
            own(&data.join(name));
        }
        let hba =
            "local all all trust\nhostssl all locked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let conf = data.join("postgresql.conf");
        let more = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nmax_connections = 200\nssl = on\n{settings}\n",
            dir.display()
        );
        let conf_text = std::fs::read_to_string(&conf).unwrap() + &more;
        std::fs::write(&conf, conf_text).unwrap();
        // Stops the server and deletes the files once this process is gone.
        let clean = "cat >/dev/null; \"$0\" -D \"$1/data\" -m immediate stop >/dev/null 2>&1; rm -rf \"$1\"";
        let keeper = as_owner_of("sh")
            .args(["-c", clean])
            .arg(binary("pg_ctl"))
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut cluster = Self {
            dir,
            port: 0,
            ca_pem,
            keeper,
        };
        // The port is free when it is chosen, but another process may take it first.
        for attempt in 0.. {
            cluster.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if cluster.try_up() {
                break;
            }
            let log = std::fs::read_to_string(cluster.dir.join("log")).unwrap_or_default();
            assert!(attempt < 5, "PostgreSQL does not start:\n{log}");
        }
        cluster
    }

    /// A fresh, empty database.
    pub(crate) async fn database(&self) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("books{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = connect(self.port, "postgres").await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        Database { port: self.port, name }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn down(&self) {
        run(as_owner("pg_ctl")
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-m", "fast", "-w", "stop"]));
    }

    pub(crate) fn up(&self) {
        assert!(self.try_up());
    }

    fn try_up(&self) -> bool {
        let options = format!("-p {}", self.port);
        let started = as_owner("pg_ctl")
            .arg("-D")
            .arg(self.dir.join("data"))
            .arg("-l")
            .arg(self.dir.join("log"))
            .args(["-w", "-o", &options, "start"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        started.unwrap().success()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Database {
    pub(crate) fn url(&self) -> String {
        format!("postgres://bursar@127.0.0.1:{}/{}", self.port, self.name)
    }

    pub(crate) async fn client(&self) -> Client {
        connect(self.port, &self.name).await
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.client().await.batch_execute(sql).await.unwrap();
    }

    /// The first column of the only row, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let messages = self.client().await.simple_query(sql).await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.unwrap_or_default()
    }
}

async fn connect(port: u16, name: &str) -> Client {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("bursar").dbname(name);
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The server refuses to run as root.
fn as_owner_of(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
        .arg(program);
    command.current_dir("/");
    command
}

fn as_owner(tool: &str) -> Command {
    as_owner_of(binary(tool))
}

fn own(path: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
}

/// Debian installs the programs outside of PATH; the newest version is used.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            Some((
                version.file_name().to_str()?.parse().ok()?,
                version.path().join("bin").join(name),
            ))
        })
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found.pop().map_or_else(|| name.into(), |(_, path)| path)
}

fn run(command: &mut Command) {
    let done = command.stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{command:?}: {error}; install Debian's `postgresql`"));
    assert!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// CA, server certificate for 127.0.0.1, its key.
fn certificates() -> (String, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    (ca_cert.pem(), cert.pem(), key.serialize_pem())
}
