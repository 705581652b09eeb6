//! Requests that may repeat one whose payment is outstanding (R3 to R5): such a request presents the same credential
//! again instead of buying anew, joins a purchase whose agent hung up, or is answered with what is known. A request
//! with an `Idempotency-Key` repeats only what was paid under that key (R6, `keyed.rs`).
//!
//! [`RepeatGuard`] checks three times: before the request is forwarded, after a 402, and before a purchase.

mod keyed;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::request::Parts;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::idempotency::{self, Claim, IdempotencyKeys, Key, Unusable};
use super::presentation::{AgentAnswer, Presentation};
use crate::answer::{Code, Problem};
use bursar_core::agent_name::AgentName;
use bursar_core::hop::{self, Presented};
use bursar_ledger::{Event, Ledger, PaymentId, State};
use bursar_net::body::{BufferedBody, Replay};
use bursar_net::upstream::{Lane, Origin};
use bursar_rails::outstanding::{self, Asked, Fingerprint, Outstanding, Presentable, Target};
use bursar_rails::pay::Permission;
pub(crate) use keyed::already_paid;

/// The state by which repeats are recognised.
pub(crate) struct Repeats {
    pub outstanding: Outstanding,
    pub keys: IdempotencyKeys,
    pub ledger: Arc<dyn Ledger>,
    pub settle_wait: Duration,
    pub tasks: TaskTracker,
}

/// The three checks of one request.
pub(crate) struct RepeatGuard<'a> {
    repeats: &'a Repeats,
    lane: &'a Arc<Lane>,
    head: &'a Parts,
    key: Result<Option<Key>, Unusable>,
    /// Whether a payment was known when the request was forwarded: a 402 from before the payment says nothing about it.
    asked: Asked,
}

/// What a request finds when it is about to buy.
pub(crate) enum Turn {
    /// It may buy, under its key if it has one.
    Buy(Option<Claim>),
    /// It repeats another request, and this is its answer.
    Answered(AgentAnswer),
}

/// What is known about a request without a key.
enum Repeat {
    New,
    /// The agent of its purchase hung up, and the purchase is still running.
    Join(watch::Receiver<()>),
    Present(Box<Presentable>),
    Refuse(Problem),
}

/// The target of a request, by which repeats are recognised.
pub(crate) fn target(agent: &AgentName, origin: &Origin, head: &Parts) -> Target {
    Target::of(
        agent.as_str(),
        head.method.as_str(),
        origin.scheme.as_str(),
        &origin.authority.to_string(),
        head.uri.path_and_query().map_or("/", |target| target.as_str()),
    )
}

impl<'a> RepeatGuard<'a> {
    pub(crate) fn new(repeats: &'a Repeats, lane: &'a Arc<Lane>, head: &'a Parts) -> Self {
        // An agent that pays by itself (R31) looks after its own repeats, with or without a key.
        let key = match hop::agent_payment(&head.headers) {
            Some(_) => Ok(None),
            None => Key::of(lane.agent(), &head.headers),
        };
        let asked = match key {
            Ok(Some(key)) if repeats.keys.holder(key).is_some() => Asked::Again,
            _ => Asked::Nothing,
        };
        Self {
            repeats,
            lane,
            head,
            key,
            asked,
        }
    }

    /// `None` if the request repeats nothing; its body is then forwarded as if it had not been read.
    pub(crate) async fn before_forwarding(&self, body: &BufferedBody) -> Option<AgentAnswer> {
        // Boxed: waiting for another request needs much room, and hardly any request does it.
        match self.key {
            Ok(Some(key)) => Box::pin(self.keyed_before_forwarding(body, key)).await,
            Ok(None) | Err(_) => {
                let target = self.concerned()?;
                Box::pin(self.unkeyed(body, target)).await
            }
        }
    }

    /// `None` to buy.
    pub(crate) async fn after_402(&self, body: &BufferedBody) -> Option<AgentAnswer> {
        match self.key {
            Ok(Some(key)) => self.keyed_after_402(body, key).await,
            Ok(None) | Err(_) => None,
        }
    }

    /// A payment must not depend on an unusable key.
    pub(crate) fn require_usable_key(&self) -> Result<(), Problem> {
        match &self.key {
            Ok(_) => Ok(()),
            Err(why) => Err(unusable(*why)),
        }
    }

    /// Waits for the request's turn to buy.
    pub(crate) async fn before_purchase(&self, replay: &Replay) -> Turn {
        let claim = match self.key {
            Ok(Some(key)) => match self.claim(replay, key).await {
                Ok(claim) => Some(claim),
                Err(answer) => return Turn::Answered(answer),
            },
            Ok(None) => None,
            Err(why) => return Turn::Answered(Err(unusable(why))),
        };
        match self.repeats.forbids(self.head, self.target(), replay).await {
            Some(problem) => Turn::Answered(Err(problem)),
            None => Turn::Buy(claim),
        }
    }

    /// Hashed only when something may be repeated: most requests cost nothing.
    fn target(&self) -> Target {
        target(self.lane.agent(), self.lane.origin(), self.head)
    }

    /// The request's target, if a payment for it is outstanding.
    fn concerned(&self) -> Option<Target> {
        let outstanding = &self.repeats.outstanding;
        // An agent that pays by itself (R31) is never paid for, and its credential is not replaced.
        if !outstanding.any() || hop::agent_payment(&self.head.headers).is_some() {
            return None;
        }
        let target = self.target();
        outstanding.concern(&target).then_some(target)
    }

    async fn unkeyed(&self, body: &BufferedBody, target: Target) -> Option<AgentAnswer> {
        // A body too large to be held was never paid for, so this is not a repeat.
        let replay = body.collect().await.ok()?;
        let fingerprint = target.with_body(&replay.sha256);
        loop {
            match self.repeats.look(target, fingerprint) {
                Repeat::New => return None,
                Repeat::Join(mut over) => {
                    // It ends by itself after `settle_wait`; this bound is a safeguard.
                    let bound = self.repeats.settle_wait * 2;
                    if timeout(bound, over.changed()).await.is_err() {
                        return None;
                    }
                }
                Repeat::Present(presentable) => return Some(self.present(replay, *presentable).await),
                Repeat::Refuse(problem) => return Some(Err(problem)),
            }
        }
    }

    /// Presents the same bytes at once, without asking for the price again. Its entry comes first (R61).
    async fn present(&self, replay: Replay, presentable: Presentable) -> AgentAnswer {
        let Presentable { rid, rail, number, .. } = presentable;
        let entry = Event::Presented { rid, number };
        if let Err(error) = self.repeats.ledger.append(entry).await {
            let detail = format!("{error}. Payment {rid} was not presented again; its state is unchanged.");
            return Err(Problem::new(Code::StoreUnavailable, detail)
                .payment(rid)
                .retryable(true));
        }
        tracing::info!(payment = %rid, agent = %self.lane.agent(), number, "presented again");
        let mut head = self.head.clone();
        let value = presentable.credential.header_value();
        let presented = Presented::of(&value);
        head.headers.insert(presentable.field, value);
        let presentation = Presentation {
            ledger: self.repeats.ledger.clone(),
            settle_wait: self.repeats.settle_wait,
            lane: self.lane.clone(),
            rid,
            rail,
            presented,
            usd: None,
            remaining: None,
            ticket: presentable.ticket,
            permission: Permission::Granted,
        };
        let (hand_over, answer) = oneshot::channel();
        let request = Request::from_parts(head, replay.into());
        self.repeats.tasks.spawn(presentation.run(request, hand_over));
        answer.await.unwrap_or_else(|_| Err(outcome_unknown(rid)))
    }
}

impl Repeats {
    fn look(&self, target: Target, fingerprint: Fingerprint) -> Repeat {
        match self.outstanding.claim(target, fingerprint) {
            outstanding::Claim::Free => Repeat::New,
            outstanding::Claim::Join(over) => Repeat::Join(over),
            outstanding::Claim::Present(presentable) => Repeat::Present(presentable),
            outstanding::Claim::OutcomeUnknown(rid) => Repeat::Refuse(outcome_unknown(rid)),
            outstanding::Claim::PaidNotDelivered(rid) => Repeat::Refuse(not_delivered(rid)),
        }
    }

    /// Why buying is forbidden: a payment for the same request has an unknown outcome, and its credential is lost. A
    /// request with an `Idempotency-Key` repeats only the payment of its own key, which the ledger enforces.
    pub(crate) async fn forbids(&self, head: &Parts, target: Target, replay: &Replay) -> Option<Problem> {
        if head.headers.contains_key(idempotency::FIELD) {
            return None;
        }
        self.forbids_fingerprint(target.with_body(&replay.sha256)).await
    }

    async fn forbids_fingerprint(&self, fingerprint: Fingerprint) -> Option<Problem> {
        let rid = self.outstanding.would_double(&fingerprint)?;
        let state = match self.ledger.get(rid).await {
            Ok(payment) => payment.map(|payment| payment.state),
            Err(_) => return Some(outcome_unknown(rid)),
        };
        match state {
            Some(State::Released | State::Expired) => {
                self.outstanding.forget_lost(&fingerprint);
                None
            }
            // Proven by the chain, for instance. Its answer was still never delivered (R4).
            Some(State::Settled) => Some(not_delivered(rid)),
            Some(State::Held | State::Armed | State::Unknown) | None => Some(outcome_unknown(rid)),
        }
    }
}

fn unusable(why: Unusable) -> Problem {
    let detail = format!(
        "The site asks for payment, and the request's Idempotency-Key {}, so a repeat could not be distinguished from \
         a new purchase. Nothing was paid. Send one key, or none.",
        why.why()
    );
    Problem::new(Code::IdempotencyKeyUnusable, detail).retryable(false)
}

fn outcome_unknown(rid: PaymentId) -> Problem {
    let detail = format!(
        "The outcome of payment {rid} for this same request is unknown: it was or may have been signed, and the \
         merchant may have taken it. It stays counted. A new purchase is possible once the request has not been \
         repeated for 15 minutes; `bursar payments resolve {rid}` settles it sooner."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(false)
}

fn not_delivered(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} for this same request is settled, but its answer did not arrive completely. Ask the merchant, \
         and quote the transaction that `bursar payments show {rid}` prints. A new purchase is possible once the \
         request has not been repeated for 15 minutes."
    );
    Problem::new(Code::PaidNotDelivered, detail)
        .payment(rid)
        .retryable(false)
}
