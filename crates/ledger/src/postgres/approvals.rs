//! Approvals in the tables (R45): live ones, used evidence, and denials that are remembered.
//!
//! The register that all engines share decides what is allowed, based on the rows that were locked for it. The tables
//! only keep two nodes apart: a payment waits for one approval, an agent's intent is asked about once, and evidence is
//! used once. A node that finds another was faster decides again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use tokio::try_join;
use tokio_postgres::{Client, Error, Row as SqlRow, Statement};
use uuid::Uuid;

use super::asks::Ask;
use super::rows::{Row, TransactionError, id, node_id};
use super::session::{Parameters, Session};
use crate::book::approvals::{ReplayKey, Subject};
use crate::model::{ApprovalRow, ApprovalStep, Denied, State};
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;

/// What a batch needs from the tables. A batch without approvals needs nothing.
#[derive(Default)]
pub(super) struct Wanted {
    ids: BTreeSet<PaymentId>,
    /// Payments whose approval may end.
    rids: BTreeSet<PaymentId>,
    /// What is about to be asked.
    subjects: BTreeSet<Subject>,
    replays: BTreeSet<ReplayKey>,
}

/// What was read under the locks.
#[derive(Default)]
pub(super) struct ApprovalRows {
    /// With the node that asked.
    pub rows: HashMap<PaymentId, (u32, ApprovalRow)>,
    pub replays: Vec<(ReplayKey, Moment)>,
    pub denials: Vec<(Subject, Moment)>,
    /// Payments that are still ours according to our log, and the nodes that own them now. Only read before something
    /// is asked.
    pub yields: Vec<(PaymentId, u32)>,
}

/// What a batch has to write.
#[derive(Default)]
pub(super) struct Changes {
    /// `None`: it has ended.
    pub rows: BTreeMap<PaymentId, Option<ApprovalRow>>,
    pub replays: BTreeMap<ReplayKey, Moment>,
    pub denials: BTreeMap<Subject, Moment>,
}

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

impl Wanted {
    pub(super) fn of<'t>(asks: impl Iterator<Item = &'t Ask>, payments: &HashMap<PaymentId, Row>) -> Self {
        let mut wanted = Self::default();
        for ask in asks {
            let Ask::Approval(step) = ask else {
                continue;
            };
            wanted.ids.insert(step.id());
            match &**step {
                ApprovalStep::Requested(requested) => {
                    wanted.rids.insert(requested.rid);
                    wanted.subjects.insert(Subject {
                        agent: requested.agent.clone(),
                        intent: requested.intent,
                    });
                }
                ApprovalStep::Granted { replay, .. } => {
                    wanted.replays.insert(*replay);
                }
                ApprovalStep::Refused { .. } | ApprovalStep::Expired { .. } => {}
            }
        }
        // Only a held payment can wait for a person.
        let held = payments.iter().filter(|(_, row)| row.payment.state == State::Held);
        wanted.rids.extend(held.map(|(rid, _)| *rid));
        wanted
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.rids.is_empty()
    }
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        let p = |text: &'static str| client.prepare(text);
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
            p("delete from bursar.approval where id = any($1)"),
            p(
                "update bursar.approval as a set rid = u.rid, agent = u.agent, intent = u.intent, approval = u.approval \
               from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[]) as u (id, rid, agent, intent, approval) \
               where a.id = u.id and a.node = $1"
            ),
            p("insert into bursar.approval (id, node, rid, agent, intent, approval) \
               select u.id, $1, u.rid, u.agent, u.intent, u.approval \
               from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[]) as u (id, rid, agent, intent, approval) \
               on conflict do nothing"),
            p(
                "insert into bursar.replay as r (key, until) select * from unnest($1::bytea[], $2::int8[]) \
               on conflict (key) do update set until = excluded.until where r.until < $3"
            ),
            p(
                "insert into bursar.denial as d (agent, intent, until) select * from unnest($1::text[], $2::bytea[], $3::int8[]) \
               on conflict (agent, intent) do update set until = excluded.until"
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
    pub(super) async fn approvals(&self, me: u32, wanted: &Wanted) -> Result<ApprovalRows, TransactionError> {
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
        standing: &HashMap<PaymentId, (u32, ApprovalRow)>,
        changes: &Changes,
        now: Moment,
    ) -> Result<(), TransactionError> {
        let (statements, node) = (&self.approvals, id(me));
        let (mut gone, mut known, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        for (id, row) in &changes.rows {
            match (row, standing.contains_key(id)) {
                (None, true) => gone.push(uuid(id)),
                (None, false) => {}
                (Some(row), true) => known.push(row),
                (Some(row), false) => fresh.push(row),
            }
        }
        self.written(gone.len(), &statements.delete, &[&gone]).await?;
        for (rows, statement) in [(known, &statements.update), (fresh, &statements.insert)] {
            let Columns {
                ids,
                rids,
                agents,
                intents,
                rows,
            } = Columns::of(rows)?;
            self.written(ids.len(), statement, &[&node, &ids, &rids, &agents, &intents, &rows])
                .await?;
        }
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

/// Values of `bursar.approval`, column by column.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    rids: Vec<Uuid>,
    agents: Vec<&'a str>,
    intents: Vec<&'a [u8]>,
    rows: Vec<String>,
}

impl<'a> Columns<'a> {
    /// Sorted, so that every node inserts in the same order: two nodes that ask the same things at once do not
    /// deadlock.
    fn of(mut rows: Vec<&'a ApprovalRow>) -> Result<Self, TransactionError> {
        rows.sort_by(|one, other| (&one.agent, one.intent).cmp(&(&other.agent, other.intent)));
        let mut columns = Self::default();
        for row in rows {
            columns.ids.push(uuid(&row.id));
            columns.rids.push(uuid(&row.rid));
            columns.agents.push(&row.agent);
            columns.intents.push(&row.intent);
            let text = serde_json::to_string(row).map_err(|error| TransactionError::Down(error.to_string()))?;
            columns.rows.push(text);
        }
        Ok(columns)
    }
}

fn subject_columns<'a>(subjects: impl Iterator<Item = &'a Subject>) -> (Vec<&'a str>, Vec<&'a [u8]>) {
    subjects
        .map(|subject| (subject.agent.as_str(), subject.intent.as_slice()))
        .unzip()
}

fn subject_of(row: &ApprovalRow) -> Subject {
    Subject {
        agent: row.agent.clone(),
        intent: row.intent,
    }
}

fn uuid(id: &PaymentId) -> Uuid {
    Uuid::from_bytes(*id.bytes())
}

/// `until` as the tables store it: in microseconds, the precision of an entry.
pub(super) fn micros(moment: Moment) -> i64 {
    moment.timestamp().as_microsecond()
}

/// node, approval
fn read_row(row: &SqlRow) -> Result<(PaymentId, (u32, ApprovalRow)), TransactionError> {
    let approval = read_approval(row.try_get(1)?)?;
    Ok((approval.id, (node_id(row.try_get(0)?), approval)))
}

pub(super) fn read_approval(text: &str) -> Result<ApprovalRow, TransactionError> {
    serde_json::from_str(text).map_err(|error| damaged(&format!("an approval ({error})")))
}

/// key, until
fn read_replay(row: &SqlRow) -> Result<(ReplayKey, Moment), TransactionError> {
    let key: &[u8] = row.try_get(0)?;
    let key = key.try_into().map_err(|_| damaged("the key of used evidence"))?;
    Ok((key, moment(row.try_get(1)?)?))
}

/// agent, intent, until
fn read_denial(row: &SqlRow) -> Result<(Subject, Moment), TransactionError> {
    let intent: &[u8] = row.try_get(1)?;
    let subject = Subject {
        agent: row.try_get(0)?,
        intent: intent.try_into().map_err(|_| damaged("what was denied"))?,
    };
    Ok((subject, moment(row.try_get(2)?)?))
}

pub(super) fn read_denied(row: &SqlRow) -> Result<Denied, TransactionError> {
    let (Subject { agent, intent }, until) = read_denial(row)?;
    Ok(Denied {
        agent,
        intent,
        until: until.timestamp(),
    })
}

fn moment(micros: i64) -> Result<Moment, TransactionError> {
    let time = Timestamp::from_microsecond(micros);
    time.map(Moment::of).map_err(|_| damaged("the time of an approval"))
}

fn damaged(what: &str) -> TransactionError {
    TransactionError::Down(format!("{what} in the database cannot be read"))
}
