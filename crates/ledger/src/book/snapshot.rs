//! The content of a book as text, which stands in for entries that were moved away.

use serde::{Deserialize, Serialize};

use super::Book;
use super::approvals::Subject;
use crate::buckets::{Booking, Bucket, Buckets, Quarter, Span};
use crate::counters::Counter;
use crate::key::KeyHold;
use crate::model::{ApprovalRow, Denied};
use crate::pauses::Pause;
use crate::payment::{NonceKey, Payment};
use crate::spending::{Past, Spending};
use crate::text::{Decimal, Digest, Moment};
use bursar_core::payment_id::PaymentId;

/// A book between two entries. Restoring it and applying the later entries gives the same book as applying all entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BookSnapshot {
    /// Sorted.
    counters: Vec<Row>,
    /// Nonces that must not be used again yet, and the second from which they may.
    nonces: Vec<(u64, [u8; 16])>,
    /// Oldest first.
    open: Vec<Payment>,
    unconfirmed: Vec<PaymentId>,
    latest: Option<Moment>,
    /// Until when it holds, hash of agent and key, payment, fingerprint.
    keys: Vec<(u64, Digest, PaymentId, Digest)>,
    /// Live ones, oldest first. This and the following members are left out when empty, as in snapshots from before
    /// approvals existed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    approvals: Vec<ApprovalRow>,
    /// What makes evidence single use, and until when it is remembered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    replays: Vec<(Digest, Moment)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    denials: Vec<Denied>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pauses: Vec<Pause>,
    /// Absent in snapshots from before buckets existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buckets: Option<BucketsSnapshot>,
    /// Those of the unconfirmed payments of which the chain may report a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<(PaymentId, Booking)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BucketsSnapshot {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Quarter>,
    /// Sorted.
    rows: Vec<BucketRow>,
}

/// Scope, quarter-hour (`None`: all time), micro-USD settled and open, payments settled and open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct BucketRow(String, Option<Quarter>, [Decimal<u128>; 4]);

impl BucketsSnapshot {
    fn of(buckets: &Buckets) -> Self {
        let row = |(scope, span, Bucket { usd, payments }): (&str, Span, Bucket)| {
            let quarter = match span {
                Span::Ever => None,
                Span::Quarter(quarter) => Some(quarter),
            };
            let amounts = [usd.settled, usd.open, payments.settled, payments.open];
            BucketRow(scope.to_owned(), quarter, amounts.map(Decimal))
        };
        let mut rows: Vec<_> = buckets.all().map(row).collect();
        rows.sort();
        Self {
            since: buckets.since(),
            rows,
        }
    }

    fn restore(self, book: &mut Book) {
        for BucketRow(scope, quarter, [usd, usd_open, payments, payments_open]) in self.rows {
            let counter = |settled: Decimal<u128>, open: Decimal<u128>| Counter {
                settled: settled.0,
                open: open.0,
            };
            let bucket = Bucket {
                usd: counter(usd, usd_open),
                payments: counter(payments, payments_open),
            };
            book.restore_bucket(scope, quarter.map_or(Span::Ever, Span::Quarter), bucket);
        }
        if let Some(since) = self.since {
            book.restore_since(since);
        }
    }
}

/// Scope, window, start, settled, open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row(String, String, String, Decimal<u128>, Decimal<u128>);

impl BookSnapshot {
    pub fn of(book: &Book) -> Self {
        // All fields by name, so that a new field cannot be forgotten here.
        let Book {
            spending,
            open,
            taken: _,
            fading,
            unconfirmed,
            latest,
            keys,
            approvals,
            pauses,
        } = book;
        let key = |hold: &KeyHold| (hold.until, Digest(hold.idem), hold.rid, Digest(hold.fingerprint));
        let mut keys: Vec<_> = keys.every().map(key).collect();
        keys.sort();
        // What is held follows from the open payments.
        let Spending {
            counters,
            held: _,
            past,
        } = spending;
        let mut counters: Vec<_> = counters
            .all()
            .map(|(scope, window, start, Counter { settled, open })| {
                let [scope, window, start] = [scope, window, start].map(str::to_owned);
                Row(scope, window, start, Decimal(settled), Decimal(open))
            })
            .collect();
        counters.sort_by(|a, b| (&a.0, &a.1, &a.2).cmp(&(&b.0, &b.1, &b.2)));
        Self {
            counters,
            nonces: fading.iter().map(|(free_at, key)| (*free_at, key.0)).collect(),
            open: open.values().cloned().collect(),
            unconfirmed: unconfirmed.keys().copied().collect(),
            latest: *latest,
            keys,
            approvals: approvals.rows().cloned().collect(),
            replays: approvals
                .replays()
                .map(|(replay, until)| (Digest(*replay), until))
                .collect(),
            denials: approvals.denied().collect(),
            pauses: pauses.all().cloned().collect(),
            buckets: match past {
                Past::Buckets(buckets) => Some(BucketsSnapshot::of(buckets)),
                Past::Counters => None,
            },
            waiting: unconfirmed
                .iter()
                .filter_map(|(rid, booking)| Some((*rid, booking.clone()?)))
                .collect(),
        }
    }

    pub(crate) fn into_book(self) -> Book {
        let mut book = Book::default();
        for Row(scope, window, start, Decimal(settled), Decimal(open)) in self.counters {
            book.restore_counter((scope, window, start), Counter { settled, open });
        }
        for (free_at, key) in self.nonces {
            book.restore_nonce(free_at, NonceKey(key));
        }
        for payment in self.open {
            book.restore_open(payment);
        }
        for rid in self.unconfirmed {
            book.restore_unconfirmed(rid, None);
        }
        for (rid, booking) in self.waiting {
            book.restore_unconfirmed(rid, Some(booking));
        }
        book.restore_latest(self.latest);
        match self.buckets {
            Some(buckets) => buckets.restore(&mut book),
            None => book.begin_buckets(),
        }
        for (until, Digest(idem), rid, Digest(fingerprint)) in self.keys {
            book.restore_key(KeyHold {
                until,
                idem,
                rid,
                fingerprint,
            });
        }
        for row in self.approvals {
            book.restore_approval(row);
        }
        for (Digest(replay), until) in self.replays {
            book.restore_replay(replay, until);
        }
        for Denied { agent, intent, until } in self.denials {
            book.restore_denial(Subject { agent, intent }, Moment::of(until));
        }
        for pause in self.pauses {
            book.restore_pause(pause);
        }
        book
    }
}
