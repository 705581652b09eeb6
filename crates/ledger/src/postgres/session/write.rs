//! Writes what a batch has changed.

use tokio::try_join;
use uuid::Uuid;

use super::{Parameters, Session};
use crate::postgres::batch::Batch;
use crate::postgres::rows::{CounterRows, PaymentRows, TransactionError, has_buckets, id, seconds};
use crate::text::Moment;

impl Session {
    /// Writes what the batch has changed. The rows are locked, so every row count must match; if one does not, another
    /// transaction inserted a row that did not exist before.
    pub(in crate::postgres) async fn write(
        &self,
        batch: &Batch<'_>,
        epoch: i64,
        now: Moment,
    ) -> Result<(), TransactionError> {
        let (changes, node) = (&batch.changes, id(batch.me));
        let now_s = now.timestamp().as_second();
        let (fixed, rolling): (Vec<_>, Vec<_>) = changes
            .counters
            .iter()
            .partition(|((_, window, _), _)| !has_buckets(window));
        let (fixed, rolling) = (CounterRows::of(&fixed), CounterRows::of(&rolling));
        let (fresh, known): (Vec<_>, Vec<_>) = changes.payments.iter().partition(|(_, changed)| changed.is_new);
        let (fresh, known) = (PaymentRows::of(&fresh)?, PaymentRows::of(&known)?);
        let taken: Vec<&[u8]> = changes.nonces_taken.iter().map(|key| key.0.as_slice()).collect();
        let freed: Vec<&[u8]> = changes.nonces_freed.keys().map(|key| key.0.as_slice()).collect();
        let free_at: Vec<i64> = changes.nonces_freed.values().map(|at| seconds(*at)).collect();
        let (handed, from): (Vec<Uuid>, Vec<i32>) = changes
            .handed_over
            .iter()
            .map(|(rid, from)| (Uuid::from_bytes(*rid.bytes()), id(*from)))
            .unzip();
        let yielded: Vec<Uuid> = changes
            .yielded
            .iter()
            .map(|rid| Uuid::from_bytes(*rid.bytes()))
            .collect();
        let seqs: Vec<i64> = batch.lines.entries.iter().map(|(seq, _)| seconds(*seq)).collect();
        let entries: Vec<&[u8]> = batch.lines.entries.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        try_join!(
            biased;
            async {
                let CounterRows { scopes, windows, starts, settled, open } = &fixed;
                self.written(scopes.len(), &self.set_counters, &[scopes, windows, starts, settled, open]).await
            },
            async {
                let CounterRows { scopes, windows, starts, settled, open } = &rolling;
                self.written(scopes.len(), &self.set_buckets, &[scopes, windows, starts, settled, open]).await
            },
            async {
                let PaymentRows { rids, states, counts_until, unconfirmed, payments } = &fresh;
                let rows: Parameters<'_> = &[&node, &epoch, rids, states, counts_until, unconfirmed, payments];
                self.written(rids.len(), &self.insert_payments, rows).await
            },
            async {
                let PaymentRows { rids, states, counts_until, unconfirmed, payments } = &known;
                let rows: Parameters<'_> = &[&node, &epoch, rids, states, counts_until, unconfirmed, payments];
                self.written(rids.len(), &self.update_payments, rows).await
            },
            async { self.written(taken.len(), &self.take_nonces, &[&taken, &now_s]).await },
            async { self.written(freed.len(), &self.free_nonces, &[&freed, &free_at]).await },
            async {
                let held = &changes.keys_held;
                let idems: Vec<&[u8]> = held.iter().map(|hold| hold.idem.as_slice()).collect();
                let until: Vec<i64> = held.iter().map(|hold| seconds(hold.until)).collect();
                let rids: Vec<Uuid> = held.iter().map(|hold| Uuid::from_bytes(*hold.rid.bytes())).collect();
                let prints: Vec<&[u8]> = held.iter().map(|hold| hold.fingerprint.as_slice()).collect();
                let rows: Parameters<'_> = &[&idems, &until, &rids, &prints, &now_s];
                self.written(held.len(), &self.hold_keys, rows).await
            },
            async {
                let freed = &changes.keys_freed;
                if freed.is_empty() {
                    return Ok(());
                }
                // After it has expired, another payment may have taken the key.
                let idems: Vec<&[u8]> = freed.iter().map(|hold| hold.idem.as_slice()).collect();
                let rids: Vec<Uuid> = freed.iter().map(|hold| Uuid::from_bytes(*hold.rid.bytes())).collect();
                self.client.execute(&self.free_keys, &[&idems, &rids]).await?;
                Ok(())
            },
            self.write_pauses(batch),
            self.write_approvals(batch.me, &batch.asked, &changes.approvals, now),
            async { self.written(yielded.len(), &self.yielded, &[&node, &yielded]).await },
            async { self.written(handed.len(), &self.hand_over, &[&node, &handed, &from]).await },
            async {
                for (generation, file) in &batch.published.fresh {
                    let (generation, file) = (generation.cast_signed(), file.as_slice());
                    self.written(1, &self.publish, &[&generation, &file]).await?;
                    self.written(1, &self.remember, &[&file, &generation]).await?;
                }
                Ok(())
            },
            async { self.written(seqs.len(), &self.outbox, &[&node, &seqs, &entries]).await },
        )?;
        Ok(())
    }
}
