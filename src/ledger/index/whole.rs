//! A whole book into a new index: for a journal that does not begin at its first entry.

use super::{FORMAT, Index, KEY, MARK, Mark, OPEN, PAYMENT, UNCONFIRMED, caught, counter_key, key, nonce_key};
use crate::ledger::book::Book;
use crate::ledger::counters::Counter;
use crate::ledger::scan::Chain;

impl Index {
    /// Takes in what `book` holds at `chain`. The index must hold nothing yet.
    pub fn fill(&mut self, book: &Book, chain: Chain) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (scope, window, start, Counter { settled, open }) in book.counters().all() {
            let value = [settled.to_be_bytes(), open.to_be_bytes()].concat();
            batch.insert(counter_key(scope, window, start), value);
        }
        for (free_at, nonce) in book.fading() {
            batch.insert(nonce_key(free_at, &nonce), &[]);
        }
        for rid in book.unconfirmed() {
            batch.insert(key(UNCONFIRMED, rid.bytes()), &[]);
        }
        for hold in book.every_key() {
            let (row, fingerprint) = hold.row();
            batch.insert(key(KEY, &row), &fingerprint);
        }
        for payment in book.open_payments() {
            let rid = payment.rid();
            let value = serde_json::to_vec(payment).map_err(|error| error.to_string())?;
            batch.insert(key(PAYMENT, rid.bytes()), value);
            batch.insert(key(OPEN, rid.bytes()), &[]);
        }
        let mark = Mark {
            format: FORMAT,
            applied: chain.next_seq,
            tip: chain.tip,
            latest: book.latest(),
        };
        batch.insert(MARK, serde_json::to_vec(&mark).map_err(|error| error.to_string())?);
        caught(|| self.db.apply_batch(batch).map_err(|error| error.to_string()))?;
        self.applied = chain.next_seq;
        Ok(())
    }
}
