//! The statements of a batch (R208): locks in a fixed order, sums in a later statement, writes with arrays.
//!
//! Statements that do not need each other's results are sent together and run one after the other, each with its own
//! snapshot: that guarantees that the buckets, which are read after the lock, are the newest ones. A batch whose payments
//! this node knows takes two trips: [`Session::at_once`], and [`Session::finish`].

mod approvals;
mod pauses;
mod write;
mod writes;

use std::collections::HashMap;

use tokio::try_join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row as SqlRow, Statement};
use uuid::Uuid;

use super::connect::Dialect;
use super::policy::Published;
use super::rows::{
    Locked, Needs, Row, TransactionError, columns, id, node_id, nonce, read_counter, read_key, read_row, sha256,
};
use super::schema::GUARD;
use crate::counters::CounterKey;
use crate::payment::Payment;
use approvals::Statements;
use bursar_core::payment_id::PaymentId;
use pauses::{PauseStatements, read_pauses};
pub(super) use write::Ending;
use writes::Writes;

/// A connection and the statements prepared on it.
pub(super) struct Session {
    pub client: Client,
    dialect: Dialect,
    epoch: Statement,
    head: Statement,
    payments: Statement,
    known_payments: Statement,
    create: Statement,
    lock: Statement,
    buckets: Statement,
    nonces: Statement,
    policy: Statement,
    policy_locked: Statement,
    history: Statement,
    silent: Statement,
    handed_over: Statement,
    keys: Statement,
    writes: Writes,
    approvals: Statements,
    pauses: PauseStatements,
}

impl Session {
    pub(super) async fn prepare(client: Client, dialect: Dialect) -> Result<Self, Error> {
        let p = |text: &'static str| client.prepare(text);
        let (
            epoch,
            head,
            payments,
            known_payments,
            create,
            lock,
            buckets,
            nonces,
            policy,
            policy_locked,
            history,
            silent,
            handed_over,
        ) = try_join!(
            p("select epoch from bursar.node where node_id = $1 for update"),
            p("select n.epoch, p.gen, p.sha256, \
               (select json_agg(json_build_array(scope, since, who, why))::text from bursar.pause) \
               from bursar.node n left join bursar.policy p on p.one where n.node_id = $1 for update of n"),
            p(
                "select r.rid, r.owner, r.unconfirmed, r.payment, r.entry_node, r.entry_seq, o.entry from bursar.resv r \
               left join bursar.outbox o on o.node_id = r.entry_node and o.seq = r.entry_seq \
               where r.rid = any($1) order by r.rid for update of r"
            ),
            p(
                "select rid, owner, unconfirmed, payment, entry_node, entry_seq, null::bytea from bursar.resv \
               where rid = any($1) order by rid for update"
            ),
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
            p(
                "select n.key from bursar.nonce n left join bursar.resv r on r.rid = n.rid where n.key = any($1) \
               and (n.free_at is null or n.free_at >= $2 or r.state in (1, 2, 4))"
            ),
            p("select gen, sha256 from bursar.policy"),
            p("select gen, sha256 from bursar.policy for update"),
            p("select sha256, gen from bursar.policy_history where sha256 = any($1)"),
            p("select node_id from bursar.node where heartbeat < now() - interval '60 seconds'"),
            p("select rid from bursar.handover where from_node = $1 and rid = any($2)"),
        )?;
        let writes = Writes::prepare(&client).await?;
        let keys =
            p("select idem, until, rid, fingerprint from bursar.idem where idem = any($1) and until >= $2").await?;
        let approvals = Statements::prepare(&client).await?;
        let pauses = PauseStatements::prepare(&client).await?;
        Ok(Self {
            client,
            dialect,
            epoch,
            head,
            payments,
            known_payments,
            create,
            lock,
            buckets,
            nonces,
            policy,
            policy_locked,
            history,
            silent,
            handed_over,
            keys,
            writes,
            approvals,
            pauses,
        })
    }

    /// Begins a transaction, locks, and reads all that a batch needs if `needs` is all of it. What the payments in `known` have
    /// reserved is not read again.
    pub(super) async fn at_once(
        &self,
        (me, epoch): (u32, i64),
        rids: &[Uuid],
        known: &HashMap<PaymentId, Payment>,
        needs: &Needs,
        now_s: i64,
    ) -> Result<(HashMap<PaymentId, Row>, Locked), TransactionError> {
        let ((head, found), mut locked) = try_join!(
            biased;
            self.locked(me, &self.head, (rids, &self.known_payments)),
            self.lock(me, needs, now_s, Head::Read),
        )?;
        let head = is_ours(head, epoch)?;
        if let Some(generation) = head.try_get::<_, Option<i64>>(1)? {
            locked.published.current = Some((generation.cast_unsigned(), sha256(head.try_get(2)?)?));
        }
        if let Some(pauses) = head.try_get(3)? {
            locked.pauses = read_pauses(pauses)?;
        }
        let rows = found.iter().map(|row| read_row(row, known)).collect::<Result<_, _>>()?;
        Ok((rows, locked))
    }

    /// Begins a transaction as the node's only process, and locks the payments that it is about.
    pub(super) async fn begin(
        &self,
        (me, epoch): (u32, i64),
        rids: &[Uuid],
    ) -> Result<HashMap<PaymentId, Row>, TransactionError> {
        let (now, found) = self.locked(me, &self.epoch, (rids, &self.payments)).await?;
        is_ours(now, epoch)?;
        found.iter().map(|row| read_row(row, &HashMap::new())).collect()
    }

    async fn locked(
        &self,
        me: u32,
        node: &Statement,
        (rids, payments): (&[Uuid], &Statement),
    ) -> Result<(Option<SqlRow>, Vec<SqlRow>), TransactionError> {
        let me = id(me);
        let (_, now, found) = try_join!(
            biased;
            self.client.batch_execute(self.dialect.begin()),
            async { self.client.query_opt(node, &[&me]).await },
            async {
                match rids {
                    [] => Ok(Vec::new()),
                    rids => self.client.query(payments, &[&rids]).await,
                }
            },
        )?;
        Ok((now, found))
    }

    /// Creates counters that no payment has touched before, outside of the transaction that will lock them.
    pub(super) async fn create(&self, keys: &[&CounterKey]) -> Result<(), TransactionError> {
        let [scopes, windows, starts] = columns(keys.iter().copied());
        self.client.execute(&self.create, &[&scopes, &windows, &starts]).await?;
        Ok(())
    }

    /// Locks the counters, then reads what only the lock makes certain.
    pub(super) async fn lock(
        &self,
        me: u32,
        needs: &Needs,
        now_s: i64,
        head: Head,
    ) -> Result<Locked, TransactionError> {
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
        // The counters are what the nodes wait for, so they are locked last. A nonce or a key that another node takes meanwhile
        // is found when it is written.
        let (policy, pauses, nonces, keys, history, silent, to_yield, counters, buckets) = try_join!(
            biased;
            async {
                match head {
                    Head::Read => Ok(None),
                    Head::Unread => client.query_opt(policy, &[]).await,
                }
            },
            async {
                match head {
                    Head::Read => Ok(Vec::new()),
                    Head::Unread => self.pauses().await,
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
}

/// Whether limits and pauses are read together with the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Read,
    Unread,
}

/// The row of this node, if no other process has taken its place.
fn is_ours(row: Option<SqlRow>, epoch: i64) -> Result<SqlRow, TransactionError> {
    let row = row.ok_or(TransactionError::Fenced)?;
    match row.try_get::<_, i64>(0)? == epoch {
        true => Ok(row),
        false => Err(TransactionError::Fenced),
    }
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];
