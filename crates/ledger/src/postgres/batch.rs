//! Decides the asks of one transaction in order, against a book that holds just the rows that were locked for them.

use crate::reason::Reason;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::approvals::{self, ApprovalRows};
use super::asks::{Ask, Verdict};
use super::kept::Origin;
use super::log::Lines;
use super::policy::{Mine, Published};
use super::rows::{Changed, Locked, Row};
use crate::book::approvals::RowChange;
use crate::book::{Book, Effect};
use crate::counters::{Counter, CounterKey};
use crate::decisions::{self, Decisions};
use crate::disclosure::Disclosure;
use crate::entry::{Adopted, Body, Entry, Expired, Released, Unknown, WindowCharge, Yielded};
use crate::key::{KeyChange, KeyHold};
use crate::model::{
    Alarm, ApprovalError, ApprovalRow, ApprovalStep, Event, Hold, LedgerError, ReserveError, Source, State,
};
use crate::pauses::{Pause, Pauses};
use crate::payment::{NonceKey, Payment};
use crate::text::Moment;
use crate::timekeeping::Timekeeper;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;

/// What a transaction has to write.
#[derive(Default)]
pub(super) struct Changes {
    pub payments: BTreeMap<PaymentId, Changed>,
    pub counters: BTreeMap<CounterKey, Counter>,
    /// With the second from which they are free again, if the payment has ended by then.
    pub nonces_taken: BTreeMap<NonceKey, (u64, PaymentId)>,
    /// With the second from which they are free again, where that is not the one that is written already.
    pub nonces_freed: BTreeMap<NonceKey, u64>,
    pub keys_held: Vec<KeyHold>,
    pub keys_freed: Vec<KeyHold>,
    /// Payments that another node owned, and that node.
    pub handed_over: Vec<(PaymentId, u32)>,
    /// Payments that our log now records as yielded.
    pub yielded: Vec<PaymentId>,
    pub approvals: approvals::Changes,
    /// By scope. `None`: it was lifted.
    pub pauses: Vec<(PauseScope, Option<Pause>)>,
}

pub(super) struct Batch<'a> {
    pub me: u32,
    pub time: &'a Timekeeper,
    /// An error that refuses every reservation, if there is one.
    pub closed: Option<ReserveError>,
    pub mine: Mine,
    pub published: Published,
    pub lines: Lines,
    pub changes: Changes,
    pub disclosures: Vec<(u64, Disclosure)>,
    pub alarms: Mutex<Vec<Alarm>>,
    /// Approvals that were locked, with the node that asked.
    pub asked: HashMap<PaymentId, (u32, ApprovalRow)>,
    book: Book,
    rows: HashMap<PaymentId, Row>,
    silent: HashSet<u32>,
    to_yield: HashSet<PaymentId>,
    /// Like `to_yield`, but all of them, with the nodes that own them.
    to_yield_first: Vec<(PaymentId, u32)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        me: u32,
        time: &'a Timekeeper,
        lines: Lines,
        mine: Mine,
        rows: HashMap<PaymentId, Row>,
        locked: Locked,
        asked: ApprovalRows,
    ) -> Self {
        let mut book = Book::of_counters();
        for (key, counter) in locked.counters {
            book.restore_counter(key, counter);
        }
        for pause in locked.pauses {
            book.restore_pause(pause);
        }
        for hold in locked.keys {
            book.restore_key(hold);
        }
        for key in locked.nonces {
            book.restore_nonce(u64::MAX, key);
        }
        for (rid, row) in rows.iter().filter(|(_, row)| row.owner == me) {
            if row.payment.is_open() {
                book.restore_open(row.payment.clone());
            }
            if row.unconfirmed {
                book.restore_unconfirmed(*rid, None);
            }
        }
        for (_, row) in asked.rows.values() {
            book.restore_approval(row.clone());
        }
        for (replay, until) in asked.replays {
            book.restore_replay(replay, until);
        }
        for (subject, until) in asked.denials {
            book.restore_denial(subject, until);
        }
        Self {
            me,
            time,
            closed: None,
            mine,
            published: locked.published,
            lines,
            changes: Changes::default(),
            disclosures: Vec::new(),
            alarms: Mutex::default(),
            asked: asked.rows,
            book,
            rows,
            silent: locked.silent,
            to_yield: locked.to_yield,
            to_yield_first: asked.yields,
        }
    }

    pub(super) fn answer(&mut self, ask: &Ask, now: Moment) -> Verdict {
        match ask {
            Ask::Reserve(reserve) => {
                let mut reserve = reserve.clone();
                let planned = self.plan(&mut reserve.hold);
                Verdict::Reserved(planned.and_then(|()| self.reserve(*reserve, now)))
            }
            Ask::Hold(hold) => {
                let mut hold = hold.clone();
                let planned = self.plan(&mut hold);
                Verdict::Held(planned.and_then(|()| self.hold(*hold, now)))
            }
            Ask::Arm(rid, arming) => {
                let planned = self.published.admits(&self.mine, None);
                Verdict::Reserved(planned.and_then(|_| self.arm(*rid, (**arming).clone(), now)))
            }
            Ask::Resume { scope, who, why } => {
                Verdict::Resumed(self.resume(scope.clone(), who.clone(), why.clone(), now))
            }
            ask => Verdict::Done(self.act(ask, now)),
        }
    }

    /// The pauses in force now, and the scopes whose pause is on record now, or is lifted.
    pub(super) fn pauses_after<'t>(&self, asks: impl Iterator<Item = &'t Ask>) -> (Pauses, Vec<PauseScope>) {
        let scope = |ask: &Ask| match ask {
            Ask::Pause(pause) => Some(pause.scope.clone()),
            _ => None,
        };
        let changed = self.changes.pauses.iter().map(|(scope, _)| scope.clone());
        (
            self.book.pauses().clone(),
            asks.filter_map(scope).chain(changed).collect(),
        )
    }

    fn act(&mut self, ask: &Ask, now: Moment) -> Result<(), LedgerError> {
        match ask {
            Ask::Approval(step) => self.step(step, now),
            // If another node has taken the payment over, its outcome is unknown there, and nothing of it is sent from
            // here.
            Ask::Issued(rid, issued) => self.issued(*rid, issued, now),
            Ask::Finish(rid, outcome) => {
                // If another node has adopted it and put it into this very state, nothing is left to do.
                if self
                    .foreign(*rid)
                    .is_some_and(|payment| payment.state == outcome.state())
                {
                    return Ok(());
                }
                self.make_ours(*rid, now)?;
                self.finish(*rid, outcome.clone(), now)
            }
            Ask::Resolve {
                rid,
                resolution,
                who,
                why,
            } => {
                if self
                    .foreign(*rid)
                    .is_some_and(|payment| payment.state != State::Unknown)
                {
                    return Err(LedgerError::UnderWay(*rid));
                }
                self.make_ours(*rid, now)?;
                self.resolve(*rid, resolution.clone(), who.clone(), why.clone(), now)
            }
            Ask::Finding(rid, finding) => {
                self.make_ours(*rid, now)?;
                self.record_finding(*rid, finding.clone(), now)
            }
            Ask::Append(Event::PolicyLoaded {
                generation,
                sha256,
                who,
            }) => {
                let generation = self.published.load(&mut self.mine, *generation, *sha256);
                if let Err(ReserveError::StalePolicy { have, need }) = self.published.admits(&self.mine, None) {
                    tracing::warn!(
                        have,
                        need,
                        "limits.toml on this machine is older than the limits that another proxy has published; \
                         nothing is paid under it"
                    );
                }
                let (sha256, who) = (*sha256, who.clone());
                let event = Event::PolicyLoaded {
                    generation,
                    sha256,
                    who,
                };
                self.append(event, now)
            }
            Ask::Append(event) => self.append(event.clone(), now),
            // Another node may have paused it meanwhile: the first pause stands.
            Ask::Pause(pause) if self.book.pauses().of(&pause.scope).is_some() => Ok(()),
            Ask::Pause(pause) => self.note(decisions::pause_set(pause.clone()), now),
            Ask::Refused(denial, count) => self.note(decisions::refused(denial.clone(), *count), now),
            Ask::Note(body) => self.note(body.clone(), now),
            Ask::GiveUp(rid) => self.give_up(*rid, now),
            // A person was asked about it, and their answer is waited for (R44).
            Ask::Restart(rid) if self.book.approvals().of_payment(*rid).is_some() => Ok(()),
            Ask::Restart(rid) => self.leave_open(*rid, Reason::Restart, now),
            Ask::Adopt(rid) => {
                let is_silent = self.rows.get(rid).is_some_and(|row| self.silent.contains(&row.owner));
                if self.foreign(*rid).is_none() || !is_silent {
                    return Ok(());
                }
                self.make_ours(*rid, now)?;
                self.leave_open(*rid, Reason::OwnerGone, now)
            }
            Ask::Yield { rid, to } => {
                if self.to_yield.remove(rid) {
                    self.yielded(*rid, *to, now)?;
                }
                Ok(())
            }
            Ask::Reserve(_) | Ask::Hold(_) | Ask::Arm(..) | Ask::Resume { .. } => Ok(()),
        }
    }

    /// A step of an approval. Only the node that asked may record it, because no other node's log contains the
    /// approval.
    fn step(&mut self, step: &ApprovalStep, now: Moment) -> Result<(), LedgerError> {
        let is_foreign = |(node, _): &(u32, ApprovalRow)| *node != self.me;
        match step {
            // Our log may still contain a question about a payment that another node has taken over.
            ApprovalStep::Requested(_) => {
                for (rid, to) in std::mem::take(&mut self.to_yield_first) {
                    self.to_yield.remove(&rid);
                    if !self.changes.yielded.contains(&rid) {
                        self.yielded(rid, to, now)?;
                    }
                }
            }
            step if self.asked.get(&step.id()).is_some_and(is_foreign) => {
                return Err(ApprovalError::NotLive(step.id()).into());
            }
            ApprovalStep::Granted { .. } | ApprovalStep::Refused { .. } | ApprovalStep::Expired { .. } => {}
        }
        self.approval(step.clone(), now)?;
        if let ApprovalStep::Requested(requested) = step {
            let codes =
                serde_json::to_string(&requested.codes).map_err(|error| LedgerError::Failed(error.to_string()))?;
            self.changes.approvals.codes.insert(requested.id, codes);
        }
        Ok(())
    }

    /// What must hold before the limits are checked; sets the generation that the limits have in the database.
    fn plan(&mut self, hold: &mut Hold) -> Result<(), ReserveError> {
        if self.rows.contains_key(&hold.rid) {
            return Err(ReserveError::RidTaken);
        }
        if let Some(generation) = self.published.admits(&self.mine, Some(hold.policy_gen))? {
            hold.policy_gen = generation;
        }
        Ok(())
    }

    /// An open payment that another node owns.
    fn foreign(&self, rid: PaymentId) -> Option<&Payment> {
        let row = self.rows.get(&rid).filter(|row| row.owner != self.me)?;
        row.payment.is_open().then_some(&row.payment)
    }

    /// Takes over another node's open payment, as a whole, into our log.
    fn make_ours(&mut self, rid: PaymentId, now: Moment) -> Result<(), LedgerError> {
        let Some(payment) = self.foreign(rid).cloned() else {
            return Ok(());
        };
        let Some(from) = self
            .rows
            .get_mut(&rid)
            .map(|row| std::mem::replace(&mut row.owner, self.me))
        else {
            return Ok(());
        };
        if self.to_yield.remove(&rid) {
            self.yielded(rid, from, now)?;
        }
        let adopted = Body::Adopted(Adopted {
            node: from,
            payment: payment.clone(),
        });
        self.write(now, adopted).map_err(LedgerError::Failed)?;
        self.book.restore_open(payment.clone());
        self.changes.handed_over.push((rid, from));
        // The node that asked is gone, and our log has never contained the question.
        let asked = self.asked.iter().find(|(_, (_, row))| row.rid == rid);
        let over = asked.map(|(id, _)| (*id, None));
        self.changes.approvals.rows.extend(over);
        let changed = Changed {
            payment,
            is_new: false,
            unconfirmed: false,
            origin: self.origin(rid),
        };
        self.changes.payments.insert(rid, changed);
        Ok(())
    }

    fn yielded(&mut self, rid: PaymentId, node: u32, now: Moment) -> Result<(), LedgerError> {
        let body = Body::Yielded(Yielded { node, rid });
        self.write(now, body).map_err(LedgerError::Failed)?;
        self.changes.yielded.push(rid);
        Ok(())
    }

    /// No caller waits for it any more. Held money was never signed for and is released; armed money may be with a
    /// seller.
    fn leave_open(&mut self, rid: PaymentId, why: Reason, now: Moment) -> Result<(), LedgerError> {
        let why = why.into();
        match self.book.open_payment(&rid).map(|payment| payment.state) {
            Some(State::Held) => self.note(Body::Released(Released { rid, why }), now),
            Some(State::Armed) => self.note(Body::Unknown(Unknown { rid, tx: None, why }), now),
            _ => Ok(()),
        }
    }

    /// Signing needs the reservation; there was only one, and it never left this process (R11).
    fn give_up(&mut self, rid: PaymentId, now: Moment) -> Result<(), LedgerError> {
        let was_taken_over = self.foreign(rid).is_some();
        self.make_ours(rid, now)?;
        match self.book.open_payment(&rid).map(|payment| payment.state) {
            Some(State::Held) => {
                let why = Reason::Abandoned.into();
                self.note(Body::Released(Released { rid, why }), now)
            }
            Some(State::Armed) => self.never_signed(rid, now),
            Some(State::Unknown) if was_taken_over => self.never_signed(rid, now),
            // The caller that gave up waiting knows the id and may have finished the payment itself.
            _ => Ok(()),
        }
    }

    fn never_signed(&mut self, rid: PaymentId, now: Moment) -> Result<(), LedgerError> {
        let (by, why) = (Source::Us, Reason::NeverSigned.into());
        self.note(Body::Expired(Expired { by, rid, why }), now)
    }

    fn note(&mut self, body: Body, now: Moment) -> Result<(), LedgerError> {
        self.record(now, body).map(|_| ()).map_err(LedgerError::Failed)
    }

    /// Writes an entry that the book need not see, because its counters cover the logs of all nodes.
    fn write(&mut self, now: Moment, body: Body) -> Result<(), String> {
        let (entry, bytes) = self.lines.encode(now, body).map_err(unwritable)?;
        self.lines.push(entry.seq, bytes);
        Ok(())
    }

    fn took_effect(&mut self, entry: &Entry, effect: Effect) {
        self.changes.pauses.extend(effect.pause);
        for (hold, change) in effect.keys {
            match change {
                KeyChange::Held => self.changes.keys_held.push(hold),
                KeyChange::Free => self.changes.keys_freed.push(hold),
            }
        }
        if let Some((row, change)) = effect.approvals.row {
            let (id, live) = (row.id, (change == RowChange::Live).then_some(row));
            self.changes.approvals.rows.insert(id, live);
        }
        // Expired ones are deleted from the tables by the heartbeat, long afterwards.
        for (replay, until) in effect.approvals.replays {
            self.changes
                .approvals
                .replays
                .extend(until.map(|until| (replay, until)));
        }
        for (subject, until) in effect.approvals.denials {
            self.changes
                .approvals
                .denials
                .extend(until.map(|until| (subject, until)));
        }
        for (charge, counter) in effect.left {
            self.changes.counters.insert(key(&charge), counter);
        }
        if let Some(payment) = effect.payment {
            let rid = payment.rid();
            let is_new = matches!(entry.body, Body::Reserved(_));
            let origin = match is_new {
                true => Some(Origin {
                    node: self.me,
                    seq: entry.seq,
                }),
                false => self.origin(rid),
            };
            for (charge, counter) in payment.windows().iter().zip(effect.counters) {
                self.changes.counters.insert(key(charge), counter);
            }
            if let Some(nonce) = payment.nonce_key() {
                match &entry.body {
                    Body::Reserved(_) | Body::Armed(_) | Body::Issued(_) => {
                        let taken = (payment.nonce_free_at(), payment.rid());
                        self.changes.nonces_taken.insert(nonce, taken);
                    }
                    // Another moment than the one that was written when it was taken.
                    _ if payment.state.is_final() && (origin.is_none() || payment.ended_late()) => {
                        self.changes.nonces_freed.insert(nonce, payment.nonce_free_at());
                    }
                    _ => {}
                }
            }
            let changed = Changed {
                unconfirmed: effect.unconfirmed.contains(&(rid, true)),
                is_new: is_new || self.changes.payments.get(&rid).is_some_and(|changed| changed.is_new),
                origin,
                payment,
            };
            self.changes.payments.insert(rid, changed);
        }
        if let Some((rid, amendment)) = effect.amended
            && let Some(row) = self.rows.get(&rid)
        {
            let mut payment = row.payment.clone();
            amendment.apply(&mut payment);
            let changed = Changed {
                payment,
                is_new: false,
                unconfirmed: false,
                origin: row.origin,
            };
            self.changes.payments.insert(rid, changed);
        }
    }

    /// The entry that reserved a payment, in this batch or before it.
    fn origin(&self, rid: PaymentId) -> Option<Origin> {
        let changed = self.changes.payments.get(&rid);
        match (changed, self.rows.get(&rid)) {
            (Some(changed), _) => changed.origin,
            (None, row) => row.and_then(|row| row.origin),
        }
    }
}

impl Decisions for Batch<'_> {
    fn book(&self) -> &Book {
        &self.book
    }

    fn time(&self) -> &Timekeeper {
        self.time
    }

    fn record(&mut self, now: Moment, body: Body) -> Result<u64, String> {
        let (entry, bytes) = self.lines.encode(now, body).map_err(unwritable)?;
        let effect = self.book.apply(&entry).map_err(|illegal| illegal.to_string())?;
        let seq = entry.seq;
        self.lines.push(seq, bytes);
        self.took_effect(&entry, effect);
        Ok(seq)
    }

    fn may_reserve(&mut self) -> Result<(), ReserveError> {
        match &self.closed {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }

    fn disclose(&mut self, seq: u64, disclosures: Vec<Disclosure>) {
        let numbered = disclosures.into_iter().map(|disclosure| (seq, disclosure));
        self.disclosures.extend(numbered);
    }

    fn raise(&self, alarm: Alarm) {
        // Raised after the commit, because the transaction may have to be decided again.
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner).push(alarm);
    }
}

fn key(charge: &WindowCharge) -> CounterKey {
    (charge.0.clone(), charge.1.clone(), charge.2.clone())
}

fn unwritable(error: crate::entry::EntryError) -> String {
    format!("the entry cannot be written: {error}")
}
