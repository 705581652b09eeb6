//! Lists payments that wait for the operator's approval, and takes the operator's decision.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::Admin;
use super::door::{Door, post};
use super::{AdminError, Question, decider, read};
use bursar_approvals::questions::{Pending, Questions};
use bursar_ledger::PaymentId;

pub(super) const PENDING: &str = "/approvals/pending";
/// Enough for hundreds of agents with a few questions each.
const CAP: usize = 4 << 20;
/// Fits into an entry together with its other members.
const LONGEST_WHY: usize = 500;

/// `bursar approve`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Approve {
    pub id: String,
    pub code: String,
}

/// `bursar deny`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deny {
    pub id: String,
    pub why: String,
}

impl Question for Approve {
    const PATH: &'static str = "/approvals/approve";
}

impl Question for Deny {
    const PATH: &'static str = "/approvals/deny";
}

/// The pending questions, and whether an approval backend is configured at all.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    asks: bool,
    pending: Vec<Pending>,
}

/// Asks the running server which payments wait for approval; `None` if its bursar.toml configures no backend.
pub(crate) async fn pending(door: &Door) -> Result<Option<Vec<Pending>>, AdminError> {
    let open: Open = post(door, PENDING, &(), CAP).await?;
    Ok(open.asks.then_some(open.pending))
}

pub(super) fn list(admin: &Admin) -> Response<Full<Bytes>> {
    listed(admin, |question| question)
}

/// For people who may see what waits, and may not approve it.
pub(super) fn list_without_codes(admin: &Admin) -> Response<Full<Bytes>> {
    listed(admin, without_code)
}

/// The sentence ends with the code, too.
fn without_code(question: Pending) -> Pending {
    let sentence = match question.code.as_str() {
        "" => question.sentence,
        code => question.sentence.replace(code, "********"),
    };
    Pending {
        code: String::new(),
        sentence,
        ..question
    }
}

fn listed(admin: &Admin, shown: impl Fn(Pending) -> Pending) -> Response<Full<Bytes>> {
    let pending = admin.questions.as_ref().map(Questions::pending).unwrap_or_default();
    let open = Open {
        asks: admin.questions.is_some(),
        pending: pending.into_iter().map(shown).collect(),
    };
    Response::new(Full::from(serde_json::to_vec(&open).unwrap_or_default()))
}

/// The kernel says who approved; the request does not.
pub(super) async fn approve(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let Approve { id, code } = read(request).await?;
    let approved = questions(admin)?.approve(parse(&id)?, &code, decider(uid)).await;
    approved.map_err(|error| error.to_string())
}

pub(super) async fn deny(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let Deny { id, why } = read(request).await?;
    if why.chars().count() > LONGEST_WHY {
        return Err(format!("the reason is longer than {LONGEST_WHY} characters"));
    }
    let denied = questions(admin)?.deny(parse(&id)?, why, decider(uid)).await;
    denied.map_err(|error| error.to_string())
}

fn questions(admin: &Admin) -> Result<&Questions, String> {
    let questions = admin.questions.as_ref();
    questions.ok_or_else(|| "payments are not sent for approval: bursar.toml has no [approval] backend".to_owned())
}

fn parse(id: &str) -> Result<PaymentId, String> {
    PaymentId::parse(id).ok_or_else(|| format!("{id} is not an approval id; `bursar pending` lists them"))
}
