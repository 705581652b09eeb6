//! The statements that write, and how a statement counts what it has written (R280).
//!
//! `commit` is sent before the answers to the writes are read, so nobody could look at a row count in time. Each statement
//! looks itself: if it has written another number of rows than it was given, it divides by zero, which fails the transaction,
//! and `commit` becomes a rollback.

use tokio::try_join;
use tokio_postgres::{Client, Error, Statement};

use super::{Parameters, Session};
use crate::postgres::rows::TransactionError;

pub(super) struct Writes {
    /// Counters, and payments that there were.
    pub known: Statement,
    /// New payments with their nonces, and the entries of the batch.
    pub fresh: Statement,
    pub buckets: Statement,
    pub free_nonces: Statement,
    pub hand_over: Statement,
    pub yielded: Statement,
    pub publish: Statement,
    pub remember: Statement,
    pub hold_keys: Statement,
    pub free_keys: Statement,
}

impl Writes {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let p = async |text: &str| client.prepare(text).await;
        let c = async |text: &str, parameters: usize| client.prepare(&counted(text, parameters)).await;
        // CockroachDB does not let one statement insert into a table and update it, so there are two.
        let (known, fresh, buckets, free_nonces) = try_join!(
            p(
                "with counters as (update bursar.win as w set settled = u.settled::numeric, open = u.open::numeric from \
               unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as u (scope, win, start, settled, open) \
               where w.scope = u.scope and w.win = u.win and w.start = u.start returning 1), \
               payments as (update bursar.resv as r set state = u.state, owner = $6::int4, owner_epoch = $7::int8, \
               counts_until = u.counts_until, unconfirmed = u.unconfirmed, payment = u.payment, updated = now() from \
               unnest($8::uuid[], $9::int2[], $10::int8[], $11::bool[], $12::text[]) \
               as u (rid, state, counts_until, unconfirmed, payment) where r.rid = u.rid returning 1) \
               select 1 / (case when (select count(*) from counters) = $13::int8 \
               and (select count(*) from payments) = $14::int8 then 1 else 0 end)"
            ),
            p("with payments as (insert into bursar.resv \
               (rid, state, owner, owner_epoch, counts_until, unconfirmed, payment, entry_node, entry_seq) \
               select u.rid, u.state, $1::int4, $2::int8, u.counts_until, u.unconfirmed, u.payment, u.entry_node, u.entry_seq \
               from unnest($3::uuid[], $4::int2[], $5::int8[], $6::bool[], $7::text[], $8::int4[], $9::int8[]) \
               as u (rid, state, counts_until, unconfirmed, payment, entry_node, entry_seq) \
               on conflict (rid) do nothing returning 1), \
               nonces as (insert into bursar.nonce as n (key, free_at, rid) select u.key, u.free_at, u.rid \
               from unnest($10::bytea[], $11::int8[], $12::uuid[]) as u (key, free_at, rid) \
               on conflict (key) do update set free_at = excluded.free_at, rid = excluded.rid where n.free_at < $13::int8 \
               returning 1), \
               entries as (insert into bursar.outbox (node_id, seq, entry) \
               select $1::int4, u.seq, u.entry from unnest($14::int8[], $15::bytea[]) as u (seq, entry) returning 1) \
               select 1 / (case when (select count(*) from payments) = $16::int8 \
               and (select count(*) from nonces) = $17::int8 \
               and (select count(*) from entries) = $18::int8 then 1 else 0 end)"),
            c(
                "insert into bursar.bucket as b (scope, win, start, settled, open) \
                 select u.scope, u.win, u.start, u.settled::numeric, u.open::numeric from \
                 unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as u (scope, win, start, settled, open) \
                 on conflict (scope, win, start) do update set settled = excluded.settled, open = excluded.open",
                5,
            ),
            c(
                "update bursar.nonce as n set free_at = u.free_at from unnest($1::bytea[], $2::int8[]) as u (key, free_at) \
                 where n.key = u.key",
                2,
            ),
        )?;
        let (hand_over, yielded, publish, remember, hold_keys, free_keys) = try_join!(
            c(
                "insert into bursar.handover (rid, from_node, to_node) \
                 select u.rid, u.from_node, $1::int4 from unnest($2::uuid[], $3::int4[]) as u (rid, from_node) \
                 on conflict (rid, from_node) do update set to_node = excluded.to_node",
                3,
            ),
            c("delete from bursar.handover where from_node = $1 and rid = any($2)", 2),
            c(
                "insert into bursar.policy as p (gen, sha256) values ($1::int8, $2::bytea) on conflict (one) do update \
                 set gen = excluded.gen, sha256 = excluded.sha256 where p.gen = excluded.gen - 1",
                2,
            ),
            c(
                "insert into bursar.policy_history (sha256, gen) values ($1::bytea, $2::int8) on conflict do nothing",
                2,
            ),
            c(
                "insert into bursar.idem as k (idem, until, rid, fingerprint) \
                 select * from unnest($1::bytea[], $2::int8[], $3::uuid[], $4::bytea[]) \
                 on conflict (idem) do update set until = excluded.until, rid = excluded.rid, \
                 fingerprint = excluded.fingerprint where k.until < $5::int8",
                5,
            ),
            p(
                "delete from bursar.idem as k using unnest($1::bytea[], $2::uuid[]) as u (idem, rid) \
                 where k.idem = u.idem and k.rid = u.rid"
            ),
        )?;
        Ok(Self {
            known,
            fresh,
            buckets,
            free_nonces,
            hand_over,
            yielded,
            publish,
            remember,
            hold_keys,
            free_keys,
        })
    }
}

/// A statement with `parameters` parameters, and one more: the number of rows that it must write.
pub(super) fn counted(text: &str, parameters: usize) -> String {
    let rows = parameters + 1;
    format!(
        "with written as ({text} returning 1) \
         select 1 / (case when count(*) = ${rows}::int8 then 1 else 0 end) from written"
    )
}

impl Session {
    /// Executes a counted statement that must write exactly `rows` rows, if there are any.
    pub(super) async fn written(
        &self,
        rows: usize,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<(), TransactionError> {
        match rows {
            0 => Ok(()),
            rows => Ok(self.counting(rows, statement, parameters).await?),
        }
    }

    pub(super) async fn counting(
        &self,
        rows: usize,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<(), Error> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let mut all = parameters.to_vec();
        all.push(&rows);
        self.client.execute(statement, &all).await.map(|_| ())
    }
}
