//! The statements for approvals: locks and reads what a batch needs of them, and writes what it has changed.

use std::collections::{BTreeSet, HashMap};

use tokio::try_join;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

use super::writes::counted;
use super::{Parameters, Session};
use crate::book::approvals::Subject;
use crate::model::ApprovalRow;
use crate::postgres::approvals::{
    ApprovalRows, Changes, Columns, Wanted, micros, read_denial, read_replay, read_row, subject_columns, subject_of,
    uuid,
};
use crate::postgres::rows::{TransactionError, id, node_id};
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;

pub(super) struct Statements {
    lock: Statement,
    replays: Statement,
    denials: Statement,
    yields: Statement,
    delete: Statement,
    update: Statement,
    insert: Statement,
    use_evidence: Statement,
    deny: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let p = async |text: &str| client.prepare(text).await;
        let c = async |text: &str, parameters: usize| client.prepare(&counted(text, parameters)).await;
        let (lock, replays, denials, yields, delete, update, insert, use_evidence, deny) = try_join!(
            p(
                "select node, approval from bursar.approval where id = any($1) or rid = any($2) \
               or (agent, intent) in (select * from unnest($3::text[], $4::bytea[])) order by id for update"
            ),
            p("select key, until from bursar.replay where key = any($1)"),
            p(
                "select agent, intent, until from bursar.denial where (agent, intent) in \
               (select * from unnest($1::text[], $2::bytea[]))"
            ),
            p("select rid, to_node from bursar.handover where from_node = $1 order by rid"),
            c("delete from bursar.approval where id = any($1)", 1),
            c(
                "update bursar.approval as a set rid = u.rid, agent = u.agent, intent = u.intent, approval = u.approval \
               from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[]) as u (id, rid, agent, intent, approval) \
               where a.id = u.id and a.node = $1",
                6,
            ),
            c(
                "insert into bursar.approval (id, node, rid, agent, intent, approval, codes) \
               select u.id, $1::int4, u.rid, u.agent, u.intent, u.approval, u.codes \
               from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[]) \
               as u (id, rid, agent, intent, approval, codes) \
               on conflict do nothing",
                7,
            ),
            c(
                "insert into bursar.replay as r (key, until) select * from unnest($1::bytea[], $2::int8[]) \
               on conflict (key) do update set until = excluded.until where r.until < $3::int8",
                3,
            ),
            c(
                "insert into bursar.denial as d (agent, intent, until) select * from unnest($1::text[], $2::bytea[], $3::int8[]) \
               on conflict (agent, intent) do update set until = excluded.until",
                3,
            ),
        )?;
        Ok(Self {
            lock,
            replays,
            denials,
            yields,
            delete,
            update,
            insert,
            use_evidence,
            deny,
        })
    }
}

impl Session {
    /// Locks the approvals that a batch is about, after its payments and before its counters; then reads what only the
    /// locks make certain.
    pub(in crate::postgres) async fn approvals(
        &self,
        me: u32,
        wanted: &Wanted,
    ) -> Result<ApprovalRows, TransactionError> {
        if wanted.is_empty() {
            return Ok(ApprovalRows::default());
        }
        let (client, statements, node) = (&self.client, &self.approvals, id(me));
        let uuids = |ids: &BTreeSet<PaymentId>| -> Vec<Uuid> { ids.iter().map(uuid).collect() };
        let (agents, intents) = subject_columns(wanted.subjects.iter());
        let (ids, rids) = (uuids(&wanted.ids), uuids(&wanted.rids));
        let found = client
            .query(&statements.lock, &[&ids, &rids, &agents, &intents])
            .await?;
        let rows = found.iter().map(read_row).collect::<Result<HashMap<_, _>, _>>()?;
        // Includes the subjects that a denial in this batch would record.
        let asked = rows.values().map(|(_, row)| subject_of(row));
        let subjects: BTreeSet<Subject> = wanted.subjects.iter().cloned().chain(asked).collect();
        let (agents, intents) = subject_columns(subjects.iter());
        let keys: Vec<&[u8]> = wanted.replays.iter().map(<[u8; 32]>::as_slice).collect();
        let (replays, denials, yields) = try_join!(
            biased;
            async {
                match keys.is_empty() {
                    true => Ok(Vec::new()),
                    false => client.query(&statements.replays, &[&keys]).await,
                }
            },
            async {
                match agents.is_empty() {
                    true => Ok(Vec::new()),
                    false => client.query(&statements.denials, &[&agents, &intents]).await,
                }
            },
            async {
                match wanted.subjects.is_empty() {
                    true => Ok(Vec::new()),
                    false => client.query(&statements.yields, &[&node]).await,
                }
            },
        )?;
        Ok(ApprovalRows {
            rows,
            replays: replays.iter().map(read_replay).collect::<Result<_, _>>()?,
            denials: denials.iter().map(read_denial).collect::<Result<_, _>>()?,
            yields: yields
                .iter()
                .map(|row| {
                    Ok((
                        PaymentId::from_bytes(row.try_get::<_, Uuid>(0)?.into_bytes()),
                        node_id(row.try_get(1)?),
                    ))
                })
                .collect::<Result<_, Error>>()?,
        })
    }

    /// What has ended is deleted first, to make room.
    pub(super) async fn write_approvals(
        &self,
        me: u32,
        live_rows: &HashMap<PaymentId, (u32, ApprovalRow)>,
        changes: &Changes,
        now: Moment,
    ) -> Result<(), TransactionError> {
        let (statements, node) = (&self.approvals, id(me));
        let (mut gone, mut known, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for (id, row) in &changes.rows {
            match (row, live_rows.contains_key(id)) {
                (None, true) => gone.push(uuid(id)),
                (None, false) => {}
                (Some(row), true) => known.push(row),
                (Some(row), false) => fresh.push(row),
            }
        }
        self.written(gone.len(), &statements.delete, &[&gone]).await?;
        let Columns {
            ids,
            rids,
            agents,
            intents,
            rows,
            ..
        } = Columns::of(known, &changes.codes)?;
        let known: Parameters<'_> = &[&node, &ids, &rids, &agents, &intents, &rows];
        self.written(ids.len(), &statements.update, known).await?;
        let Columns {
            ids,
            rids,
            agents,
            intents,
            rows,
            codes,
        } = Columns::of(fresh, &changes.codes)?;
        let fresh: Parameters<'_> = &[&node, &ids, &rids, &agents, &intents, &rows, &codes];
        self.written(ids.len(), &statements.insert, fresh).await?;
        let keys: Vec<&[u8]> = changes.replays.keys().map(<[u8; 32]>::as_slice).collect();
        let until: Vec<i64> = changes.replays.values().copied().map(micros).collect();
        let used: Parameters<'_> = &[&keys, &until, &micros(now)];
        self.written(keys.len(), &statements.use_evidence, used).await?;
        let (agents, intents) = subject_columns(changes.denials.keys());
        let until: Vec<i64> = changes.denials.values().copied().map(micros).collect();
        self.written(agents.len(), &statements.deny, &[&agents, &intents, &until])
            .await
    }
}
