//! A data directory with a ledger, and purchases to put into it.
#![allow(dead_code)] // each test binary uses its own part

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy_primitives::{Address, B256};
use bursar_core::approval::EvidenceKind;
use bursar_core::assets::{Asset, Network, tokens_of};
use bursar_core::challenge::{Clause, Rail};
use bursar_core::clock::ManualClock;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_home::{Readers, write_new};
use bursar_ledger::disclosure::Disclosure;
use bursar_ledger::journal::{Faults, Step, Verdict};
use bursar_ledger::{
    ApprovalStep, Arm, Embedded, Hold, Ledger, OpenError, Options, PaymentId, Requested, Reserve, Terms,
};
use jiff::{SignedDuration, Timestamp};

/// As `bursar init` writes it; the seed is only for tests.
pub(crate) const LOG_KEY: &str = "ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

pub(crate) const NOON: &str = "2026-11-20T12:00:00Z";

/// A directory in memory where there is one: the tests open thousands of ledgers, whose syncs are most of their time, and
/// they inject every failure of a disk. With `TMPDIR` set, as in `tests/all.sh`, it is on that disk.
pub(crate) fn scratch() -> tempfile::TempDir {
    const IN_MEMORY: &str = "/dev/shm";
    let in_memory = std::env::var_os("TMPDIR").is_none() && Path::new(IN_MEMORY).is_dir();
    let dir = if in_memory {
        PathBuf::from(IN_MEMORY)
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(dir).unwrap()
}

pub(crate) struct World {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    purchases: AtomicU64,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = scratch();
        write_new(&dir.path().join("log.key"), LOG_KEY.as_bytes(), Readers::Owner).unwrap();
        Self {
            dir,
            clock: Arc::new(ManualClock::at(NOON.parse().unwrap())),
            purchases: AtomicU64::new(1),
        }
    }

    /// A world whose purchases differ from those of every other one, for a shared ledger.
    pub(crate) fn numbered(number: u64) -> Self {
        let world = Self::new();
        world.purchases.store(number * 1_000_000 + 1, Ordering::Relaxed);
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            min_free_bytes: 0,
            ..Options::new(self.clock.clone())
        }
    }

    pub(crate) fn open(&self) -> Embedded {
        self.open_with(|_| {})
    }

    pub(crate) fn open_with(&self, change: impl Fn(&mut Options)) -> Embedded {
        self.try_open_with(change).unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Embedded, OpenError> {
        self.try_open_with(|_| {})
    }

    /// Waits until the ledger that a test has killed or dropped has released the directory, then opens it. A program that
    /// another test is starting may hold the lock for a moment, too.
    fn try_open_with(&self, change: impl Fn(&mut Options)) -> Result<Embedded, OpenError> {
        loop {
            let mut options = self.options();
            change(&mut options);
            match Embedded::open(self.path(), options) {
                Err(OpenError::InUse(_)) => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    /// Waits until the ledger that a test has killed or dropped has released the directory.
    pub(crate) fn wait_until_released(&self) {
        let lock = fs::File::open(self.path().join("lock")).unwrap();
        lock.lock().unwrap();
    }

    /// Entries that the newest checkpoint covers.
    pub(crate) fn signed(&self) -> usize {
        let note = fs::read_to_string(self.path().join("audit/checkpoint")).unwrap_or_default();
        note.lines().nth(1).map_or(0, |size| size.parse().unwrap())
    }

    /// Waits until everything written so far is signed.
    pub(crate) fn wait_until_signed(&self) {
        let entries = self.journal().lines().count();
        while self.signed() < entries {
            std::thread::yield_now();
        }
    }

    /// A new purchase of one cent by `research`, charged to a day with a cap of `cap` micro-dollars.
    pub(crate) fn purchase(&self, cap: u128) -> Reserve {
        let amount = 10_000;
        self.charged(vec![charge("agent:research", Window::Day, Unit::MicroUsd, amount, cap)])
    }

    /// The payment is of the agent and the price that its charges name, as every payment is.
    pub(crate) fn charged(&self, charges: Vec<Charge>) -> Reserve {
        let agent = charges.iter().find_map(|charge| charge.scope.strip_prefix("agent:"));
        let agent = agent.unwrap_or("research").to_owned();
        let is_price = |charge: &&Charge| charge.unit == Unit::MicroUsd && charge.amount > 0;
        let price = charges.iter().find(is_price).map_or(10_000, |charge| charge.amount);
        let number = self.purchases.fetch_add(1, Ordering::Relaxed);
        let now: Timestamp = NOON.parse().unwrap();
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        let asset = Asset::Token(tokens_of(Network::Eip155(84532)).next().unwrap());
        let hold = Hold {
            rid: PaymentId::new(now, random),
            agent,
            group: Some("eng".into()),
            host: "api.example.com".into(),
            origin: None,
            path: "/v1/report".into(),
            // Unlike a bare number, no digest contains this by chance.
            query: Some("customer=zoe-4711".into()),
            terms: Terms {
                rail: Rail::X402,
                asset,
                amount: Atoms::new(10_000),
                usd: MicroUsd::new(price),
                payee: Address::repeat_byte(0x22).into(),
                clause: Clause::None,
            },
            charges,
            policy_gen: 1,
            fingerprint: [1; 32],
            idempotency: None,
            offer_sha256: [2; 32],
            others: Vec::new(),
        };
        Reserve {
            hold,
            arm: Arm {
                from: Address::repeat_byte(0x11).into(),
                issuer: None,
                nonce: B256::left_padding_from(&number.to_be_bytes()).into(),
                signer: None,
                valid_after: 0,
                valid_before: now.as_second() as u64 + 300,
            },
        }
    }

    /// A question about held money, with ten minutes to answer.
    pub(crate) fn question(&self, hold: &Hold, intent: u8) -> Requested {
        let Reserve { hold: other, .. } = self.purchase(0);
        Requested {
            // The id differs from every payment's as they differ from each other.
            id: other.rid,
            rid: hold.rid,
            agent: hold.agent.clone(),
            approver: "did:x:finance".into(),
            backend: "ciba".into(),
            intent: [intent; 32],
            needed: 1,
            rules: vec!["agents.research.approval_above".into()],
            codes: vec![Disclosure::new([intent; 16], "code of did:x:finance", "0BY5GS4N")],
            until: NOON.parse::<Timestamp>().unwrap() + SignedDuration::from_mins(10),
        }
    }

    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        files(&self.path().join("audit"), "seg-")
    }

    pub(crate) fn journal(&self) -> String {
        let text: String = self
            .segments()
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        text.trim_end_matches('\n').to_owned()
    }

    /// Events in order.
    pub(crate) fn events(&self) -> Vec<String> {
        let ev = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["ev"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        self.journal().lines().filter(|line| !line.is_empty()).map(ev).collect()
    }

    pub(crate) fn count(&self, ev: &str) -> usize {
        self.events().iter().filter(|found| *found == ev).count()
    }
}

pub(crate) fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    found.sort();
    found
}

pub(crate) fn charge(scope: &str, window: Window, unit: Unit, amount: u128, cap: u128) -> Charge {
    Charge {
        scope: scope.into(),
        was: None,
        window,
        unit,
        start: "2026-11-20T00:00:00+01:00[Europe/Berlin]".into(),
        // The one day that these tests charge ends then.
        ends: (window == Window::Day).then(|| "2026-11-20T23:00:00Z".parse().unwrap()),
        amount,
        cap,
        rule: "agents.research.day".into(),
        excess: Excess::Denied,
    }
}

/// Evidence that is remembered for a minute longer than its grant can be used.
pub(crate) fn granted(id: PaymentId, replay: u8, use_by: Timestamp) -> ApprovalStep {
    ApprovalStep::Granted {
        id,
        by: "did:x:finance".into(),
        kind: EvidenceKind::SignedToken,
        evidence_sha256: [9; 32],
        replay: [replay; 32],
        replay_until: use_by + SignedDuration::from_mins(1),
        use_by,
    }
}

/// What counts against `agent:research` in the current day, in micro-USD.
pub(crate) async fn counted(ledger: &dyn Ledger) -> u128 {
    let usage = ledger.usage(&["agent:research"]).await.unwrap();
    usage
        .iter()
        .filter(|row| row.window == "day")
        .map(|row| row.settled + row.open)
        .sum()
}

/// Returns `verdict` the `nth` time (from 1) that `step` is reached.
pub(crate) struct FailAt {
    pub step: Step,
    pub nth: usize,
    pub verdict: Verdict,
}

impl Faults for FailAt {
    fn at(&mut self, step: Step) -> Verdict {
        if step == self.step {
            self.nth -= usize::from(self.nth > 0);
            if self.nth == 0 {
                return self.verdict;
            }
        }
        Verdict::Go
    }
}
