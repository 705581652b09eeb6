//! Nodes that come and go: the start of one, its heartbeat, and what the others do for one that is silent (R211, R215).

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Error;
use uuid::Uuid;

use super::asks::{Ask, Task};
use super::commit::{CommitState, Unclear};
use super::connect::{NoConnection, explain};
use super::engine::{BATCH_OPS, Engine};
use super::node;
use super::rows::{id, node_id};
use super::session::Session;
use super::transaction::{TRANSACTION, Way};
use crate::entry::{Body, Opened};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::{PAYEE, SINCE_APPROVAL};

/// The most payments handled at one time; the rest follow with the next heartbeat.
const AT_ONCE: i64 = 256;

/// The time between two heartbeats.
pub(super) const BEAT: Duration = Duration::from_secs(10);

impl Engine {
    /// Connects, finds out what happened to a commit whose answer was lost, and the first time begins this node's
    /// epoch.
    pub(super) async fn establish(&mut self) -> Result<(), NoConnection> {
        let (client, dialect) = self.connector.connect().await?;
        let store = node::tables(&client, dialect).await?;
        let session = Session::prepare(client, dialect).await.map_err(NoConnection::of)?;
        let identity = node::identify(&session, &self.dir, self.identity, store).await?;
        self.identity = Some(identity);
        if self.epoch.is_none() {
            node::fill_up(&session, identity.node, &mut self.log).await?;
            // Nothing of it is kept unless all of it succeeds: the next try must begin the epoch anew, or what an earlier run
            // left open would not be looked at.
            let epoch = node::begin_epoch(&session, identity.node).await?;
            let version = node::entry_version(&session).await.map_err(NoConnection::of)?;
            let opened = Body::Opened(Opened {
                sw: concat!("bursar/", env!("CARGO_PKG_VERSION")).to_owned(),
                torn_bytes: self.torn.as_ref().map(|torn| torn.bytes),
                torn_sha256: self.torn.as_ref().map(|torn| torn.sha256),
            });
            let left = left_open(&session, identity.node).await.map_err(NoConnection::of)?;
            let yielded = handed_over(&session, identity.node).await.map_err(NoConnection::of)?;
            let asks = std::iter::once(Ask::Note(opened)).chain(yielded).chain(left);
            (self.epoch, self.log.version) = (Some(epoch), version);
            self.session = Some(session);
            return self.recover(asks.map(Task::for_nobody).collect()).await;
        }
        self.look_up(&session, identity.node).await?;
        self.session = Some(session);
        Ok(())
    }

    /// Before anything else: what an earlier run left behind.
    async fn recover(&mut self, tasks: Vec<Task>) -> Result<(), NoConnection> {
        for tasks in tasks.chunks(BATCH_OPS) {
            match self.attempt(tasks, Way::InSteps).await {
                Ok(done) => drop(self.take_in(done)),
                Err(_) => {
                    // Start over completely, because the log may have moved on, too.
                    (self.epoch, self.session) = (None, None);
                    return Err(NoConnection::Down("the start could not be recorded in it".to_owned()));
                }
            }
        }
        self.torn = None;
        Ok(())
    }

    /// What happened to the commit whose answer was lost.
    async fn look_up(&mut self, session: &Session, me: u32) -> Result<(), NoConnection> {
        // Waits until the transaction of the lost connection, which holds this row, has ended either way.
        let beat = "update bursar.node set heartbeat = now() where node_id = $1 and epoch = $2";
        let ours = session
            .client
            .execute(beat, &[&id(me), &self.epoch])
            .await
            .map_err(NoConnection::of)?;
        if ours == 0 {
            return Err(NoConnection::Refused(self.stop()));
        }
        let (mut expected, mut is_committed) = (self.log.chain, false);
        if let Some(unclear) = &self.unclear
            && let Some((seq, bytes)) = unclear.last()
        {
            is_committed = node::has(session, me, seq, bytes).await?;
            if is_committed {
                expected = unclear.done.lines.chain;
            }
            tracing::info!(
                is_committed,
                "found out what happened to the commit whose answer was lost"
            );
        }
        if node::chain(session, me).await? != expected {
            return Err(NoConnection::Refused(
                "it has lost what it had committed, as happens when a lagging standby takes over. Restore it; what is \
                 in audit/ shows what is missing there"
                    .to_owned(),
            ));
        }
        match self.unclear.take() {
            None => {}
            Some(unclear) if unclear.commit_state == CommitState::Reported && is_committed => {
                let give_up = unclear.rids.into_iter().map(Ask::GiveUp).map(Task::for_nobody);
                self.backlog.extend(give_up);
                self.take_in(unclear.done);
            }
            Some(unclear) if unclear.commit_state == CommitState::Reported => {}
            Some(unclear) => {
                let commit_state = if is_committed {
                    CommitState::Committed
                } else {
                    CommitState::RolledBack
                };
                self.unclear = Some(Unclear {
                    commit_state,
                    ..unclear
                });
            }
        }
        Ok(())
    }

    /// Reports that this node is alive, and takes over from those that are not.
    pub(super) async fn beat(&mut self) {
        let looked = timeout(TRANSACTION, self.look_around()).await;
        match looked {
            Ok(Ok(asks)) => self.perform(asks.into_iter().map(Task::for_nobody).collect()).await,
            Ok(Err(error)) => {
                tracing::warn!(
                    why = explain(&error),
                    "cannot send this node's heartbeat to the database"
                );
                self.session = None;
            }
            Err(_) => self.session = None,
        }
    }

    async fn look_around(&mut self) -> Result<Vec<Ask>, Error> {
        let (Some(session), Some(identity), Some(epoch)) = (&self.session, self.identity, self.epoch) else {
            return Ok(Vec::new());
        };
        let me = id(identity.node);
        let beat = "update bursar.node set heartbeat = now() where node_id = $1 and epoch = $2";
        if session.client.execute(beat, &[&me, &epoch]).await? == 0 {
            self.stop();
            return Ok(Vec::new());
        }
        self.log.version = node::entry_version(session).await?;
        let mut asks = handed_over(session, identity.node).await?;
        let rows = session
            .client
            .query(
                "select r.rid from bursar.resv r join bursar.node n on n.node_id = r.owner where r.state in (1, 2, 4) \
                 and n.node_id <> $1 and n.heartbeat < now() - interval '60 seconds' order by r.rid limit $2",
                &[&me, &AT_ONCE],
            )
            .await?;
        asks.extend(rids(&rows)?.into_iter().map(Ask::Adopt));
        // Delete what has expired: nonces that may be used again, and buckets that no window reaches.
        let now = self.time.read().now.as_second();
        session
            .client
            .execute("delete from bursar.idem where until < $1", &[&now])
            .await?;
        session
            .client
            .execute(
                "delete from bursar.nonce as n where n.free_at < $1 and not exists \
                 (select 1 from bursar.resv r where r.rid = n.rid and r.state in (1, 2, 4))",
                &[&now],
            )
            .await?;
        // A day late, because the clock of the node that wrote them may be behind.
        let day_ago = (now - 86_400) * 1_000_000;
        for faded in [
            "delete from bursar.replay where until < $1",
            "delete from bursar.denial where until < $1",
        ] {
            session.client.execute(faded, &[&day_ago]).await?;
        }
        // A proxy of version 1 that took the payment over knew nothing of its approval.
        let orphans = "delete from bursar.approval a using bursar.resv r where r.rid = a.rid and r.state <> 1";
        session.client.execute(orphans, &[]).await?;
        session
            .client
            .execute(
                "delete from bursar.bucket where open = 0 \
                 and start::int8 < $1 - 2 * substring(win from '[0-9]+$')::int8",
                &[&now],
            )
            .await?;
        // A payee that was never paid is not a known payee.
        session
            .client
            .execute(
                "delete from bursar.win where win = $1 and settled = 0 and open = 0",
                &[&PAYEE],
            )
            .await?;
        // The last approval of a scope stays, however old it is.
        session
            .client
            .execute(
                "delete from bursar.bucket as b where b.open = 0 and b.win = $1 and exists (select 1 from bursar.bucket as n \
                 where n.scope = b.scope and n.win = b.win and n.start > b.start)",
                &[&SINCE_APPROVAL],
            )
            .await?;
        Ok(asks)
    }
}

async fn left_open(session: &Session, me: u32) -> Result<Vec<Ask>, Error> {
    let rows = session
        .client
        .query(
            "select rid from bursar.resv where owner = $1 and state in (1, 2) order by rid",
            &[&id(me)],
        )
        .await?;
    Ok(rids(&rows)?.into_iter().map(Ask::Restart).collect())
}

async fn handed_over(session: &Session, me: u32) -> Result<Vec<Ask>, Error> {
    let rows = session
        .client
        .query(
            "select rid, to_node from bursar.handover where from_node = $1 order by rid limit $2",
            &[&id(me), &AT_ONCE],
        )
        .await?;
    let ask = |row: &tokio_postgres::Row| {
        let rid = PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes());
        let to = node_id(row.try_get(1)?);
        Ok(Ask::Yield { rid, to })
    };
    rows.iter().map(ask).collect()
}

fn rids(rows: &[tokio_postgres::Row]) -> Result<Vec<PaymentId>, Error> {
    rows.iter()
        .map(|row| Ok(PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes())))
        .collect()
}
