//! Writes what a batch has changed, and commits.

use tokio::try_join;
use uuid::Uuid;

use super::{Parameters, Session};
use crate::postgres::batch::Batch;
use crate::postgres::connect::{explain, is_other_rows, is_to_be_retried, proves_rollback};
use crate::postgres::rows::{CounterRows, PaymentRows, TransactionError, has_buckets, id, seconds};
use crate::text::Moment;

/// What is known of a transaction that did not end as it should.
pub(in crate::postgres) enum Ending {
    /// Nothing of it is in the database.
    RolledBack(TransactionError),
    /// `commit` may have been received and done.
    Unknown,
}

impl From<TransactionError> for Ending {
    fn from(error: TransactionError) -> Self {
        Self::RolledBack(error)
    }
}

impl From<tokio_postgres::Error> for Ending {
    fn from(error: tokio_postgres::Error) -> Self {
        // A statement that failed has failed the transaction, and `commit` came after it.
        if is_to_be_retried(&error) || is_other_rows(&error) || proves_rollback(&error) {
            return Self::RolledBack(error.into());
        }
        tracing::warn!(
            why = explain(&error),
            "the answer to a commit was lost; looking up what became of it"
        );
        Self::Unknown
    }
}

impl Session {
    /// Writes what the batch has changed and commits, in one trip. The rows are locked, so every row count must match; if one
    /// does not, another transaction inserted a row that did not exist before, and the statement itself fails.
    pub(in crate::postgres) async fn finish(&self, batch: &Batch<'_>, epoch: i64, now: Moment) -> Result<(), Ending> {
        self.write_rare(batch, now).await?;
        let (changes, node) = (&batch.changes, id(batch.me));
        let now_s = now.timestamp().as_second();
        let (fixed, rolling): (Vec<_>, Vec<_>) = changes
            .counters
            .iter()
            .partition(|((_, window, _), _)| !has_buckets(window));
        let (fixed, rolling) = (CounterRows::of(&fixed), CounterRows::of(&rolling));
        let (fresh, known): (Vec<_>, Vec<_>) = changes.payments.iter().partition(|(_, changed)| changed.is_new);
        let (fresh, known) = (PaymentRows::of(&fresh)?, PaymentRows::of(&known)?);
        let taken: Vec<&[u8]> = changes.nonces_taken.keys().map(|key| key.0.as_slice()).collect();
        let (taken_until, taken_by): (Vec<i64>, Vec<Uuid>) = changes
            .nonces_taken
            .values()
            .map(|(until, rid)| (seconds(*until), Uuid::from_bytes(*rid.bytes())))
            .unzip();
        let freed: Vec<&[u8]> = changes.nonces_freed.keys().map(|key| key.0.as_slice()).collect();
        let free_at: Vec<i64> = changes.nonces_freed.values().map(|at| seconds(*at)).collect();
        let seqs: Vec<i64> = batch.lines.entries.iter().map(|(seq, _)| seconds(*seq)).collect();
        let entries: Vec<&[u8]> = batch.lines.entries.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let writes = &self.writes;
        // Each of these sends its one statement when it is first polled, in this order.
        try_join!(
            biased;
            async {
                let CounterRows { scopes, windows, starts, settled, open } = &rolling;
                self.last(scopes.len(), &writes.buckets, &[scopes, windows, starts, settled, open]).await
            },
            async {
                let CounterRows { scopes, windows, starts, settled, open } = &fixed;
                let PaymentRows { rids, states, counts_until, unconfirmed, payments, .. } = &known;
                let counts = [count(scopes.len()), count(rids.len())];
                let rows: Parameters<'_> = &[
                    scopes, windows, starts, settled, open, &node, &epoch, rids, states, counts_until, unconfirmed, payments,
                    &counts[0], &counts[1],
                ];
                match counts {
                    [0, 0] => Ok(()),
                    _ => self.client.execute(&writes.known, rows).await.map(|_| ()).map_err(Ending::from),
                }
            },
            async { self.last(freed.len(), &writes.free_nonces, &[&freed, &free_at]).await },
            async {
                let PaymentRows { rids, states, counts_until, unconfirmed, payments, entry_nodes, entry_seqs } = &fresh;
                let counts = [count(rids.len()), count(taken.len()), count(seqs.len())];
                let rows: Parameters<'_> = &[
                    &node, &epoch, rids, states, counts_until, unconfirmed, payments, entry_nodes, entry_seqs, &taken,
                    &taken_until, &taken_by, &now_s, &seqs, &entries, &counts[0], &counts[1], &counts[2],
                ];
                self.client.execute(&writes.fresh, rows).await.map(|_| ()).map_err(Ending::from)
            },
            async {
                self.client.batch_execute("commit").await?;
                Ok(())
            },
        )?;
        Ok(())
    }

    /// Like [`Session::written`], for what is sent together with `commit`.
    async fn last(
        &self,
        rows: usize,
        statement: &tokio_postgres::Statement,
        parameters: Parameters<'_>,
    ) -> Result<(), Ending> {
        match rows {
            0 => Ok(()),
            rows => self.counting(rows, statement, parameters).await.map_err(Ending::from),
        }
    }

    /// What most batches do not have. Some of it takes a trip for each statement, so all of it is done before `commit` is sent.
    async fn write_rare(&self, batch: &Batch<'_>, now: Moment) -> Result<(), TransactionError> {
        let (changes, node) = (&batch.changes, id(batch.me));
        let now_s = now.timestamp().as_second();
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
        let writes = &self.writes;
        try_join!(
            biased;
            async {
                let held = &changes.keys_held;
                let idems: Vec<&[u8]> = held.iter().map(|hold| hold.idem.as_slice()).collect();
                let until: Vec<i64> = held.iter().map(|hold| seconds(hold.until)).collect();
                let rids: Vec<Uuid> = held.iter().map(|hold| Uuid::from_bytes(*hold.rid.bytes())).collect();
                let prints: Vec<&[u8]> = held.iter().map(|hold| hold.fingerprint.as_slice()).collect();
                let rows: Parameters<'_> = &[&idems, &until, &rids, &prints, &now_s];
                self.written(held.len(), &writes.hold_keys, rows).await
            },
            async {
                let freed = &changes.keys_freed;
                if freed.is_empty() {
                    return Ok(());
                }
                // After it has expired, another payment may have taken the key.
                let idems: Vec<&[u8]> = freed.iter().map(|hold| hold.idem.as_slice()).collect();
                let rids: Vec<Uuid> = freed.iter().map(|hold| Uuid::from_bytes(*hold.rid.bytes())).collect();
                self.client.execute(&writes.free_keys, &[&idems, &rids]).await?;
                Ok(())
            },
            self.write_pauses(batch),
            self.write_approvals(batch.me, &batch.asked, &changes.approvals, now),
            async { self.written(yielded.len(), &writes.yielded, &[&node, &yielded]).await },
            async { self.written(handed.len(), &writes.hand_over, &[&node, &handed, &from]).await },
            async {
                for (generation, file) in &batch.published.fresh {
                    let (generation, file) = (generation.cast_signed(), file.as_slice());
                    self.written(1, &writes.publish, &[&generation, &file]).await?;
                    self.written(1, &writes.remember, &[&file, &generation]).await?;
                }
                Ok(())
            },
        )?;
        Ok(())
    }
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
