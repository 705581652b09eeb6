//! A request that may repeat one whose payment is in doubt (R3 to R5): it presents the same credential again instead
//! of buying anew, joins a purchase whose agent hung up, or is told of the doubt. One under an `Idempotency-Key` is a repeat
//! of what was paid under that key and of nothing else (R6, `keyed.rs`).

pub mod keyed;

use std::sync::Arc;

use http::Request;
use http::request::Parts;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::answer::{Code, Problem};
use crate::listen::proxy::Proxy;
use crate::payment::idempotency;
use crate::payment::presentation::{AgentAnswer, Presentation};
use bursar_core::hop;
use bursar_ledger::{Event, PaymentId, State};
use bursar_net::body::{BufferedBody, Replay};
use bursar_net::upstream::Lane;
use bursar_rails::outstanding::{Claim, Presentable, Target};
use bursar_rails::pay::Permission;

/// The target of a request, as repeats are recognised by it.
pub fn target(lane: &Lane, head: &Parts) -> Target {
    let origin = lane.origin();
    Target::of(
        lane.agent().as_str(),
        head.method.as_str(),
        origin.scheme.as_str(),
        &origin.authority.to_string(),
        head.uri.path_and_query().map_or("/", |target| target.as_str()),
    )
}

/// Answers a repeat; `None` for a request that is none, whose body then goes on as if it had not been looked at.
pub async fn answer(proxy: &Arc<Proxy>, lane: &Arc<Lane>, head: &Parts, kept: &BufferedBody) -> Option<AgentAnswer> {
    // An agent that pays by itself (R31) is never paid for, and its credential is not replaced.
    if !proxy.outstanding.any() || hop::agent_payment(&head.headers).is_some() {
        return None;
    }
    let target = target(lane, head);
    if !proxy.outstanding.concern(&target) {
        return None;
    }
    // A body that cannot be kept was never paid for, so this is no repeat.
    let replay = kept.collect().await.ok()?;
    let fingerprint = target.with_body(&replay.sha256);
    loop {
        match proxy.outstanding.claim(target, fingerprint) {
            Claim::Free => return None,
            Claim::Join(mut over) => {
                // It ends by itself after `settle_wait`; this bound is only for the case that it does not.
                let bound = proxy.config.timeouts.settle_wait * 2;
                if timeout(bound, over.changed()).await.is_err() {
                    return None;
                }
            }
            Claim::Present(presentable) => return Some(present(proxy, lane, head, replay, *presentable).await),
            Claim::InDoubt(rid) => return Some(Err(in_doubt(rid))),
            Claim::PaidNotDelivered(rid) => return Some(Err(not_delivered(rid))),
        }
    }
}

/// What forbids to buy: a payment for the same request is in doubt, and what would be presented again is lost. A request with an
/// `Idempotency-Key` is a repeat of its own key's payment alone, and the ledger sees to that.
pub async fn forbids(proxy: &Proxy, lane: &Lane, head: &Parts, replay: &Replay) -> Option<Problem> {
    if head.headers.contains_key(idempotency::FIELD) {
        return None;
    }
    let fingerprint = target(lane, head).with_body(&replay.sha256);
    let rid = proxy.outstanding.would_double(&fingerprint)?;
    let state = match proxy.ledger.get(rid).await {
        Ok(payment) => payment.map(|payment| payment.state),
        Err(_) => return Some(in_doubt(rid)),
    };
    match state {
        Some(State::Released | State::Expired) => {
            proxy.outstanding.forget_lost(&fingerprint);
            None
        }
        // By the chain's word, say. Its answer was never delivered all the same (R4).
        Some(State::Settled) => Some(not_delivered(rid)),
        Some(State::Held | State::Armed | State::Unknown) | None => Some(in_doubt(rid)),
    }
}

/// The same bytes at once, without asking for the price again. Its entry comes first (R61).
async fn present(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: &Parts,
    replay: Replay,
    presentable: Presentable,
) -> AgentAnswer {
    let Presentable { rid, rail, number, .. } = presentable;
    let entry = Event::Presented { rid, number };
    if let Err(error) = proxy.ledger.append(entry).await {
        let detail = format!("{error}. Payment {rid} was not presented again and stays as it was.");
        return Err(Problem::new(Code::StoreUnavailable, detail)
            .payment(rid)
            .retryable(true));
    }
    tracing::info!(payment = %rid, agent = %lane.agent(), number, "presented again");
    let mut head = head.clone();
    head.headers
        .insert(presentable.field, presentable.credential.header_value());
    let presentation = Presentation {
        proxy: proxy.clone(),
        lane: lane.clone(),
        rid,
        rail,
        usd: None,
        ticket: presentable.ticket,
        permission: Permission::Granted,
    };
    let (hand_over, answer) = oneshot::channel();
    let request = Request::from_parts(head, replay.into());
    proxy.tasks.spawn(presentation.run(request, hand_over));
    answer.await.unwrap_or_else(|_| Err(in_doubt(rid)))
}

fn in_doubt(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} for this same request was signed, or may have been, and whether it was taken is not known. It stays counted. A new \
         purchase is made once nobody has asked for 15 minutes; `bursar payments resolve {rid}` decides it before that."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(false)
}

fn not_delivered(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} for this same request is settled, but its answer did not arrive whole. Ask the merchant \
         with the transaction that `bursar payments show {rid}` names. A new purchase is made once nobody has \
         asked for 15 minutes."
    );
    Problem::new(Code::PaidNotDelivered, detail)
        .payment(rid)
        .retryable(false)
}
