//! Answers to questions. They are answered after the batch that was queued with them, on the same connection.

use tokio::time::timeout;
use uuid::Uuid;

use super::approvals::{micros, read_approval, read_denied};
use super::connect::PATIENCE;
use super::engine::Engine;
use super::rows::{TransactionError, id, node_id, read_counter, read_key, read_payment};
use super::schema::GUARD;
use super::session::Session;
use crate::counters::Usage;
use crate::key::KeyHold;
use crate::model::{Approvals, LedgerError};
use crate::payment::Payment;
use crate::spending::Spending;
use crate::standing::Seen;
use crate::text::Moment;
use crate::writer::ops::{Found, Op};
use bursar_core::payment_id::PaymentId;

/// How many of the newest windows of a kind [`Usage`] covers, as in the embedded ledger.
const WINDOWS: i64 = 64;

impl Engine {
    pub(super) async fn answer(&mut self, question: Op) {
        let failed = self.connected().await.err();
        if failed.is_none() && !self.backlog.is_empty() {
            // A caller that was promised that its result is recorded later must see it recorded.
            let tasks = std::mem::take(&mut self.backlog).into();
            self.perform(tasks).await;
        }
        let now = Moment::of(self.time.read().now);
        let now_s = now.timestamp().as_second();
        let (session, me) = (self.session.as_ref(), self.identity.map_or(0, |identity| identity.node));
        let reads = Reads { session, failed, me };
        // The caller may have gone away.
        match question {
            Op::Find(rid, reply) => {
                let found = match reads.payment(rid).await {
                    Ok(Some(payment)) => Found::Open(Box::new(payment)),
                    Ok(None) => Found::Elsewhere(None),
                    Err(error) => Found::Failed(error),
                };
                let _ = reply.send(found);
            }
            Op::Spending(scopes, reply) => {
                let usage = reads.usage(&scopes).await;
                let _ = reply.send(usage.map(Spending::of_counters));
            }
            Op::Usage(scopes, reply) => drop(reply.send(reads.usage(&scopes).await)),
            Op::Standing(scopes, reply) => drop(reply.send(reads.standing(&scopes).await)),
            Op::OpenItems(reply) => drop(reply.send(reads.open_items().await)),
            Op::Unconfirmed(reply) => drop(reply.send(reads.unconfirmed().await)),
            Op::Approvals(reply) => drop(reply.send(reads.approvals(now).await)),
            Op::Keys(reply) => drop(reply.send(reads.keys(now_s).await)),
            Op::Pauses(reply) => drop(reply.send(self.pauses_recorded().await)),
            _ => {}
        }
    }
}

struct Reads<'a> {
    session: Option<&'a Session>,
    failed: Option<String>,
    me: u32,
}

impl Reads<'_> {
    async fn query(
        &self,
        text: &str,
        parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, LedgerError> {
        let Some(session) = self.session else {
            let why = self.failed.clone();
            return Err(LedgerError::Failed(
                why.unwrap_or_else(|| "there is no connection to the database".to_owned()),
            ));
        };
        match timeout(PATIENCE, session.client.query(text, parameters)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => Err(unreadable(error.into())),
            Err(_) => Err(LedgerError::Failed("the database does not answer".to_owned())),
        }
    }

    async fn payment(&self, rid: PaymentId) -> Result<Option<Payment>, LedgerError> {
        let rid = Uuid::from_bytes(*rid.bytes());
        let rows = self
            .query(
                "select r.payment, r.entry_seq, o.entry from bursar.resv r left join bursar.outbox o \
                 on o.node_id = r.entry_node and o.seq = r.entry_seq where r.rid = $1",
                &[&rid],
            )
            .await?;
        rows.first().map(read_payment).transpose().map_err(unreadable)
    }

    async fn usage(&self, scopes: &[String]) -> Result<Vec<Usage>, LedgerError> {
        let rows = self
            .query(
                "select scope, win, start, settled::text, open::text from (\
                 select *, row_number() over (partition by scope, win order by start desc) as age from (\
                 select scope, win, start, settled, open from bursar.win where scope = any($1) and start <> $2 \
                 union all select scope, win, start, settled, open from bursar.bucket where scope = any($1)) as counters \
                 where settled > 0 or open > 0) as newest \
                 where age <= $3 order by scope, win, start",
                &[&scopes, &GUARD, &WINDOWS],
            )
            .await?;
        let mut usage = rows
            .iter()
            .map(|row| {
                let ((scope, window, start), counter) = read_counter(row)?;
                Ok(Usage {
                    scope,
                    window,
                    start,
                    settled: counter.settled,
                    open: counter.open,
                })
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        // In the order of the question.
        usage.sort_by_key(|row| scopes.iter().position(|scope| *scope == row.scope));
        Ok(usage)
    }

    /// The counters, and the open payments of all proxies, as one moment saw them.
    async fn standing(&self, scopes: &[String]) -> Result<Seen, LedgerError> {
        self.execute("begin transaction isolation level repeatable read, read only")
            .await?;
        let seen = self.standing_now(scopes).await;
        // Nothing was written, so both ends are the same.
        let ended = self.execute("rollback").await;
        seen.and_then(|seen| ended.map(|()| seen))
    }

    async fn standing_now(&self, scopes: &[String]) -> Result<Seen, LedgerError> {
        let usage = self.usage(scopes).await?;
        let rows = self
            .query(
                "select r.payment, r.entry_seq, o.entry from bursar.resv r left join bursar.outbox o \
                 on o.node_id = r.entry_node and o.seq = r.entry_seq where r.state in (1, 2, 4) order by r.rid",
                &[],
            )
            .await?;
        let read = rows.iter().map(read_payment);
        let open: Vec<Payment> = read.collect::<Result<_, _>>().map_err(unreadable)?;
        // Each proxy numbers the entries of its own log.
        Ok(Seen::of(Spending::of_counters(usage), open.iter(), scopes, None))
    }

    async fn execute(&self, text: &str) -> Result<(), LedgerError> {
        let Some(session) = self.session else {
            return self.query(text, &[]).await.map(|_| ());
        };
        match timeout(PATIENCE, session.client.batch_execute(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unreadable(error.into())),
            Err(_) => Err(LedgerError::Failed("the database does not answer".to_owned())),
        }
    }

    async fn open_items(&self) -> Result<Vec<Payment>, LedgerError> {
        let rows = self
            .query(
                "select r.payment, r.entry_seq, o.entry from bursar.resv r left join bursar.outbox o \
                 on o.node_id = r.entry_node and o.seq = r.entry_seq \
                 where r.owner = $1 and r.state in (1, 2, 4) order by r.rid",
                &[&id(self.me)],
            )
            .await?;
        let read = rows.iter().map(read_payment);
        read.collect::<Result<_, _>>().map_err(unreadable)
    }

    async fn unconfirmed(&self) -> Result<Vec<PaymentId>, LedgerError> {
        let rows = self
            .query(
                "select rid from bursar.resv where owner = $1 and unconfirmed and updated > now() - interval '7 days' \
                 order by rid",
                &[&id(self.me)],
            )
            .await?;
        let read = rows
            .iter()
            .map(|row| Ok(PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes())));
        read.collect::<Result<_, tokio_postgres::Error>>()
            .map_err(|error| unreadable(error.into()))
    }
}

impl Reads<'_> {
    async fn keys(&self, now_s: i64) -> Result<Vec<KeyHold>, LedgerError> {
        let rows = self
            .query(
                "select idem, until, rid, fingerprint from bursar.idem where until >= $1",
                &[&now_s],
            )
            .await?;
        rows.iter().map(read_key).collect::<Result<_, _>>().map_err(unreadable)
    }
}

impl Reads<'_> {
    /// Live approvals are read first, so that one that is denied in between shows up as at least one of the two.
    async fn approvals(&self, now: Moment) -> Result<Approvals, LedgerError> {
        let rows = self
            .query("select node, approval from bursar.approval order by id", &[])
            .await?;
        let mut approvals = Approvals::default();
        for row in &rows {
            let read = row.try_get(0).and_then(|node| Ok((node_id(node), row.try_get(1)?)));
            let (node, text) = read.map_err(|error| unreadable(error.into()))?;
            let approval = read_approval(text).map_err(unreadable)?;
            match node == self.me {
                true => approvals.live.push(approval),
                false => approvals.elsewhere.push(approval),
            }
        }
        let rows = self
            .query(
                "select agent, intent, until from bursar.denial where until >= $1 order by agent, intent",
                &[&micros(now)],
            )
            .await?;
        let denied = rows.iter().map(read_denied).collect::<Result<_, _>>();
        approvals.denied = denied.map_err(unreadable)?;
        Ok(approvals)
    }
}

fn unreadable(cause: TransactionError) -> LedgerError {
    LedgerError::Failed(match cause {
        TransactionError::Again(why) | TransactionError::Down(why) => why,
        TransactionError::Fenced => "another process runs as this node".to_owned(),
    })
}
