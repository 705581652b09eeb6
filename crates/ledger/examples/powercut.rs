//! The program that `tests/powercut.sh` runs while it cuts the power: it reserves and settles payments through the
//! ledger, and reports what the ledger has acknowledged as durable.
//!
//! Payment `n` (from 0) is two operations: number 2n + 1 reserves it, number 2n + 2 finishes it. `write DIR` continues
//! where the directory's journal ends, and prints the number up to which every operation was acknowledged, a line each
//! time it grows, until the power fails. `check DIR NUMBER` opens the directory and looks for every operation up to
//! NUMBER.

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use bursar_core::assets::{Asset, Network, tokens_of};
use bursar_core::challenge::{Clause, Rail};
use bursar_core::clock::ManualClock;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::policy::budget::{Charge, Excess, Unit, Window};
use bursar_home::{Readers, write_new};
use bursar_ledger::{
    Arm, Embedded, Hold, Ledger, Options, Outcome, PaymentId, Reason, Reserve, Source, State, Terms, read_payments,
};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

/// Payments under way at once, so that a batch contains several.
const AT_ONCE: u64 = 8;

/// Atoms per payment, and millionths of a dollar.
const PRICE: u128 = 10_000;

const NOON: &str = "2026-11-20T12:00:00Z";

type Failed = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", dir] => write(Path::new(dir)).await,
        ["check", dir, number] => match number.parse() {
            Ok(number) => check(Path::new(dir), number).await,
            Err(_) => Err("NUMBER must be a number".into()),
        },
        _ => Err("usage: powercut write DIR | powercut check DIR NUMBER".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// All ones; only for tests.
const LOG_KEY: &[u8] = b"ed25519-seed AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

fn open(dir: &Path) -> Result<Embedded, Failed> {
    let key = dir.join("log.key");
    if !key.exists() {
        write_new(&key, LOG_KEY, Readers::Owner)?;
    }
    let clock = Arc::new(ManualClock::at(NOON.parse()?));
    let options = Options {
        // The disk of a test is small.
        min_free_bytes: 0,
        ..Options::new(clock)
    };
    Ok(Embedded::open(dir, options)?)
}

async fn write(dir: &Path) -> Result<(), Failed> {
    let ledger = open(dir)?;
    let known = Arc::new(states(dir)?);
    let (acknowledge, mut acknowledged) = mpsc::unbounded_channel();
    for lane in 0..AT_ONCE {
        let (ledger, known, acknowledge) = (ledger.clone(), known.clone(), acknowledge.clone());
        tokio::spawn(async move {
            for n in (lane..).step_by(AT_ONCE as usize) {
                if let Err(error) = pay(&ledger, n, known.get(&rid(n)).copied(), &acknowledge).await {
                    eprintln!("payment {n}: {error}");
                    return;
                }
            }
        });
    }
    drop(acknowledge);
    let (mut ahead, mut all_up_to) = (BTreeSet::new(), 0);
    let mut out = std::io::stdout().lock();
    while let Some(number) = acknowledged.recv().await {
        ahead.insert(number);
        let before = all_up_to;
        while ahead.remove(&(all_up_to + 1)) {
            all_up_to += 1;
        }
        if all_up_to > before {
            writeln!(out, "{all_up_to}")?;
            out.flush()?;
        }
    }
    Err("the ledger stopped recording".into())
}

/// Reserves and finishes a payment, or does what is left of it after a cut.
async fn pay(
    ledger: &dyn Ledger,
    n: u64,
    state: Option<State>,
    acknowledge: &mpsc::UnboundedSender<u64>,
) -> Result<(), Failed> {
    if state.is_none() {
        ledger.reserve(purchase(n)?).await?;
    }
    acknowledge.send(2 * n + 1)?;
    if state != Some(end(n)) {
        ledger.finish(rid(n), outcome(n)).await?;
    }
    acknowledge.send(2 * n + 2)?;
    Ok(())
}

async fn check(dir: &Path, number: u64) -> Result<(), Failed> {
    let ledger = open(dir)?;
    let known = states(dir)?;
    for operation in 1..=number {
        let n = (operation - 1) / 2;
        let state = known
            .get(&rid(n))
            .ok_or_else(|| format!("payment {n} is lost, operation {operation} of {number}"))?;
        let is_finish = operation % 2 == 0;
        if is_finish && *state != end(n) {
            return Err(format!("payment {n} is {state}, but it was recorded as {}", end(n)).into());
        }
        if !is_finish && *state != end(n) && *state != State::Unknown {
            return Err(format!("payment {n} is {state}").into());
        }
    }
    let counted: u128 = known
        .values()
        .filter(|state| **state != State::Expired)
        .map(|_| PRICE)
        .sum();
    let usage = ledger.usage(&["agent:research"]).await?;
    let in_counters: u128 = usage.iter().map(|row| row.settled + row.open).sum();
    if counted != in_counters {
        return Err(format!("the payments add up to {counted} micro-USD, but the counters to {in_counters}").into());
    }
    let open = known.values().filter(|state| **state == State::Unknown).count();
    let open_items = ledger.open_items().await?.len();
    if open != open_items {
        return Err(format!("{open} payments are open, but the ledger lists {open_items}").into());
    }
    ledger.close().await;
    chain(dir)
}

/// The state of every payment, from the journal alone.
fn states(dir: &Path) -> Result<HashMap<PaymentId, State>, Failed> {
    let recorded = read_payments(dir)?.read;
    Ok(recorded
        .payments
        .iter()
        .map(|payment| (payment.id, payment.state))
        .collect())
}

/// Checks the hash chain with code of its own: `prev` is SHA-256(0x00 || previous line).
fn chain(dir: &Path) -> Result<(), Failed> {
    let mut segments = Vec::new();
    for file in std::fs::read_dir(dir.join("audit"))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            segments.push(path);
        }
    }
    segments.sort();
    let mut prev = "0".repeat(64);
    for segment in segments {
        for line in std::fs::read(&segment)?.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let entry: serde_json::Value = serde_json::from_slice(line)?;
            if entry["prev"] != prev {
                return Err(format!("the chain breaks at entry {} of {}", entry["seq"], segment.display()).into());
            }
            let leaf = Sha256::new().chain_update([0]).chain_update(line).finalize();
            prev = leaf.iter().map(|byte| format!("{byte:02x}")).collect();
        }
    }
    Ok(())
}

fn end(n: u64) -> State {
    match n % 3 {
        0 => State::Settled,
        1 => State::Unknown,
        _ => State::Expired,
    }
}

fn outcome(n: u64) -> Outcome {
    match n % 3 {
        0 => Outcome::Settled {
            by: Source::Merchant,
            tx: None,
        },
        1 => Outcome::Unknown {
            why: Reason::NoReceipt,
            tx: None,
        },
        _ => Outcome::Expired {
            by: Source::Chain,
            why: bursar_ledger::Reason::NeverCashed,
        },
    }
}

fn rid(n: u64) -> PaymentId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    PaymentId::new(NOON.parse().expect("a time"), random)
}

fn purchase(n: u64) -> Result<Reserve, Failed> {
    let now: Timestamp = NOON.parse()?;
    let asset = Asset::Token(tokens_of(Network::Eip155(84532)).next().ok_or("no asset")?);
    let charge = Charge {
        scope: "agent:research".into(),
        was: None,
        window: Window::Day,
        unit: Unit::MicroUsd,
        start: "2026-11-20T00:00:00Z[UTC]".into(),
        ends: None,
        amount: PRICE,
        cap: u128::MAX,
        rule: "agents.research.day".into(),
        excess: Excess::Denied,
    };
    let hold = Hold {
        rid: rid(n),
        agent: "research".into(),
        group: None,
        host: "api.example.com".into(),
        origin: None,
        path: "/v1/report".into(),
        query: None,
        terms: Terms {
            rail: Rail::X402,
            asset,
            amount: Atoms::new(PRICE),
            usd: MicroUsd::new(PRICE),
            payee: Address::repeat_byte(0x22).into(),
            clause: Clause::None,
        },
        charges: vec![charge],
        policy_gen: 1,
        fingerprint: [1; 32],
        idempotency: None,
        offer_sha256: [2; 32],
        others: Vec::new(),
    };
    Ok(Reserve {
        hold,
        arm: Arm {
            from: Address::repeat_byte(0x11).into(),
            issuer: None,
            nonce: (B256::left_padding_from(&(n + 1).to_be_bytes())).into(),
            signer: None,
            valid_after: 0,
            valid_before: u64::try_from(now.as_second())? + 300,
        },
    })
}
