//! Approvals in the tables (R45): live ones, used evidence, and denials that are remembered.
//!
//! The register that all engines share decides what is allowed, based on the rows that were locked for it. The tables
//! only keep two nodes apart: a payment waits for one approval, an agent's intent is asked about once, and evidence is
//! used once. A node that finds another was faster decides again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use tokio_postgres::Row as SqlRow;
use uuid::Uuid;

use super::asks::Ask;
use super::rows::{Row, TransactionError, node_id};
use crate::book::approvals::{ReplayKey, Subject};
use crate::model::{ApprovalRow, ApprovalStep, Denied, State};
use crate::text::Moment;
use bursar_core::payment_id::PaymentId;

/// What a batch needs from the tables. A batch without approvals needs nothing.
#[derive(Default)]
pub(super) struct Wanted {
    pub ids: BTreeSet<PaymentId>,
    /// Payments whose approval may end.
    pub rids: BTreeSet<PaymentId>,
    /// What is about to be asked.
    pub subjects: BTreeSet<Subject>,
    pub replays: BTreeSet<ReplayKey>,
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
    /// The codes of new questions, as JSON.
    pub codes: BTreeMap<PaymentId, String>,
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

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.rids.is_empty()
    }
}

/// Values of `bursar.approval`, column by column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub ids: Vec<Uuid>,
    pub rids: Vec<Uuid>,
    pub agents: Vec<&'a str>,
    pub intents: Vec<&'a [u8]>,
    pub rows: Vec<String>,
    pub codes: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    /// Sorted, so that every node inserts in the same order: two nodes that ask the same things at once do not
    /// deadlock.
    pub(super) fn of(
        mut rows: Vec<&'a ApprovalRow>,
        codes: &'a BTreeMap<PaymentId, String>,
    ) -> Result<Self, TransactionError> {
        rows.sort_by(|one, other| (&one.agent, one.intent).cmp(&(&other.agent, other.intent)));
        let mut columns = Self::default();
        for row in rows {
            columns.ids.push(uuid(&row.id));
            columns.rids.push(uuid(&row.rid));
            columns.agents.push(&row.agent);
            columns.intents.push(&row.intent);
            let text = serde_json::to_string(row).map_err(|error| TransactionError::Down(error.to_string()))?;
            columns.rows.push(text);
            columns.codes.push(codes.get(&row.id).map(String::as_str));
        }
        Ok(columns)
    }
}

pub(super) fn subject_columns<'a>(subjects: impl Iterator<Item = &'a Subject>) -> (Vec<&'a str>, Vec<&'a [u8]>) {
    subjects
        .map(|subject| (subject.agent.as_str(), subject.intent.as_slice()))
        .unzip()
}

pub(super) fn subject_of(row: &ApprovalRow) -> Subject {
    Subject {
        agent: row.agent.clone(),
        intent: row.intent,
    }
}

pub(super) fn uuid(id: &PaymentId) -> Uuid {
    Uuid::from_bytes(*id.bytes())
}

/// `until` as the tables store it: in microseconds, the precision of an entry.
pub(super) fn micros(moment: Moment) -> i64 {
    moment.timestamp().as_microsecond()
}

/// node, approval
pub(super) fn read_row(row: &SqlRow) -> Result<(PaymentId, (u32, ApprovalRow)), TransactionError> {
    let approval = read_approval(row.try_get(1)?)?;
    Ok((approval.id, (node_id(row.try_get(0)?), approval)))
}

pub(super) fn read_approval(text: &str) -> Result<ApprovalRow, TransactionError> {
    serde_json::from_str(text).map_err(|error| damaged(&format!("an approval ({error})")))
}

/// key, until
pub(super) fn read_replay(row: &SqlRow) -> Result<(ReplayKey, Moment), TransactionError> {
    let key: &[u8] = row.try_get(0)?;
    let key = key.try_into().map_err(|_| damaged("the key of used evidence"))?;
    Ok((key, moment(row.try_get(1)?)?))
}

/// agent, intent, until
pub(super) fn read_denial(row: &SqlRow) -> Result<(Subject, Moment), TransactionError> {
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
