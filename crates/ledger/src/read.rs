//! The ledger for readers: payments and refusals, replayed from the journal without a lock, whether a server runs or
//! not (R57 and R59). What is read is compared with what was signed.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use super::book::Book;
use super::checkpoints::CheckpointError;
use super::compared::{Compared, Comparison, Signed};
use super::disclosure::disclosed;
use super::entry::{self, Body, Entry, Other};
use super::format::{self, FormatError};
use super::model::{Source, State};
use super::pauses::Pause;
use super::payment::Payment;
use super::pruned::{self, Beginning, scan};
use super::scan::{JournalError, Line, scan_from, segments};
use super::text::Moment;
use bursar_core::assets::Asset;
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::payment_id::PaymentId;

/// How often the journal is read, because a read can meet a write that is half done. One that is incomplete after the
/// last attempt is damage.
const LOOKS: usize = 3;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The first start of a server signs its first entries within this time.
const FIRST_SIGNATURE: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ReadError {
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal is not what was signed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error("cannot read {}: {source}", path.display())]
    Io {
        path: std::path::PathBuf,
        source: std::io::Error,
    },
}

/// What the journal records, oldest first.
#[derive(Debug, Default)]
pub struct RecordedPayments {
    pub payments: Vec<PaymentRecord>,
    pub refusals: Vec<Refused>,
    /// The pauses in force, oldest first.
    pub pauses: Vec<Pause>,
}

/// One line of `payments list --json`. Amounts are strings, times RFC 3339 UTC; the members keep this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PaymentRecord {
    pub id: PaymentId,
    pub state: State,
    pub by: Option<Source>,
    pub agent: String,
    pub group: Option<String>,
    pub rail: String,
    pub scheme: String,
    pub network: String,
    pub merchant: String,
    /// `https://host/path`: origin and path as far as they are disclosed, else `https://host`. Never a query.
    pub resource: String,
    /// CAIP-19.
    pub asset: String,
    pub symbol: String,
    /// Atoms.
    pub amount: String,
    /// In whole units of the asset.
    pub amount_decimal: String,
    pub usd: String,
    /// Atoms that an `upto` payment is proven to have cost; `amount` is the most that it could cost.
    pub taken: Option<String>,
    /// Lower-case hex.
    pub payee: String,
    /// Also `None` while an external signer has not reported it.
    pub nonce: Option<String>,
    pub valid_before: Option<Timestamp>,
    pub tx: Option<String>,
    pub reason: Option<String>,
    pub approval: Option<String>,
    /// How the chain contradicts it.
    pub disputed: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// One entry about refusals: `count` equal ones (R62).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub at: Timestamp,
    pub agent: String,
    pub group: Option<String>,
    pub merchant: String,
    pub reason: String,
    pub rule: String,
    /// What was asked for, in dollars.
    pub usd: Option<String>,
    pub count: u64,
}

/// One payment, and what else its 402 offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub payment: PaymentRecord,
    /// In the order of the 402.
    pub others: Vec<Other>,
}

/// Reads all payments and refusals in `dir` (the data directory).
pub fn read_payments(dir: &Path) -> Result<Compared<RecordedPayments>, ReadError> {
    let replay = read_entries(dir, Replay::onto, Replay::visit)?;
    let paths = paths(dir)?;
    Ok(replay.map(|replay| {
        let record = |rid| {
            let payment = replay.payments.get(rid);
            payment.map(|payment| PaymentRecord::of(payment, &paths))
        };
        RecordedPayments {
            payments: replay.order.iter().filter_map(record).collect(),
            pauses: in_force(&replay.book),
            refusals: replay.refusals,
        }
    }))
}

/// Reads from the journal in `dir` (the data directory) the pauses in force, oldest first.
pub fn read_pauses(dir: &Path) -> Result<Compared<Vec<Pause>>, ReadError> {
    let replay = read_entries(dir, Replay::onto, Replay::visit)?;
    Ok(replay.map(|replay| in_force(&replay.book)))
}

fn in_force(book: &Book) -> Vec<Pause> {
    let mut pauses: Vec<Pause> = book.pauses().all().cloned().collect();
    pauses.sort_by_key(|pause| pause.since);
    pauses
}

/// Only compares the journal in `dir` (the data directory) with what was signed.
pub fn compare(dir: &Path) -> Result<Comparison, ReadError> {
    Ok(read_entries(dir, |_| (), |(), _| Ok(()))?.comparison)
}

/// Reads from the journal in `dir` (the data directory) one payment and the offers that were not taken.
pub fn read_explained(dir: &Path, rid: PaymentId) -> Result<Compared<Option<Explained>>, ReadError> {
    let replay = read_entries(dir, Replay::onto, Replay::visit)?;
    let paths = paths(dir)?;
    Ok(replay.map(|mut replay| {
        let payment = replay.payments.remove(&rid)?;
        Some(Explained {
            payment: PaymentRecord::of(&payment, &paths),
            others: payment.reserved.others.clone(),
        })
    }))
}

/// All disclosures, by digest.
fn paths(dir: &Path) -> Result<HashMap<String, (String, String)>, ReadError> {
    let private = dir.join("private");
    match disclosed(&private) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashMap::new()),
        Err(source) => Err(ReadError::Io { path: private, source }),
        Ok(paths) => Ok(paths),
    }
}

/// One payment, without the index. For the process that writes the journal: its start has compared it.
pub(super) fn find(dir: &Path, rid: PaymentId) -> Result<Option<Payment>, ReadError> {
    let audit = dir.join("audit");
    let mut look = 1;
    loop {
        let mut replay = Replay::onto(pruned::beginning(&audit)?.book);
        match scan(&audit, &mut |line| replay.visit(line)) {
            Ok(_) => return Ok(replay.payments.remove(&rid)),
            Err(_) if look < LOOKS => look += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

#[derive(Default)]
struct Replay {
    book: Book,
    payments: HashMap<PaymentId, Payment>,
    /// The order in which they were reserved.
    order: Vec<PaymentId>,
    refusals: Vec<Refused>,
}

/// Passes every line of the journal, oldest first, to the visitor that `begin` makes from the book at the journal's
/// beginning, and compares them with what was signed.
pub(super) fn read_entries<T>(
    dir: &Path,
    begin: impl Fn(Book) -> T,
    visit: impl Fn(&mut T, &Line<'_>) -> Result<(), String>,
) -> Result<Compared<T>, ReadError> {
    format::check(dir)?;
    looking(dir, || read_once(dir, &begin, &visit))
}

/// Reads again while what was met may be a write that is half done.
pub(super) fn looking<T>(dir: &Path, read: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
    let (mut look, began) = (1, Instant::now());
    loop {
        match read() {
            Err(error) if is_read_again(&error, look, began.elapsed(), unwritten_for(&dir.join("audit"))) => look += 1,
            read => return read,
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a read that failed may have met a write that was half done, or a server's first start.
fn is_read_again(error: &ReadError, look: usize, waited: Duration, unwritten_for: Duration) -> bool {
    let never_signed = matches!(error, ReadError::Checkpoint(CheckpointError::NeverSigned { .. }));
    let may_be_signed_soon = never_signed && waited.max(unwritten_for) < FIRST_SIGNATURE;
    look < LOOKS || may_be_signed_soon
}

/// How long ago the newest segment was written. Zero if the file system does not say.
fn unwritten_for(audit: &Path) -> Duration {
    let newest = segments(audit).ok().and_then(|mut segments| segments.pop());
    let written = newest.and_then(|(_, path)| path.metadata().ok()?.modified().ok());
    written.and_then(|written| written.elapsed().ok()).unwrap_or_default()
}

fn read_once<T>(
    dir: &Path,
    begin: &impl Fn(Book) -> T,
    visit: &impl Fn(&mut T, &Line<'_>) -> Result<(), String>,
) -> Result<Compared<T>, ReadError> {
    let audit = dir.join("audit");
    // Before the entries: what is signed then is on disk.
    let signed = Signed::read(dir)?;
    let first = match audit.exists() {
        true => pruned::beginning(&audit)?,
        false => Beginning::default(),
    };
    let mut comparing = signed.from(dir, &first)?;
    let mut read = begin(first.book.clone());
    if audit.exists() {
        scan_from(&audit, first.chain, first.place, &mut |line| {
            comparing.visit(line)?;
            visit(&mut read, line)
        })?;
    }
    let comparison = comparing.end()?;
    Ok(Compared { read, comparison })
}

impl Replay {
    /// Payments that were open where the journal begins are included; those that were finished are in the segments that
    /// were moved.
    fn onto(book: Book) -> Self {
        let payments: HashMap<PaymentId, Payment> = book
            .open_payments()
            .map(|payment| (payment.rid(), payment.clone()))
            .collect();
        Self {
            order: book.open_payments().map(Payment::rid).collect(),
            payments,
            book,
            refusals: Vec::new(),
        }
    }

    fn visit(&mut self, line: &Line<'_>) -> Result<(), String> {
        let entry = Entry::headed(&line.head, line.bytes).map_err(|error| error.to_string())?;
        let effect = self.book.apply(&entry).map_err(|illegal| illegal.to_string())?;
        if let Some(payment) = effect.payment {
            let rid = payment.rid();
            if self.payments.insert(rid, payment).is_none() {
                self.order.push(rid);
            }
        }
        if let Some((rid, amendment)) = effect.amended
            && let Some(payment) = self.payments.get_mut(&rid)
        {
            amendment.apply(payment);
        }
        if let Body::Refused(refused) = entry.body {
            self.refusals.push(Refused::of(refused, entry.ts));
        }
        Ok(())
    }
}

impl Refused {
    fn of(refused: entry::Refused, ts: Moment) -> Self {
        Self {
            at: ts.timestamp(),
            agent: refused.agent,
            group: refused.group,
            merchant: refused.host,
            reason: refused.reason,
            rule: refused.rule,
            usd: refused.usd_micros.map(|micros| MicroUsd::new(micros.0).to_string()),
            count: refused.count,
        }
    }
}

impl PaymentRecord {
    fn of(payment: &Payment, disclosed: &HashMap<String, (String, String)>) -> Self {
        let reserved = &payment.reserved;
        let resource = resource(reserved, disclosed);
        let amount = Atoms::new(reserved.amount.0);
        let arm = payment.arm.as_ref();
        let deadline = arm.and_then(|arm| i64::try_from(arm.valid_before.0).ok());
        Self {
            id: payment.rid(),
            state: payment.state,
            by: payment.by,
            agent: reserved.agent.clone(),
            group: reserved.group.clone(),
            rail: reserved.rail.clone(),
            scheme: reserved.scheme.clone(),
            network: reserved.network.clone(),
            merchant: reserved.host.clone(),
            resource,
            asset: reserved.asset.clone(),
            symbol: reserved.symbol.clone(),
            amount: amount.get().to_string(),
            amount_decimal: match Asset::parse(&reserved.asset) {
                Some(Asset::Fiat(..)) => amount.fixed(reserved.decimals),
                _ => amount.decimal(reserved.decimals),
            },
            usd: MicroUsd::new(reserved.usd_micros.0).to_string(),
            taken: payment.taken.map(|taken| taken.0.to_string()),
            payee: reserved.payee.text(),
            nonce: arm.and_then(|arm| Some(arm.nonce?.to_string())),
            valid_before: deadline.and_then(|second| Timestamp::from_second(second).ok()),
            tx: payment.tx.clone(),
            reason: payment.reason.clone(),
            approval: payment.approval.clone(),
            disputed: payment.disputed.clone(),
            created_at: payment.created_at.timestamp(),
            updated_at: payment.updated_at.timestamp(),
        }
    }
}

fn resource(reserved: &entry::Reserved, disclosed: &HashMap<String, (String, String)>) -> String {
    let value = |name: &str| {
        let mut known = reserved.sd.iter().filter_map(|digest| disclosed.get(digest));
        known.find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    let path = value("path").unwrap_or_default();
    match value("origin") {
        Some(origin) => format!("{origin}{path}"),
        None => format!("https://{}{path}", reserved.host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_journal_that_was_never_signed_is_waited_for() {
        let audit = Path::new("audit").to_owned();
        let never = ReadError::Checkpoint(CheckpointError::NeverSigned { audit, have: 1 });
        let audit = Path::new("audit").to_owned();
        let shorter = ReadError::Checkpoint(CheckpointError::Shorter {
            audit,
            have: 1,
            signed: 2,
        });
        let (now, soon, late) = (Duration::ZERO, Duration::from_millis(4900), Duration::from_secs(5));
        for error in [&never, &shorter] {
            for look in 1..LOOKS {
                assert!(is_read_again(error, look, late, late), "{error}");
            }
        }
        assert!(is_read_again(&never, LOOKS, now, now));
        assert!(is_read_again(&never, 90, soon, soon));
        assert!(!is_read_again(&never, LOOKS, late, now), "a server that cannot sign");
        assert!(!is_read_again(&never, LOOKS, now, late), "nothing is being started");
        assert!(!is_read_again(&shorter, LOOKS, now, now));
    }
}
