//! The statements of a batch (R208): locks in a fixed order, sums in a later statement, writes with arrays.
//!
//! Statements that do not need each other's results are sent together and run one after the other, each with its own
//! snapshot: that guarantees that the buckets, which are read after the lock, are the newest ones.

mod approvals;
mod pauses;
mod write;

use std::collections::HashMap;

use tokio::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

use super::connect::Dialect;
use super::policy::Published;
use super::rows::{
    Locked, Needs, Row, TransactionError, columns, id, node_id, nonce, read_counter, read_key, read_row, sha256,
};
use super::schema::GUARD;
use crate::counters::CounterKey;
use approvals::Statements;
use bursar_core::payment_id::PaymentId;
use pauses::PauseStatements;

/// A connection and the statements prepared on it.
pub(super) struct Session {
    pub client: Client,
    dialect: Dialect,
    epoch: Statement,
    payments: Statement,
    create: Statement,
    lock: Statement,
    buckets: Statement,
    nonces: Statement,
    policy: Statement,
    policy_locked: Statement,
    history: Statement,
    silent: Statement,
    handed_over: Statement,
    set_counters: Statement,
    set_buckets: Statement,
    insert_payments: Statement,
    update_payments: Statement,
    take_nonces: Statement,
    free_nonces: Statement,
    hand_over: Statement,
    yielded: Statement,
    publish: Statement,
    remember: Statement,
    outbox: Statement,
    keys: Statement,
    hold_keys: Statement,
    free_keys: Statement,
    approvals: Statements,
    pauses: PauseStatements,
}

impl Session {
    pub(super) async fn prepare(client: Client, dialect: Dialect) -> Result<Self, Error> {
        let p = |text: &'static str| client.prepare(text);
        let (epoch, payments, create, lock, buckets, nonces, policy, policy_locked, history, silent, handed_over) = try_join!(
            p("select epoch from bursar.node where node_id = $1 for update"),
            p("select rid, owner, unconfirmed, payment from bursar.resv where rid = any($1) order by rid for update"),
            p(
                "insert into bursar.win (scope, win, start) select * from unnest($1::text[], $2::text[], $3::text[]) \
               on conflict do nothing"
            ),
            p(
                "select scope, win, start, settled::text, open::text from bursar.win where (scope, win, start) in \
               (select * from unnest($1::text[], $2::text[], $3::text[])) order by scope, win, start for update"
            ),
            p(
                "select b.scope, b.win, b.start, b.settled::text, b.open::text from bursar.bucket b join \
               unnest($1::text[], $2::text[], $3::text[]) as w (scope, win, since) \
               on b.scope = w.scope and b.win = w.win and b.start >= w.since"
            ),
            p("select key from bursar.nonce where key = any($1) and (free_at is null or free_at >= $2)"),
            p("select gen, sha256 from bursar.policy"),
            p("select gen, sha256 from bursar.policy for update"),
            p("select sha256, gen from bursar.policy_history where sha256 = any($1)"),
            p("select node_id from bursar.node where heartbeat < now() - interval '60 seconds'"),
            p("select rid from bursar.handover where from_node = $1 and rid = any($2)"),
        )?;
        let (set_counters, set_buckets, insert_payments, update_payments, take_nonces, free_nonces) = try_join!(
            p(
                "update bursar.win as w set settled = u.settled::numeric, open = u.open::numeric from \
               unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as u (scope, win, start, settled, open) \
               where w.scope = u.scope and w.win = u.win and w.start = u.start"
            ),
            p("insert into bursar.bucket as b (scope, win, start, settled, open) \
               select u.scope, u.win, u.start, u.settled::numeric, u.open::numeric from \
               unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) as u (scope, win, start, settled, open) \
               on conflict (scope, win, start) do update set settled = excluded.settled, open = excluded.open"),
            p(
                "insert into bursar.resv (rid, state, owner, owner_epoch, counts_until, unconfirmed, payment) \
               select u.rid, u.state, $1, $2, u.counts_until, u.unconfirmed, u.payment from \
               unnest($3::uuid[], $4::int2[], $5::int8[], $6::bool[], $7::text[]) \
               as u (rid, state, counts_until, unconfirmed, payment) on conflict (rid) do nothing"
            ),
            p(
                "update bursar.resv as r set state = u.state, owner = $1, owner_epoch = $2, counts_until = u.counts_until, \
               unconfirmed = u.unconfirmed, payment = u.payment, updated = now() from \
               unnest($3::uuid[], $4::int2[], $5::int8[], $6::bool[], $7::text[]) \
               as u (rid, state, counts_until, unconfirmed, payment) where r.rid = u.rid"
            ),
            p(
                "insert into bursar.nonce as n (key, free_at) select u.key, null from unnest($1::bytea[]) as u (key) \
               on conflict (key) do update set free_at = null where n.free_at < $2"
            ),
            p(
                "update bursar.nonce as n set free_at = u.free_at from unnest($1::bytea[], $2::int8[]) as u (key, free_at) \
               where n.key = u.key"
            ),
        )?;
        let (hand_over, yielded, publish, remember, outbox) = try_join!(
            p("insert into bursar.handover (rid, from_node, to_node) \
               select u.rid, u.from_node, $1 from unnest($2::uuid[], $3::int4[]) as u (rid, from_node) \
               on conflict (rid, from_node) do update set to_node = excluded.to_node"),
            p("delete from bursar.handover where from_node = $1 and rid = any($2)"),
            p(
                "insert into bursar.policy as p (gen, sha256) values ($1, $2) on conflict (one) do update \
               set gen = excluded.gen, sha256 = excluded.sha256 where p.gen = excluded.gen - 1"
            ),
            p("insert into bursar.policy_history (sha256, gen) values ($1, $2) on conflict do nothing"),
            p("insert into bursar.outbox (node_id, seq, entry) \
               select $1, u.seq, u.entry from unnest($2::int8[], $3::bytea[]) as u (seq, entry)"),
        )?;
        let (keys, hold_keys, free_keys) = try_join!(
            p("select idem, until, rid, fingerprint from bursar.idem where idem = any($1) and until >= $2"),
            p("insert into bursar.idem as k (idem, until, rid, fingerprint) \
               select * from unnest($1::bytea[], $2::int8[], $3::uuid[], $4::bytea[]) \
               on conflict (idem) do update set until = excluded.until, rid = excluded.rid, \
               fingerprint = excluded.fingerprint where k.until < $5"),
            p(
                "delete from bursar.idem as k using unnest($1::bytea[], $2::uuid[]) as u (idem, rid) \
               where k.idem = u.idem and k.rid = u.rid"
            ),
        )?;
        let approvals = Statements::prepare(&client).await?;
        let pauses = PauseStatements::prepare(&client).await?;
        Ok(Self {
            client,
            dialect,
            epoch,
            payments,
            create,
            lock,
            buckets,
            nonces,
            policy,
            policy_locked,
            history,
            silent,
            handed_over,
            set_counters,
            set_buckets,
            insert_payments,
            update_payments,
            take_nonces,
            free_nonces,
            hand_over,
            yielded,
            publish,
            remember,
            outbox,
            keys,
            hold_keys,
            free_keys,
            approvals,
            pauses,
        })
    }

    /// Begins a transaction as the node's only process, and locks the payments that it is about.
    pub(super) async fn begin(
        &self,
        me: u32,
        epoch: i64,
        rids: &[Uuid],
    ) -> Result<HashMap<PaymentId, Row>, TransactionError> {
        let node = id(me);
        let (_, now, found) = try_join!(
            biased;
            self.client.batch_execute(self.dialect.begin()),
            async { self.client.query_opt(&self.epoch, &[&node]).await },
            async {
                match rids {
                    [] => Ok(Vec::new()),
                    rids => self.client.query(&self.payments, &[&rids]).await,
                }
            },
        )?;
        if now.map(|row| row.try_get(0)).transpose()? != Some(epoch) {
            return Err(TransactionError::Fenced);
        }
        found.iter().map(read_row).collect()
    }

    /// Creates counters that no payment has touched before, outside of the transaction that will lock them.
    pub(super) async fn create(&self, keys: &[&CounterKey]) -> Result<(), TransactionError> {
        let [scopes, windows, starts] = columns(keys.iter().copied());
        self.client.execute(&self.create, &[&scopes, &windows, &starts]).await?;
        Ok(())
    }

    /// Locks the counters, then reads what only the lock makes certain.
    pub(super) async fn lock(&self, me: u32, needs: &Needs, now_s: i64) -> Result<Locked, TransactionError> {
        let [scopes, windows, starts] = columns(needs.keys.iter());
        let rolling: [Vec<&str>; 3] = [
            needs.rolling.keys().map(|(scope, _)| scope.as_str()).collect(),
            needs.rolling.keys().map(|(_, window)| window.as_str()).collect(),
            needs.rolling.values().map(String::as_str).collect(),
        ];
        let nonces: Vec<&[u8]> = needs.nonces.iter().map(|key| key.0.as_slice()).collect();
        let asked: Vec<&[u8]> = needs.keys_asked.iter().map(<[u8; 32]>::as_slice).collect();
        let files: Vec<&[u8]> = needs.files.iter().map(<[u8; 32]>::as_slice).collect();
        let node = id(me);
        let client = &self.client;
        let policy = if files.is_empty() {
            &self.policy
        } else {
            &self.policy_locked
        };
        let nothing = async || Ok::<_, Error>(Vec::new());
        let (policy, pauses, counters, buckets, nonces, keys, history, silent, to_yield) = try_join!(
            biased;
            client.query_opt(policy, &[]),
            self.pauses(),
            async {
                match scopes.is_empty() {
                    true => nothing().await,
                    false => client.query(&self.lock, &[&scopes, &windows, &starts]).await,
                }
            },
            async {
                match rolling[0].is_empty() {
                    true => nothing().await,
                    false => client.query(&self.buckets, &[&rolling[0], &rolling[1], &rolling[2]]).await,
                }
            },
            async {
                match nonces.is_empty() {
                    true => nothing().await,
                    false => client.query(&self.nonces, &[&nonces, &now_s]).await,
                }
            },
            async {
                match asked.is_empty() {
                    true => nothing().await,
                    false => client.query(&self.keys, &[&asked, &now_s]).await,
                }
            },
            async {
                match files.is_empty() {
                    true => nothing().await,
                    false => client.query(&self.history, &[&files]).await,
                }
            },
            async {
                match needs.adopts {
                    true => client.query(&self.silent, &[]).await,
                    false => nothing().await,
                }
            },
            async {
                match needs.rids.is_empty() {
                    true => nothing().await,
                    false => client.query(&self.handed_over, &[&node, &needs.rids]).await,
                }
            },
        )?;
        let mut published = Published::default();
        if let Some(row) = policy {
            published.current = Some((row.try_get::<_, i64>(0)?.cast_unsigned(), sha256(row.try_get(1)?)?));
        }
        for row in &history {
            let generation: i64 = row.try_get(1)?;
            published
                .history
                .insert(sha256(row.try_get(0)?)?, generation.cast_unsigned());
        }
        let missing = counters.len() != needs.keys.len();
        let counters = counters
            .iter()
            .chain(&buckets)
            .map(read_counter)
            .collect::<Result<Vec<_>, _>>()?;
        let nonces = nonces
            .iter()
            .map(|row| nonce(row.try_get(0)?))
            .collect::<Result<_, _>>()?;
        let silent = silent
            .iter()
            .map(|row| Ok(node_id(row.try_get(0)?)))
            .collect::<Result<_, Error>>()?;
        let to_yield = to_yield
            .iter()
            .map(|row| Ok(PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes())))
            .collect::<Result<_, Error>>()?;
        Ok(Locked {
            counters: counters
                .into_iter()
                .filter(|((_, _, start), _)| start != GUARD)
                .collect(),
            nonces,
            keys: keys.iter().map(read_key).collect::<Result<_, _>>()?,
            pauses,
            published,
            silent,
            to_yield,
            missing,
        })
    }

    /// Executes a statement that must write exactly `rows` rows, if there are any.
    async fn written(
        &self,
        rows: usize,
        statement: &Statement,
        parameters: Parameters<'_>,
    ) -> Result<(), TransactionError> {
        if rows == 0 {
            return Ok(());
        }
        match self.client.execute(statement, parameters).await? {
            count if count == rows as u64 => Ok(()),
            count => Err(TransactionError::Again(format!(
                "{count} rows were written instead of {rows}"
            ))),
        }
    }
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];
