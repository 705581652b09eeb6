//! A test environment: a ledger, a clock, and a node with a chain that the test makes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use alloy_primitives::{Address, B256};
use jiff::Timestamp;

use super::reconciler::{Notice, Reconciler};
use bursar_core::assets::{self, Asset, Network, Token};
use bursar_core::challenge::{Clause, Rail};
use bursar_core::clock::{Clock, ManualClock, SharedClock};
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_home::Home;
use bursar_ledger::memory::Memory;
use bursar_ledger::{Arm, Embedded, Hold, Ledger, Options, Outcome, PaymentId, Reason, Reserve, Source, State, Terms};
use bursar_rails::outstanding::{Left, Outstanding};
use bursar_rails::rpc::fake::chain::{Chain, cashing};
use bursar_rails::rpc::fake::{Fake, tls};

pub(crate) const NETWORK: Network = Network::Eip155(84_532);
pub(crate) const BEGAN: u64 = 1_795_161_600;
pub(crate) const VALID_S: u64 = 300;
pub(crate) const WALLET: Address = Address::repeat_byte(0x11);
pub(crate) const PAYEE: Address = Address::repeat_byte(0x22);
pub(crate) const CENT: u64 = 10_000;

/// A ledger, a node whose final block lags ten seconds behind, and a clock that only the test moves.
pub(crate) struct World {
    pub reconciler: Arc<Reconciler>,
    pub clock: Arc<ManualClock>,
    pub chain: Arc<Mutex<Chain>>,
    pub fake: Fake,
    pub outstanding: Outstanding,
    pub received: Arc<Mutex<Vec<Notice>>>,
    /// The rail of payments made from here on.
    pub rail: Rail,
    _dir: tempfile::TempDir,
}

pub(crate) fn asset() -> &'static Token {
    assets::tokens_of(NETWORK).next().unwrap()
}

pub(crate) fn time(second: u64) -> Timestamp {
    Timestamp::from_second(second as i64).unwrap()
}

/// A world with a ledger in memory.
pub(crate) async fn world() -> World {
    world_with(|clock, _| Arc::new(Memory::new(clock, Arc::new(|_| {})))).await
}

/// A world with a journal on disk.
pub(crate) async fn world_on_disk() -> World {
    world_with(|clock, dir| {
        let options = Options {
            min_free_bytes: 0,
            ..Options::new(clock)
        };
        Arc::new(Embedded::open(dir, options).unwrap())
    })
    .await
}

async fn world_with(ledger: impl FnOnce(SharedClock, &Path) -> Arc<dyn Ledger>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path()).unwrap();
    home.create().unwrap();
    // A test key: every byte is one.
    let seed = b"ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
    std::fs::write(home.log_key(), seed).unwrap();
    std::fs::set_permissions(home.log_key(), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let clock = Arc::new(ManualClock::at(time(BEGAN)));
    let chain = Arc::new(Mutex::new(Chain::new(BEGAN - 10_000, 0, 0)));
    let (asked, received) = (chain.clone(), Arc::new(Mutex::new(Vec::new())));
    let fake = Fake::replying(move |method, params| asked.lock().unwrap().answer(method, params)).await;
    let outstanding = Left::read(&home.credentials())
        .unwrap()
        .compared(clock.clone(), |_| None);
    let sink = received.clone();
    let reconciler = Reconciler {
        ledger: ledger(clock.clone(), dir.path()),
        home,
        issuer: None,
        settle_wait: std::time::Duration::from_secs(30),
        nodes: [(NETWORK, vec![fake.node()])].into(),
        tls: Arc::new(tls()),
        clock: clock.clone(),
        outstanding: Some(outstanding.clone()),
        wallet: Some(WALLET),
        notices: Arc::new(move |notice| sink.lock().unwrap().push(notice)),
        stop: Default::default(),
        turn: Default::default(),
    };
    let world = World {
        reconciler: Arc::new(reconciler),
        clock,
        chain,
        fake,
        outstanding,
        received,
        rail: Rail::X402,
        _dir: dir,
    };
    world.at(0);
    world
}

impl World {
    /// Sets the time, here and on the chain, to this many seconds after the beginning.
    pub(crate) fn at(&self, seconds: u64) {
        self.clock.set(time(BEGAN + seconds));
        let mut chain = self.chain.lock().unwrap();
        (chain.newest, chain.finalized) = ((10_000 + seconds) / 2, (9_990 + seconds) / 2);
    }

    pub(crate) fn ledger(&self) -> &dyn Ledger {
        &*self.reconciler.ledger
    }

    pub(crate) async fn armed(&self, n: u8) -> PaymentId {
        let now = self.clock.now();
        let hold = Hold {
            rid: PaymentId::new(now, [n; 10]),
            agent: "research".into(),
            group: None,
            host: "api.example.com".into(),
            origin: None,
            path: "/".into(),
            query: None,
            terms: Terms {
                rail: self.rail,
                asset: Asset::Token(asset()),
                amount: Atoms::new(CENT.into()),
                usd: MicroUsd::new(CENT.into()),
                payee: PAYEE.into(),
                clause: Clause::None,
            },
            charges: vec![Charge {
                scope: "agent:research".into(),
                was: None,
                window: Window::Day,
                unit: Unit::MicroUsd,
                start: "2026-11-20T00:00:00+00:00[UTC]".into(),
                ends: None,
                amount: CENT.into(),
                cap: 10_000_000,
                rule: "agents.research.day".into(),
                excess: Excess::Denied,
            }],
            policy_gen: 1,
            fingerprint: [n; 32],
            idempotency: None,
            offer_sha256: [0; 32],
            others: Vec::new(),
        };
        let arm = Arm {
            from: WALLET.into(),
            issuer: None,
            nonce: B256::repeat_byte(n).into(),
            signer: None,
            valid_after: 0,
            valid_before: now.as_second() as u64 + VALID_S,
        };
        self.ledger().reserve(Reserve { hold, arm }).await.unwrap().rid()
    }

    pub(crate) async fn unknown(&self, n: u8) -> PaymentId {
        let rid = self.armed(n).await;
        let outcome = Outcome::Unknown {
            why: Reason::AnswerLost,
            tx: None,
        };
        self.ledger().finish(rid, outcome).await.unwrap();
        rid
    }

    pub(crate) async fn settled(&self, n: u8) -> PaymentId {
        let rid = self.armed(n).await;
        let (by, tx) = (Source::Merchant, Some(B256::repeat_byte(n).to_string()));
        self.ledger().finish(rid, Outcome::Settled { by, tx }).await.unwrap();
        rid
    }

    /// The seller cashes payment `n`.
    pub(crate) fn cash(&self, n: u8, at: u64) {
        let mut chain = self.chain.lock().unwrap();
        let events = cashing(WALLET, B256::repeat_byte(n), PAYEE, CENT);
        chain.mine((10_000 + at) / 2, B256::repeat_byte(n), asset().address, &events);
    }

    pub(crate) async fn state_of(&self, rid: PaymentId) -> (State, Option<Source>) {
        let payment = self.ledger().get(rid).await.unwrap().unwrap();
        (payment.state, payment.by)
    }

    pub(crate) async fn counted(&self) -> u128 {
        let usage = self.ledger().usage(&["agent:research"]).await.unwrap();
        usage.iter().map(|row| row.settled + row.open).sum()
    }
}
