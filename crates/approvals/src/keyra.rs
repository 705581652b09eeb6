//! The KEYRA backend: one challenge per question, answered on the approver's device (approvals §6).
//!
//! KEYRA issues no token. The evidence is its statement over verified TLS: that it verified the device's attestation
//! when bursar asked, or, with `trust = "status"`, that the challenge is approved. Anything less clear is not an
//! approval.
//!
//! * `settings`: the operator's configuration. `webhook`: authenticating and reading webhooks. `challenge`: requests
//!   and responses. `errors`: error responses.
//! * `calls`: the API calls over HTTP. `watch`: the state of open challenges between two polls.

mod calls;
mod challenge;
mod errors;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod settings;
mod watch;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use challenge::ChallengeId;
pub use settings::{Action, ApiKey, BaseUrl, Echo, Environment, SettingsError, Trust};
pub use webhook::{Refused, SignatureFormat, Webhooks};

use super::{Asked, Backend, Denial, Failure, QuestionStatus, Reply};
use bursar_core::approval::{Evidence, EvidenceKind, Question};
use bursar_core::clock::SharedClock;
use bursar_net::tls::upstream::UpstreamTls;
use calls::{Answered, Service};
use challenge::{ChallengeAnswer, Difference, Order, Status};
use errors::Fault;
use watch::{Watch, Watches};

/// Longer webhooks are rejected.
pub const WEBHOOK_CAP: usize = 64 << 10;
/// A poll this long after the end may still find a decision made before it (approvals §7).
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// Longest time between two polls, unless KEYRA asks for more in `Retry-After`.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long to wait before repeating a rate-limited create, once. The agent is waiting too.
const CREATE_PAUSE: Duration = Duration::from_secs(5);
/// Consecutive unreadable responses that fail the question.
const UNREADABLE: u32 = 3;

/// `[approval.keyra]`. No `Debug`, because it holds keys.
pub struct KeyraSettings {
    pub base_url: BaseUrl,
    pub key: ApiKey,
    pub action: Action,
    pub trust: Trust,
    pub echo: Echo,
    /// Optional: an event only makes bursar poll sooner.
    pub webhooks: Option<Webhooks>,
    /// Time between two polls.
    pub interval: Duration,
    /// Time limit for one call, from the DNS lookup to the last byte of the response.
    pub patience: Duration,
}

impl KeyraSettings {
    /// With the defaults of approvals §12.
    pub fn new(base_url: BaseUrl, key: ApiKey) -> Self {
        Self {
            base_url,
            key,
            action: Action::default(),
            trust: Trust::default(),
            echo: Echo::default(),
            webhooks: None,
            interval: Duration::from_secs(3),
            patience: Duration::from_secs(10),
        }
    }
}

/// The backend.
pub struct Keyra {
    service: Service,
    action: Action,
    trust: Trust,
    echo: Echo,
    webhooks: Option<Webhooks>,
    interval: Duration,
    watches: Watches,
    clock: SharedClock,
}

/// The result of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Poll this challenge now. Its id is the question's handle.
    Wake(ChallengeId),
    Passed(Passed),
    Refused(Refused),
}

/// Why an authentic webhook has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    OtherEvent,
    Repeated,
    /// Another proxy's challenge, or one asked before a restart and not polled since.
    UnknownChallenge,
}

impl Received {
    /// The status to respond to KEYRA with. It must not reveal which challenges are known here.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Wake(_) | Self::Passed(_) => StatusCode::OK,
            Self::Refused(Refused::Signature) => StatusCode::UNAUTHORIZED,
            Self::Refused(Refused::NotAnEvent) => StatusCode::BAD_REQUEST,
            Self::Refused(Refused::NotConfigured) => StatusCode::NOT_FOUND,
        }
    }
}

impl Keyra {
    pub fn new(settings: KeyraSettings, tls: Arc<UpstreamTls>, clock: SharedClock) -> Self {
        let KeyraSettings {
            base_url,
            key,
            action,
            trust,
            echo,
            webhooks,
            interval,
            patience,
        } = settings;
        Self {
            service: Service {
                base: base_url,
                key,
                tls,
                patience,
            },
            action,
            trust,
            echo,
            webhooks,
            interval: interval.clamp(Duration::from_secs(1), LONGEST_PAUSE),
            watches: Watches::default(),
            clock,
        }
    }

    /// Handles a request to the webhook's path; bodies over [`WEBHOOK_CAP`] are rejected. Decides nothing.
    pub fn receive(&self, headers: &HeaderMap, body: &[u8]) -> Received {
        let now = self.clock.now();
        let event = match &self.webhooks {
            None => Err(Refused::NotConfigured),
            Some(_) if body.len() > WEBHOOK_CAP => Err(Refused::NotAnEvent),
            Some(webhooks) => webhooks.event(headers, body, now),
        };
        match event {
            Ok(event) => self.watches.receive(event, now),
            Err(why) => Received::Refused(why),
        }
    }

    async fn ask(&self, question: &Question) -> Result<Asked, Failure> {
        let order = self.order(question)?;
        let created = match self.service.create(&order).await {
            // KEYRA has received nothing, so a retry cannot ask twice.
            Err(Fault::Unsent) => self.service.create(&order).await,
            Err(Fault::RateLimited { retry_after }) if retry_after.is_none_or(|wait| wait <= CREATE_PAUSE) => {
                tokio::time::sleep(retry_after.unwrap_or(Duration::from_secs(1))).await;
                self.service.create(&order).await
            }
            created => created,
        };
        let answer = created.map_err(of_create)?.answer;
        compare(&order, &answer, Echo::IfGiven)?;
        if answer.status != Status::Pending {
            return Err(failure("not_pending_at_start", true));
        }
        let (Some(id), Some(ends)) = (answer.id.as_deref().and_then(ChallengeId::parse), answer.expires_at) else {
            return Err(failure("start_unknown", true));
        };
        let now = self.clock.now();
        let asked_for = SignedDuration::from_secs(i64::try_from(order.expires_in()).unwrap_or(0));
        let expires_at = ends.min(now.checked_add(asked_for).unwrap_or(now));
        if expires_at <= now {
            // This also happens if one of the two clocks is wrong.
            return Err(failure("expired_at_start", true));
        }
        self.watches.watch(&id, expires_at, now);
        Ok(Asked {
            handle: id.to_string(),
            expires_at,
            interval: self.interval,
            failures: 0,
        })
    }

    async fn look(&self, question: &Question, asked: &mut Asked) -> QuestionStatus {
        let Some(id) = ChallengeId::parse(&asked.handle) else {
            return QuestionStatus::Failed(failure("bad_handle", false));
        };
        let watch = self.watches.watch(&id, asked.expires_at, self.clock.now());
        let found = match self.find(question, &id, &watch, asked.expires_at).await {
            Ok(question_status) => {
                asked.failures = 0;
                self.watches.note_unreadable(&id, 0);
                question_status
            }
            Err(fault) => self.of_fault(fault, &id, &watch, asked),
        };
        let question_status = match found {
            // A late approval may have been given after the end, so it does not count.
            QuestionStatus::Pending { .. } | QuestionStatus::Approved(_) if self.is_late(asked.expires_at) => {
                QuestionStatus::Expired
            }
            found => found,
        };
        if !matches!(question_status, QuestionStatus::Pending { .. }) {
            self.watches.forget(&id);
        }
        question_status
    }

    /// The state of the challenge according to KEYRA.
    async fn find(
        &self,
        question: &Question,
        id: &ChallengeId,
        watch: &Watch,
        ends: Timestamp,
    ) -> Result<QuestionStatus, Fault> {
        let order = match self.order(question) {
            Ok(order) => order,
            Err(failure) => return Ok(QuestionStatus::Failed(failure)),
        };
        let seen = self.service.look(id).await?;
        let status = match said(&order, &seen.answer, id, self.echo) {
            Ok(status) => status,
            Err(failure) => return Ok(QuestionStatus::Failed(failure)),
        };
        // Prefer the attestation in KEYRA's response: the one from a webhook may be older.
        let attestation = seen.answer.attestation.as_ref().or(watch.attestation.as_ref());
        let (kind, answers) = match (status, attestation) {
            (Status::Pending | Status::Approved, Some(attestation)) => {
                let verified = self.service.verify(id, attestation).await?;
                match said(&order, &verified.answer, id, Echo::IfGiven) {
                    Ok(Status::Approved) => (EvidenceKind::KeyraVerified, vec![seen, verified]),
                    Ok(other) => return Ok(self.undecided(other, ends)),
                    Err(failure) => return Ok(QuestionStatus::Failed(failure)),
                }
            }
            (Status::Approved, None) => match self.trust {
                Trust::Status => (EvidenceKind::KeyraStatus, vec![seen]),
                // A webhook may still bring the attestation.
                Trust::Verify if self.webhooks.is_some() && !self.is_late(ends) => return Ok(self.pending()),
                Trust::Verify => return Ok(QuestionStatus::Failed(failure("attestation_missing", false))),
            },
            (other, _) => return Ok(self.undecided(other, ends)),
        };
        let evidence = self.evidence(kind, &order, id, &answers, watch);
        Ok(QuestionStatus::Approved(Box::new(evidence)))
    }

    /// The status of a challenge that is not approved.
    fn undecided(&self, status: Status, ends: Timestamp) -> QuestionStatus {
        match status {
            Status::Pending => self.pending(),
            // KEYRA reports a timeout as "rejected" too.
            Status::Rejected if self.clock.now() >= ends => QuestionStatus::Expired,
            Status::Rejected => QuestionStatus::Denied(Denial::default()),
            Status::Expired => QuestionStatus::Expired,
            Status::Used => QuestionStatus::Failed(failure("challenge_already_used", true)),
            Status::Approved | Status::Unknown => QuestionStatus::Failed(failure("unknown_status", false)),
        }
    }

    fn of_fault(&self, fault: Fault, id: &ChallengeId, watch: &Watch, asked: &mut Asked) -> QuestionStatus {
        let retry_after = match fault {
            Fault::Expired => return QuestionStatus::Expired,
            Fault::Refused(code) => return QuestionStatus::Failed(code.failure()),
            Fault::RateLimited { retry_after } | Fault::Unavailable { retry_after } => retry_after,
            Fault::Unsent | Fault::Unanswered | Fault::Unreadable => None,
        };
        let unreadable = match fault {
            Fault::Unreadable => watch.unreadable + 1,
            _ => 0,
        };
        if unreadable >= UNREADABLE {
            return QuestionStatus::Failed(failure("bad_response", true));
        }
        self.watches.note_unreadable(id, unreadable);
        asked.failures = asked.failures.saturating_add(1);
        let doubled = 2_u32
            .checked_pow(asked.failures)
            .and_then(|times| asked.interval.checked_mul(times))
            .map_or(LONGEST_PAUSE, |wait| wait.min(LONGEST_PAUSE));
        QuestionStatus::Pending {
            wait: doubled.max(retry_after.unwrap_or_default()),
        }
    }

    fn pending(&self) -> QuestionStatus {
        QuestionStatus::Pending { wait: self.interval }
    }

    fn is_late(&self, ends: Timestamp) -> bool {
        self.clock.now().duration_since(ends) > GRACE
    }

    fn order(&self, question: &Question) -> Result<Order, Failure> {
        Order::of(question, &self.action).ok_or_else(|| failure("intent_unreadable", false))
    }

    fn evidence(
        &self,
        kind: EvidenceKind,
        order: &Order,
        id: &ChallengeId,
        answers: &[Answered],
        watch: &Watch,
    ) -> Evidence {
        let answers: Vec<_> = answers
            .iter()
            .map(|answered| {
                json!({
                    "call": answered.call,
                    "body": answered.text,
                    "sha256": sha256(&answered.text),
                })
            })
            .collect();
        Evidence {
            kind,
            approver: order.user_id().to_owned(),
            decided_at: self.clock.now(),
            // The challenge's expiry limits when it can be answered, not how long the answer is good.
            good_until: None,
            replay_key: sha256(&format!("keyra:{id}")),
            proof: json!({
                "service": self.service.base.to_string(),
                "challenge": id.as_str(),
                "answers": answers,
                "event": watch.event,
            }),
        }
    }
}

impl Backend for Keyra {
    fn name(&self) -> &'static str {
        "keyra"
    }

    fn start<'a>(&'a self, question: &'a Question) -> Reply<'a, Result<Asked, Failure>> {
        Box::pin(self.ask(question))
    }

    fn poll<'a>(&'a self, question: &'a Question, asked: &'a mut Asked) -> Reply<'a, QuestionStatus> {
        Box::pin(self.look(question, asked))
    }
}

/// The status in a response, after checking that it is about this challenge and this payment.
fn said(order: &Order, answer: &ChallengeAnswer, id: &ChallengeId, echo: Echo) -> Result<Status, Failure> {
    if !answer.is_about(id) {
        return Err(failure("echo_mismatch:id", false));
    }
    compare(order, answer, echo)?;
    Ok(answer.status)
}

fn compare(order: &Order, answer: &ChallengeAnswer, echo: Echo) -> Result<(), Failure> {
    order.compare(answer, echo).map_err(|difference| match difference {
        Difference::Other(member) => failure(&format!("echo_mismatch:{member}"), false),
        Difference::Missing(member) => failure(&format!("echo_missing:{member}"), false),
    })
}

/// A create that may have arrived is not repeated: KEYRA could not recognize the duplicate (approvals §6.2).
fn of_create(fault: Fault) -> Failure {
    match fault {
        Fault::Unsent => failure("unreachable", true),
        Fault::RateLimited { .. } => failure("rate_limit_exceeded", true),
        Fault::Unanswered | Fault::Unavailable { .. } | Fault::Unreadable => failure("start_unknown", true),
        Fault::Expired => failure("challenge_expired", true),
        Fault::Refused(code) => code.failure(),
    }
}

fn failure(code: &str, retryable: bool) -> Failure {
    Failure {
        code: code.to_owned(),
        retryable,
    }
}

fn sha256(text: &str) -> String {
    alloy_primitives::hex::encode(Sha256::digest(text))
}
