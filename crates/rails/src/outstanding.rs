//! Outstanding payments: the credential was sent, and no complete 2xx has reached the agent (R3). A repeat of the same
//! request presents the same credential again instead of buying twice. Once the credential is no longer valid, the
//! repeat gets an answer that says so (R4).
//!
//! What a repeat needs is kept in `private/credentials/`, in slots of one file (`store.rs`). It is written before the
//! first byte is sent, is not synced, and is zeroed shortly after the answer has been delivered (R7). If a crash loses
//! it, only the repeat is lost: the payment stays unknown and counted. A payment under an `Idempotency-Key` keeps its
//! record after delivery, for as long as it may be presented again (R6, `keyed.rs`).

mod keyed;
mod left;
mod lost;
mod proof;
mod record;
mod slots;
mod store;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderName;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use bursar_core::challenge::{Credential, Rail};
use bursar_core::clock::SharedClock;
use bursar_ledger::PaymentId;

pub use keyed::{Asked, Paid};
pub use left::{Known, Left};
use lost::Lost;
pub use proof::{Withdrawal, Withdrawn};
use record::{Mark, Stored};
use store::{Marking, Place, Store};
pub use ticket::Ticket;

/// With less validity left than this, a seller would not settle any more (x402 §4.1).
const LEAST_VALIDITY_S: i64 = 6;
/// How many repeats may present one credential, after it was first sent (R3).
const PRESENTATIONS: u8 = 3;
/// For this long after the last try, a repeat is answered that the outcome is unknown. Later, it is a new purchase
/// (R4).
const RETRY_WINDOW: SignedDuration = SignedDuration::from_secs(900);

/// A request without its body: agent, method, scheme, authority, path and query. It can be looked up before the body is
/// read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target([u8; 32]);

/// A request with its body (R2). The offer is not part of it: a fresh 402 has fresh ids and perhaps a new price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Target {
    pub fn of(agent: &str, method: &str, scheme: &str, authority: &str, path_and_query: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [agent, method, scheme, authority, path_and_query] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self(hash.finalize().into())
    }

    pub fn with_body(self, sha256: &[u8; 32]) -> Fingerprint {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(sha256);
        Fingerprint(hash.finalize().into())
    }
}

impl Fingerprint {
    pub fn bytes(self) -> [u8; 32] {
        self.0
    }
}

/// All payments whose answers have not been delivered, and delivered ones under an `Idempotency-Key` that may still be
/// presented.
#[derive(Clone)]
pub struct Outstanding(Arc<Shared>);

struct Shared {
    store: Store,
    clock: SharedClock,
    by_target: Mutex<HashMap<Target, Vec<OutstandingPayment>>>,
    /// Lets a request that cannot be a repeat get by with one atomic load.
    count: AtomicUsize,
    delivered: Mutex<Delivered>,
    lost: Mutex<Lost>,
}

/// Payments whose answers were handed to their connections. The last bytes may still be on their way through TLS to the
/// socket: if bursar is killed then, the agent has no answer and will ask again. So the records are cleared only at the
/// second sweep after delivery.
#[derive(Default)]
struct Delivered {
    since_sweep: Vec<Place>,
    before: Vec<Place>,
}

struct OutstandingPayment {
    rid: PaymentId,
    fingerprint: Fingerprint,
    stored: Stored,
    /// Where `stored` is on disk.
    place: Place,
    last_try: Timestamp,
    /// It was shown to be paid, by a receipt or by proof.
    paid: bool,
    stage: Stage,
}

enum Stage {
    /// Its agent is waiting. An equal request in the meantime is a purchase of its own (R5), unless it has the same
    /// key. The channel closes when the wait is over.
    Waiting(watch::Receiver<()>),
    /// Its agent hung up, but the answer is still awaited; a repeat joins.
    Abandoned(watch::Receiver<()>),
    /// No presentation is in progress.
    Open,
}

/// A credential that was sent before and may be sent again.
pub struct Presentable {
    pub rid: PaymentId,
    pub rail: Rail,
    pub field: HeaderName,
    pub credential: Credential,
    /// Which presentation by a repeat this is, counted from 1.
    pub number: u8,
    pub ticket: Ticket,
}

/// What [`Outstanding::claim`] finds for a request.
pub enum Claim {
    /// It does not repeat an outstanding payment.
    Free,
    /// Present this instead of asking for a price.
    Present(Box<Presentable>),
    /// The same purchase is still in progress for an agent that hung up: wait for this channel to close, then claim
    /// again.
    Join(watch::Receiver<()>),
    /// The outcome is unknown, and the credential has expired or has been presented too often.
    OutcomeUnknown(PaymentId),
    /// Like `OutcomeUnknown`, but the payment was shown to be paid.
    PaidNotDelivered(PaymentId),
}

impl Outstanding {
    /// Whether any payment is outstanding. One atomic load, for requests that cannot be repeats.
    pub fn any(&self) -> bool {
        self.0.count.load(Ordering::Acquire) > 0
    }

    /// Whether a request to this target might be a repeat, so that its body must be read before it is forwarded.
    pub fn concern(&self, target: &Target) -> bool {
        self.lock()
            .get(target)
            .is_some_and(|outstanding| outstanding.iter().any(|payment| !payment.stored.delivered))
    }

    /// Stores what a repeat would need. From here on the payment is outstanding until its ticket says otherwise.
    pub fn sent(
        &self,
        rid: PaymentId,
        target: Target,
        fingerprint: Fingerprint,
        (rail, field, credential): (Rail, &HeaderName, &Credential),
        valid_before: u64,
        keyed: bool,
    ) -> Ticket {
        let stored = Stored {
            rid,
            target: hex(&target.0),
            fingerprint: hex(&fingerprint.0),
            rail: rail.name().to_owned(),
            field: field.as_str().to_owned(),
            credential: credential.expose().to_owned(),
            valid_before: i64::try_from(valid_before).unwrap_or(i64::MAX),
            keyed,
            presented: 0,
            delivered: false,
        };
        let place = self.0.store.put(&stored);
        let (ticket, over) = Ticket::new(self.clone(), rid, target);
        let payment = OutstandingPayment {
            rid,
            fingerprint,
            stored,
            place,
            last_try: self.0.clock.now(),
            paid: false,
            stage: Stage::Waiting(over),
        };
        self.lock().entry(target).or_default().push(payment);
        self.0.count.fetch_add(1, Ordering::Release);
        ticket
    }

    /// Decides what a request with this fingerprint has to do, oldest payment first. A credential that is handed out
    /// goes to no other request until its ticket is dropped.
    pub fn claim(&self, target: Target, fingerprint: Fingerprint) -> Claim {
        let now = self.0.clock.now();
        self.forget_old(now);
        let mut by_target = self.lock();
        let Some(outstanding) = by_target.get_mut(&target) else {
            return Claim::Free;
        };
        let mut answer = Claim::Free;
        for payment in outstanding.iter_mut() {
            if payment.fingerprint != fingerprint || payment.stored.delivered {
                continue;
            }
            match &payment.stage {
                Stage::Waiting(_) => {}
                Stage::Abandoned(over) => return Claim::Join(over.clone()),
                Stage::Open if payment.can_be_presented(now) => {
                    let (rid, begun) = (payment.rid, payment.begin(self, target, now));
                    drop(by_target);
                    return begun.map_or(Claim::OutcomeUnknown(rid), |begun| Claim::Present(self.marked(begun)));
                }
                Stage::Open if payment.paid => answer = Claim::PaidNotDelivered(payment.rid),
                Stage::Open => {
                    if matches!(answer, Claim::Free) {
                        answer = Claim::OutcomeUnknown(payment.rid);
                    }
                }
            }
        }
        answer
    }

    /// On disk as well, so that a restart does not reset the count.
    fn marked(&self, (marking, presentable): (Marking, Presentable)) -> Box<Presentable> {
        self.0.store.mark(marking, presentable.rid);
        Box::new(presentable)
    }

    /// Drops payments that no repeat can concern any more; their ledger records stay as they are. Called on a timer,
    /// because most outstanding payments are never asked about again.
    pub fn sweep(&self) {
        let now = self.0.clock.now();
        if self.any() {
            self.forget_old(now);
        }
        self.sweep_lost(now);
        let old = {
            let mut delivered = self.handed_over();
            let fresh = mem::take(&mut delivered.since_sweep);
            mem::replace(&mut delivered.before, fresh)
        };
        old.into_iter().for_each(|place| self.0.store.clear(place));
    }

    /// Clears the records of delivered payments at shutdown: all connections have ended, so their answers are out.
    pub fn end(&self) {
        let Delivered { since_sweep, before } = mem::take(&mut *self.handed_over());
        before
            .into_iter()
            .chain(since_sweep)
            .for_each(|place| self.0.store.clear(place));
    }

    fn forget_old(&self, now: Timestamp) {
        let mut by_target = self.lock();
        by_target.retain(|_, outstanding| {
            outstanding.retain_mut(|payment| {
                let keep = payment.is_needed(now);
                if !keep {
                    self.forgotten(mem::take(&mut payment.place));
                }
                keep
            });
            !outstanding.is_empty()
        });
    }

    /// A complete 2xx reached the agent: no repeat needs the payment any more, unless it has a key.
    fn delivered(&self, rid: PaymentId, target: &Target) {
        let now = self.0.clock.now();
        let mut by_target = self.lock();
        let Some(outstanding) = by_target.get_mut(target) else {
            return;
        };
        let Some(position) = outstanding.iter().position(|payment| payment.rid == rid) else {
            return;
        };
        let payment = &mut outstanding[position];
        if payment.stored.keyed && payment.can_be_presented(now) {
            payment.stored.delivered = true;
            let marking = Marking::of(&payment.place, Mark::Delivered);
            drop(by_target);
            // The ticket still exists, so that nothing else takes or clears the record meanwhile.
            return self.0.store.mark(marking, rid);
        }
        let OutstandingPayment { place, .. } = outstanding.remove(position);
        if outstanding.is_empty() {
            by_target.remove(target);
        }
        drop(by_target);
        self.0.count.fetch_sub(1, Ordering::Release);
        self.handed_over().since_sweep.push(place);
    }

    fn forgotten(&self, place: Place) {
        self.0.count.fetch_sub(1, Ordering::Release);
        self.0.store.clear(place);
    }

    fn change(&self, rid: PaymentId, target: &Target, change: impl FnOnce(&mut OutstandingPayment)) {
        let mut by_target = self.lock();
        let payment = by_target
            .get_mut(target)
            .and_then(|outstanding| outstanding.iter_mut().find(|payment| payment.rid == rid));
        if let Some(payment) = payment {
            change(payment);
        }
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.0.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handed_over(&self) -> MutexGuard<'_, Delivered> {
        self.0.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Target, Vec<OutstandingPayment>>> {
        self.0.by_target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutstandingPayment {
    /// Hands the payment to a repeat, as its next presentation. `None` if what is stored is not a credential: none of it
    /// is sent.
    fn begin(&mut self, outstanding: &Outstanding, target: Target, now: Timestamp) -> Option<(Marking, Presentable)> {
        let rail = Rail::parse(&self.stored.rail)?;
        let field = HeaderName::try_from(self.stored.field.as_str()).ok()?;
        let credential = Credential::from_stored(self.stored.credential.clone())?;
        let (ticket, over) = Ticket::new(outstanding.clone(), self.rid, target);
        self.stage = Stage::Waiting(over);
        self.stored.presented += 1;
        self.last_try = now;
        let presentable = Presentable {
            rid: self.rid,
            rail,
            field,
            credential,
            number: self.stored.presented,
            ticket,
        };
        Some((
            Marking::of(&self.place, Mark::Presented(presentable.number)),
            presentable,
        ))
    }

    /// R7: a delivered payment is kept only for as long as R6 may need it.
    fn is_needed(&self, now: Timestamp) -> bool {
        match self.stage {
            Stage::Waiting(_) | Stage::Abandoned(_) => true,
            Stage::Open if self.stored.delivered => self.can_be_presented(now),
            Stage::Open => self.is_valid(now) || now.duration_since(self.last_try) <= RETRY_WINDOW,
        }
    }

    fn can_be_presented(&self, now: Timestamp) -> bool {
        self.stored.presented < PRESENTATIONS && self.is_valid(now)
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        self.stored.valid_before.saturating_sub(now.as_second()) >= LEAST_VALIDITY_S
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    alloy_primitives::hex::encode(bytes)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    alloy_primitives::hex::decode_to_array(text).ok()
}
