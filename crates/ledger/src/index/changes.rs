//! The newest value of every row of the index. What a later entry replaces is neither encoded nor written: most
//! payments are reserved and settled between two batches, and all of them change the same few counters.

use std::collections::HashMap;

use super::{
    APPROVAL, KEY, OPEN, PAUSE, PAYMENT, SINCE, Touched, UNCONFIRMED, bucket_key, bucket_value, counter_key,
    denial_key, key, moment_value, nonce_key, places_value, replay_key,
};
use crate::book::approvals::{ReplayKey, RowChange, Subject};
use crate::book::{Book, Effect};
use crate::buckets::{Booking, Bucket, BucketRow, Buckets, Quarter, Span};
use crate::counters::Counter;
use crate::key::{KeyChange, KeyHold};
use crate::model::ApprovalRow;
use crate::pauses::Pause;
use crate::payment::{NonceKey, Payment};
use crate::scan::Place;
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;

/// Longer than nearly every encoded payment, so that its buffer need not grow.
const PAYMENT_BYTES: usize = 2048;

#[derive(Default)]
pub(super) struct Changes<'a> {
    payments: HashMap<PaymentId, &'a Payment>,
    /// Where the entries of each payment are, in order.
    entries: Places,
    counters: HashMap<(&'a str, &'a str, &'a str), Option<Counter>>,
    buckets: HashMap<(&'a str, Span), Option<Bucket>>,
    nonces: HashMap<(u64, NonceKey), Presence>,
    /// `None`: it does not wait any more.
    unconfirmed: HashMap<PaymentId, Option<Option<&'a Booking>>>,
    keys: HashMap<KeyHold, KeyChange>,
    /// `None`: it has ended.
    approvals: HashMap<PaymentId, Option<&'a ApprovalRow>>,
    replays: HashMap<ReplayKey, Option<Moment>>,
    denials: HashMap<&'a Subject, Option<Moment>>,
    /// By the text of their scope. `None`: it was lifted.
    pauses: HashMap<String, Option<&'a Pause>>,
}

#[derive(Default)]
struct Entries {
    /// Whether the first of them is the payment's first.
    begun: bool,
    places: Vec<Place>,
}

/// Where the entries of payments are, and nothing else about them.
#[derive(Default)]
pub(super) struct Places(HashMap<PaymentId, Entries>);

impl Places {
    pub(super) fn add(&mut self, Touched { rid, begun, place }: Touched) {
        let entries = self.0.entry(rid).or_default();
        entries.begun |= begun;
        entries.places.push(place);
    }

    /// `stored` returns where the earlier entries of a payment are.
    pub(super) fn write(
        &self,
        batch: &mut sled::Batch,
        stored: impl Fn(&PaymentId) -> Result<Vec<Place>, String>,
    ) -> Result<(), String> {
        for (rid, Entries { begun, places }) in &self.0 {
            let mut all = if *begun { Vec::new() } else { stored(rid)? };
            for place in places {
                if !all.contains(place) {
                    all.push(*place);
                }
            }
            batch.insert(key(PAYMENT, rid.bytes()), places_value(&all));
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Presence {
    There,
    Gone,
}

impl<'a> Changes<'a> {
    /// Gathers the effects of entries, which must be in order.
    pub(super) fn of(effects: impl Iterator<Item = &'a Effect>) -> Self {
        let mut changes = Self::default();
        for effect in effects {
            changes.add(effect);
        }
        changes
    }

    fn add(&mut self, effect: &'a Effect) {
        if let Some(touched) = Touched::by(effect) {
            self.entries.add(touched);
        }
        if let Some(payment) = &effect.payment {
            self.payments.insert(payment.rid(), payment);
            if !payment.is_open()
                && let Some(nonce) = payment.nonce_key()
            {
                self.nonces.insert((payment.nonce_free_at(), nonce), Presence::There);
            }
            for (charge, counter) in payment.windows().iter().zip(&effect.counters) {
                let window = (charge.scope(), charge.window(), charge.start());
                self.counters.insert(window, Some(*counter));
            }
        }
        for (charge, counter) in &effect.left {
            let window = (charge.scope(), charge.window(), charge.start());
            self.counters.insert(window, Some(*counter));
        }
        for (scope, window, start) in &effect.dropped {
            self.counters.insert((scope, window, start), None);
        }
        for BucketRow { scope, span, now } in &effect.buckets {
            self.buckets.insert((scope, *span), *now);
        }
        for faded in &effect.faded {
            self.nonces.insert(*faded, Presence::Gone);
        }
        for (rid, waits) in &effect.unconfirmed {
            self.unconfirmed.insert(*rid, waits.then_some(effect.waits.as_ref()));
        }
        self.keys.extend(effect.keys.iter().copied());
        if let Some((row, change)) = &effect.approvals.row {
            self.approvals
                .insert(row.id, (*change == RowChange::Live).then_some(row));
        }
        self.replays.extend(effect.approvals.replays.iter().copied());
        let denials = effect.approvals.denials.iter();
        self.denials.extend(denials.map(|(subject, until)| (subject, *until)));
        if let Some((scope, pause)) = &effect.pause {
            self.pauses.insert(scope.to_string(), pause.as_ref());
        }
    }

    /// `stored` returns where the earlier entries of a payment are.
    pub(super) fn write(
        self,
        batch: &mut sled::Batch,
        stored: impl Fn(&PaymentId) -> Result<Vec<Place>, String>,
    ) -> Result<(), String> {
        self.entries.write(batch, stored)?;
        for (rid, payment) in self.payments {
            if payment.is_open() {
                let mut value = Vec::with_capacity(PAYMENT_BYTES);
                serde_json::to_writer(&mut value, payment).map_err(|error| error.to_string())?;
                batch.insert(key(OPEN, rid.bytes()), value);
            } else {
                batch.remove(key(OPEN, rid.bytes()));
            }
        }
        for ((scope, window, start), counter) in self.counters {
            let key = counter_key(scope, window, start);
            match counter {
                Some(counter) => batch.insert(key, counter_value(counter)),
                None => batch.remove(key),
            }
        }
        for ((scope, span), bucket) in self.buckets {
            let key = bucket_key(scope, span);
            match bucket {
                Some(bucket) => batch.insert(key, bucket_value(bucket).as_slice()),
                None => batch.remove(key),
            }
        }
        for ((free_at, nonce), presence) in self.nonces {
            let key = nonce_key(free_at, &nonce);
            match presence {
                Presence::There => batch.insert(key, &[]),
                Presence::Gone => batch.remove(key),
            }
        }
        for (rid, waits) in self.unconfirmed {
            let key = key(UNCONFIRMED, rid.bytes());
            match waits {
                Some(booking) => batch.insert(key, waiting_value(booking)?),
                None => batch.remove(key),
            }
        }
        for (hold, change) in self.keys {
            let (row, fingerprint) = hold.row();
            match change {
                KeyChange::Held => batch.insert(key(KEY, &row), &fingerprint),
                KeyChange::Free => batch.remove(key(KEY, &row)),
            }
        }
        for (id, row) in self.approvals {
            match row {
                Some(row) => batch.insert(key(APPROVAL, id.bytes()), approval_value(row)?),
                None => batch.remove(key(APPROVAL, id.bytes())),
            }
        }
        for (scope, pause) in &self.pauses {
            match pause {
                Some(pause) => batch.insert(key(PAUSE, scope.as_bytes()), pause_value(pause)?),
                None => batch.remove(key(PAUSE, scope.as_bytes())),
            }
        }
        let replays = self.replays.iter().map(|(replay, until)| (replay_key(replay), *until));
        let denials = self
            .denials
            .iter()
            .map(|(subject, until)| (denial_key(subject), *until));
        for (key, until) in replays.chain(denials) {
            match until {
                Some(until) => batch.insert(key, &moment_value(until)),
                None => batch.remove(key),
            }
        }
        Ok(())
    }
}

/// Every row of a whole book.
pub(super) fn rows(book: &Book) -> impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), String>> {
    let counters = book.counters().all();
    let counters = counters.map(|(scope, window, start, counter)| {
        let key = counter_key(scope, window, start);
        Ok((key, counter_value(counter)))
    });
    let open = book.open_payments().map(|payment| {
        let value = serde_json::to_vec(payment).map_err(|error| error.to_string())?;
        Ok((key(OPEN, payment.rid().bytes()), value))
    });
    let nonces = book.fading().map(|(free_at, nonce)| nonce_key(free_at, &nonce));
    let bare = nonces.map(|key| Ok((key, Vec::new())));
    let waiting = book.waiting();
    let waiting = waiting.map(|(rid, booking)| Ok((key(UNCONFIRMED, rid.bytes()), waiting_value(booking)?)));
    let buckets = book.buckets().into_iter().flat_map(Buckets::all);
    let buckets = buckets.map(|(scope, span, bucket)| Ok((bucket_key(scope, span), bucket_value(bucket).to_vec())));
    let since = book.buckets().and_then(Buckets::since);
    let since = since.map(|Quarter(since)| Ok((key(SINCE, &[]), since.to_be_bytes().to_vec())));
    let keys = book.every_key().map(|hold| {
        let (row, fingerprint) = hold.row();
        Ok((key(KEY, &row), fingerprint.to_vec()))
    });
    let approvals = book.approvals();
    let rows = approvals.rows();
    let rows = rows.map(|row| Ok((key(APPROVAL, row.id.bytes()), approval_value(row)?)));
    let replays = approvals.replays().map(|(replay, until)| (replay_key(replay), until));
    let denials = approvals.denials().map(|(subject, until)| (denial_key(subject), until));
    let remembered = replays.chain(denials);
    let remembered = remembered.map(|(key, until)| Ok((key, moment_value(until).to_vec())));
    let pauses = book.pauses().all();
    let pauses = pauses.map(|pause| Ok((key(PAUSE, pause.scope.to_string().as_bytes()), pause_value(pause)?)));
    counters
        .chain(open)
        .chain(bare)
        .chain(waiting)
        .chain(buckets)
        .chain(since)
        .chain(keys)
        .chain(rows)
        .chain(remembered)
        .chain(pauses)
}

/// Empty, or where the payment counts.
fn waiting_value(booking: Option<&Booking>) -> Result<Vec<u8>, String> {
    booking.map_or(Ok(Vec::new()), |booking| {
        serde_json::to_vec(booking).map_err(|error| error.to_string())
    })
}

fn approval_value(row: &ApprovalRow) -> Result<Vec<u8>, String> {
    serde_json::to_vec(row).map_err(|error| error.to_string())
}

fn pause_value(pause: &Pause) -> Result<Vec<u8>, String> {
    serde_json::to_vec(pause).map_err(|error| error.to_string())
}

fn counter_value(Counter { settled, open }: Counter) -> Vec<u8> {
    [settled.to_be_bytes(), open.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::iter::once;
    use std::sync::Arc;

    use alloy_primitives::{Address, B256};

    use super::*;
    use crate::entry::{Arm, Body, Entry, Reserved, Settled, Unknown, WindowCharge};
    use crate::model::Source;
    use crate::text::{Decimal, Digest, Moment};

    fn ts(second: i64) -> Moment {
        Moment::of(jiff::Timestamp::from_second(1_795_161_600 + second).unwrap())
    }

    fn rid(n: u8) -> PaymentId {
        PaymentId::new(ts(0).timestamp(), [n; 10])
    }

    fn reserved(n: u8) -> Body {
        let charge = |start: u32, amount| {
            let start = format!("2026-11-{start:02}");
            WindowCharge(
                "agent:a".into(),
                "day".into(),
                start,
                Decimal(amount),
                Decimal(u128::MAX),
            )
        };
        Body::Reserved(Arc::new(Reserved {
            agent: "a".into(),
            amount: Decimal(1),
            arm: Some(Arm {
                from: Address::ZERO.into(),
                issuer: None,
                nonce: Some(B256::repeat_byte(n)),
                signer: None,
                valid_after: Decimal(0),
                valid_before: Decimal(1_795_161_900),
            }),
            asset: "eip155:1/erc20:0x".into(),
            decimals: 6,
            facilitator: None,
            fee: None,
            fp: Digest::ZERO,
            group: None,
            host: "h".into(),
            idem: None,
            network: "eip155:1".into(),
            offer_sha256: Digest::ZERO,
            others: Vec::new(),
            payee: Address::ZERO.into(),
            policy_gen: 1,
            rail: "mpp.evm".into(),
            rid: rid(n),
            scheme: "exact".into(),
            sd: vec![],
            symbol: "USDC".into(),
            usd_micros: Decimal(1),
            windows: vec![charge(u32::from(n), 3), charge(20, 5)],
        }))
    }

    fn settled(n: u8) -> Body {
        Body::Settled(Settled {
            back: Vec::new(),
            by: Source::Merchant,
            rid: rid(n),
            taken: None,
            tx: None,
            why: None,
        })
    }

    fn unknown(n: u8) -> Body {
        Body::Unknown(Unknown {
            rid: rid(n),
            tx: None,
            why: "no-receipt".into(),
        })
    }

    fn rows(changes: Vec<Changes<'_>>) -> Vec<(sled::IVec, sled::IVec)> {
        let db = sled::Config::new().temporary(true).open().unwrap();
        for change in changes {
            let mut batch = sled::Batch::default();
            let stored = |rid: &PaymentId| {
                let row = db.get(key(PAYMENT, rid.bytes())).unwrap();
                Ok(row.map_or(Vec::new(), |row| super::super::places_row(&row).unwrap()))
            };
            change.write(&mut batch, stored).unwrap();
            db.apply_batch(batch).unwrap();
        }
        db.iter().map(Result::unwrap).collect()
    }

    #[test]
    fn gathered_changes_leave_the_rows_that_single_ones_leave() {
        const TWO_DAYS: i64 = 172_800;
        let steps = [
            (0, reserved(1)),
            (1, reserved(2)),
            (1, settled(1)),
            (2, unknown(2)),
            (3, reserved(3)),
            // By now the first nonce is free again.
            (TWO_DAYS, settled(2)),
        ];
        let mut book = Book::default();
        let effects: Vec<Effect> = steps
            .into_iter()
            .enumerate()
            .map(|(at, (second, body))| {
                let effect = book.apply(&Entry {
                    seq: 0,
                    ts: ts(second),
                    body,
                });
                let place = Place {
                    segment: 0,
                    offset: at as u64,
                };
                Effect {
                    place,
                    ..effect.unwrap()
                }
            })
            .collect();
        assert!(effects.iter().any(|effect| !effect.faded.is_empty()));

        let singly = rows(effects.iter().map(|effect| Changes::of(once(effect))).collect());
        let together = rows(vec![Changes::of(effects.iter())]);
        assert_eq!(together, singly);
        // Three payments, one of which is also open; four counters; the nonce of the payment that settled last; two
        // payments that the chain may still confirm; for the account and the agent a bucket and all time.
        assert_eq!(together.len(), 3 + 1 + 4 + 1 + 2 + 4);
    }
}
