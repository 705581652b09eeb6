//! What a batch reads and writes: which rows it needs, and how the tables store them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio_postgres::{Error, Row as SqlRow};
use uuid::Uuid;

use super::asks::Ask;
use super::connect::{explain, is_other_rows, is_to_be_retried};
use super::kept::{self, Origin};
use super::policy::{Published, Sha256};
use super::schema::GUARD;
use crate::counters::{Counter, CounterKey};
use crate::entry::Reserved;
use crate::key::KeyHold;
use crate::model::{Event, State};
use crate::pauses::Pause;
use crate::payment::{Finding, NonceKey, Payment};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::{SINCE_APPROVAL, Window};

/// Why a transaction was not done. Unless stated otherwise, nothing of it is in the database.
#[derive(Debug)]
pub(super) enum TransactionError {
    /// Another transaction was in the way: retrying may succeed.
    Again(String),
    /// The connection failed, or the server cannot do it at the moment.
    Down(String),
    /// Another process writes as this node.
    Fenced,
}

impl From<Error> for TransactionError {
    fn from(error: Error) -> Self {
        if is_other_rows(&error) {
            return Self::Again("another transaction has changed the rows".to_owned());
        }
        let text = explain(&error);
        if is_to_be_retried(&error) {
            Self::Again(text)
        } else {
            Self::Down(text)
        }
    }
}

/// A payment's row.
pub(super) struct Row {
    pub owner: u32,
    pub payment: Payment,
    pub unconfirmed: bool,
    /// `None`: of version 5 of the tables.
    pub origin: Option<Origin>,
}

/// A payment's row as a batch leaves it.
pub(super) struct Changed {
    pub payment: Payment,
    pub is_new: bool,
    pub unconfirmed: bool,
    pub origin: Option<Origin>,
}

/// What a batch must lock and read.
#[derive(Default)]
pub(super) struct Needs {
    /// Counters and guards.
    pub keys: BTreeSet<CounterKey>,
    /// Rolling windows, and the oldest bucket that matters.
    pub rolling: BTreeMap<(String, String), String>,
    pub nonces: BTreeSet<NonceKey>,
    pub keys_asked: BTreeSet<[u8; 32]>,
    pub files: Vec<Sha256>,
    pub adopts: bool,
    pub rids: Vec<Uuid>,
}

/// What was read under the locks.
pub(super) struct Locked {
    pub counters: Vec<(CounterKey, Counter)>,
    /// Nonces that are taken.
    pub nonces: Vec<NonceKey>,
    pub keys: Vec<KeyHold>,
    /// All that are in force.
    pub pauses: Vec<Pause>,
    pub published: Published,
    /// Nodes whose heartbeat has stopped.
    pub silent: HashSet<u32>,
    /// Payments that are still ours according to our log.
    pub to_yield: HashSet<PaymentId>,
    /// Some rows do not exist yet.
    pub missing: bool,
}

impl Needs {
    pub(super) fn of<'t>(asks: impl Iterator<Item = &'t Ask>, rows: &HashMap<PaymentId, Row>) -> Self {
        let mut needs = Self::default();
        let mut returned = HashSet::new();
        for ask in asks {
            if let Ask::Finding(rid, Finding::Taken { .. }) = ask {
                returned.insert(*rid);
            }
            for charge in ask.charges() {
                // Its former name counts, too.
                for scope in std::iter::once(&charge.scope).chain(&charge.was) {
                    let (scope, window) = (scope.to_string(), charge.window_name().into_owned());
                    match charge.window {
                        Window::Rolling(rolling) => needs.bucket(scope, window, rolling.oldest(&charge.start)),
                        // Only the buckets show which one is the latest.
                        Window::SinceApproval => needs.bucket(scope, window, String::new()),
                        _ => needs.counter(scope, window, charge.start.to_string()),
                    }
                }
            }
            let row = ask.rid().and_then(|rid| rows.get(&rid));
            needs.nonces.extend(ask.nonce(row.map(|row| &row.payment)));
            needs.keys_asked.extend(ask.key());
            if let Ask::Append(Event::PolicyLoaded { sha256, .. }) = ask {
                needs.files.push(*sha256);
            }
            needs.adopts |= matches!(ask, Ask::Adopt(_));
        }
        for (rid, row) in rows {
            needs.rids.push(Uuid::from_bytes(*rid.bytes()));
            // A finished payment changes no counter any more, unless a part of it is given back.
            let is_counted = row.payment.is_open() || (row.unconfirmed && returned.contains(rid));
            for charge in row.payment.windows().iter().filter(|_| is_counted) {
                let [scope, window, start] = [charge.scope(), charge.window(), charge.start()].map(str::to_owned);
                if has_buckets(&window) {
                    needs.bucket(scope, window, start);
                } else {
                    needs.counter(scope, window, start);
                }
            }
        }
        needs
    }

    /// Whether what was read for `others` is enough for this.
    pub(super) fn is_within(&self, others: &Self) -> bool {
        let since = |name| others.rolling.get(name);
        self.keys.is_subset(&others.keys)
            && self.nonces.is_subset(&others.nonces)
            && self.keys_asked.is_subset(&others.keys_asked)
            && self
                .rolling
                .iter()
                .all(|(name, oldest)| since(name).is_some_and(|since| since <= oldest))
    }

    fn counter(&mut self, scope: String, window: String, start: String) {
        self.keys.insert((scope, window, start));
    }

    fn bucket(&mut self, scope: String, window: String, since: String) {
        self.keys.insert((scope.clone(), window.clone(), GUARD.to_owned()));
        let oldest = self.rolling.entry((scope, window)).or_insert_with(|| since.clone());
        if since < *oldest {
            *oldest = since;
        }
    }
}

/// Decided by its name in an entry, which [`bursar_core::policy::budget::Charge::window_name`] makes.
pub(super) fn has_buckets(window: &str) -> bool {
    window == SINCE_APPROVAL || window.starts_with("rolling.") || window.starts_with("count.rolling.")
}

#[derive(Default)]
pub(super) struct CounterRows<'a> {
    pub scopes: Vec<&'a str>,
    pub windows: Vec<&'a str>,
    pub starts: Vec<&'a str>,
    pub settled: Vec<String>,
    pub open: Vec<String>,
}

impl<'a> CounterRows<'a> {
    pub(super) fn of(counters: &[(&'a CounterKey, &Counter)]) -> Self {
        let mut rows = Self::default();
        for ((scope, window, start), counter) in counters {
            rows.scopes.push(scope);
            rows.windows.push(window);
            rows.starts.push(start);
            rows.settled.push(counter.settled.to_string());
            rows.open.push(counter.open.to_string());
        }
        rows
    }
}

#[derive(Default)]
pub(super) struct PaymentRows {
    pub rids: Vec<Uuid>,
    pub states: Vec<i16>,
    pub counts_until: Vec<Option<i64>>,
    pub unconfirmed: Vec<bool>,
    pub payments: Vec<String>,
    pub entry_nodes: Vec<Option<i32>>,
    pub entry_seqs: Vec<Option<i64>>,
}

impl PaymentRows {
    pub(super) fn of(changed: &[(&PaymentId, &Changed)]) -> Result<Self, TransactionError> {
        let mut rows = Self::default();
        for (rid, changed) in changed {
            let payment = &changed.payment;
            rows.rids.push(Uuid::from_bytes(*rid.bytes()));
            rows.states.push(state_number(payment.state));
            rows.counts_until
                .push(payment.arm.as_ref().map(|arm| seconds(arm.valid_before.0)));
            rows.unconfirmed.push(changed.unconfirmed);
            rows.payments
                .push(kept::text(payment, changed.origin).map_err(TransactionError::Down)?);
            rows.entry_nodes.push(changed.origin.map(|origin| id(origin.node)));
            rows.entry_seqs.push(changed.origin.map(|origin| seconds(origin.seq)));
        }
        Ok(rows)
    }
}

/// The numbers of the state machine in R213.
const fn state_number(state: State) -> i16 {
    match state {
        State::Held => 1,
        State::Armed => 2,
        State::Settled => 3,
        State::Unknown => 4,
        State::Released => 5,
        State::Expired => 6,
    }
}

pub(super) fn columns<'a>(keys: impl Iterator<Item = &'a CounterKey>) -> [Vec<&'a str>; 3] {
    let mut columns: [Vec<&str>; 3] = Default::default();
    for (scope, window, start) in keys {
        columns[0].push(scope);
        columns[1].push(window);
        columns[2].push(start);
    }
    columns
}

/// rid, owner, unconfirmed, payment, entry_node, entry_seq, entry. What was reserved is in the entry, or is `known` here.
pub(super) fn read_row(
    row: &SqlRow,
    known: &HashMap<PaymentId, Payment>,
) -> Result<(PaymentId, Row), TransactionError> {
    let rid = PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes());
    let origin = match (row.try_get(4)?, row.try_get::<_, Option<i64>>(5)?) {
        (Some(node), Some(seq)) => Some(Origin {
            node: node_id(node),
            seq: seq.cast_unsigned(),
        }),
        _ => None,
    };
    let reserved = match (origin, known.get(&rid)) {
        (None, _) => None,
        // It never changes.
        (Some(_), Some(payment)) => Some(payment.reserved.clone()),
        (Some(_), None) => Some(read_reserved(row.try_get(6)?)?),
    };
    let row = Row {
        owner: node_id(row.try_get(1)?),
        unconfirmed: row.try_get(2)?,
        payment: kept::read(row.try_get(3)?, reserved).map_err(TransactionError::Down)?,
        origin,
    };
    Ok((rid, row))
}

/// payment, entry_seq, entry
pub(super) fn read_payment(row: &SqlRow) -> Result<Payment, TransactionError> {
    let reserved = match row.try_get::<_, Option<i64>>(1)? {
        None => None,
        Some(_) => Some(read_reserved(row.try_get(2)?)?),
    };
    kept::read(row.try_get(0)?, reserved).map_err(TransactionError::Down)
}

fn read_reserved(entry: Option<&[u8]>) -> Result<Arc<Reserved>, TransactionError> {
    let missing = || TransactionError::Down("the entry of a payment is missing in the database".to_owned());
    kept::reserved(entry.ok_or_else(missing)?).map_err(TransactionError::Down)
}

pub(super) fn read_counter(row: &SqlRow) -> Result<(CounterKey, Counter), TransactionError> {
    let number = |column| -> Result<u128, TransactionError> {
        let text: &str = row.try_get(column)?;
        text.parse()
            .map_err(|_| TransactionError::Down(format!("a counter in the database is {text}")))
    };
    let key = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (settled, open) = (number(3)?, number(4)?);
    Ok((key, Counter { settled, open }))
}

/// idem, until, rid, fingerprint
pub(super) fn read_key(row: &SqlRow) -> Result<KeyHold, TransactionError> {
    let bytes = |column| -> Result<[u8; 32], TransactionError> {
        let bytes: &[u8] = row.try_get(column)?;
        bytes
            .try_into()
            .map_err(|_| TransactionError::Down("an idempotency key in the database is damaged".to_owned()))
    };
    Ok(KeyHold {
        idem: bytes(0)?,
        until: row.try_get::<_, i64>(1)?.cast_unsigned(),
        rid: PaymentId::from_bytes(row.try_get::<_, Uuid>(2)?.into_bytes()),
        fingerprint: bytes(3)?,
    })
}

pub(super) fn nonce(bytes: &[u8]) -> Result<NonceKey, TransactionError> {
    let key = bytes
        .try_into()
        .map_err(|_| TransactionError::Down("a nonce in the database is damaged".to_owned()))?;
    Ok(NonceKey(key))
}

pub(super) fn sha256(bytes: &[u8]) -> Result<Sha256, TransactionError> {
    bytes
        .try_into()
        .map_err(|_| TransactionError::Down("a policy in the database is damaged".to_owned()))
}

/// The database numbers nodes from 1.
pub(super) fn id(node: u32) -> i32 {
    i32::try_from(node).unwrap_or(i32::MAX)
}

pub(super) fn node_id(id: i32) -> u32 {
    u32::try_from(id).unwrap_or(0)
}

/// A value that does not fit is as good as forever.
pub(super) fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
