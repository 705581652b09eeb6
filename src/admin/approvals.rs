//! What waits for the operator, and the operator's word about it.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{AdminError, Question, decider, post, read};
use crate::listen::proxy::Proxy;
use bursar_approvals::questions::{Pending, Questions};
use bursar_home::Home;
use bursar_ledger::PaymentId;

pub const PENDING: &str = "/approvals/pending";
/// Hundreds of agents with a few questions each.
const CAP: usize = 4 << 20;
/// An entry has room for that and for what else stands in it.
const LONGEST_WHY: usize = 500;

/// `bursar approve`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Approve {
    pub id: String,
    pub code: String,
}

/// `bursar deny`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Deny {
    pub id: String,
    pub why: String,
}

impl Question for Approve {
    const PATH: &'static str = "/approvals/approve";
}

impl Question for Deny {
    const PATH: &'static str = "/approvals/deny";
}

/// What waits, and whether anybody can be asked at all.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    asks: bool,
    pending: Vec<Pending>,
}

/// What waits for a person, asked of the running server; `None`: its bursar.toml asks nobody.
pub async fn pending(home: &Home) -> Result<Option<Vec<Pending>>, AdminError> {
    let open: Open = post(home, PENDING, &(), CAP).await?;
    Ok(open.asks.then_some(open.pending))
}

pub fn list(proxy: &Proxy) -> Response<Full<Bytes>> {
    let open = Open {
        asks: proxy.questions.is_some(),
        pending: proxy.questions.as_ref().map(Questions::pending).unwrap_or_default(),
    };
    Response::new(Full::from(serde_json::to_vec(&open).unwrap_or_default()))
}

/// Who approved is what the kernel says, not what the question says.
pub async fn approve(proxy: &Proxy, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let Approve { id, code } = read(request).await?;
    let approved = questions(proxy)?.approve(parse(&id)?, &code, decider(uid)).await;
    approved.map_err(|error| error.to_string())
}

pub async fn deny(proxy: &Proxy, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let Deny { id, why } = read(request).await?;
    if why.chars().count() > LONGEST_WHY {
        return Err(format!("the reason is longer than {LONGEST_WHY} characters"));
    }
    let denied = questions(proxy)?.deny(parse(&id)?, why, decider(uid)).await;
    denied.map_err(|error| error.to_string())
}

fn questions(proxy: &Proxy) -> Result<&Questions, String> {
    let questions = proxy.questions.as_ref();
    questions.ok_or_else(|| "nobody is asked about payments: bursar.toml has no [approval] backend".to_owned())
}

fn parse(id: &str) -> Result<PaymentId, String> {
    PaymentId::parse(id).ok_or_else(|| format!("{id} is no question's id; `bursar pending` lists them"))
}
