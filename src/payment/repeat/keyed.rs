//! A request under an `Idempotency-Key` (R6). Once a payment was made under the key, nothing else is signed under it
//! for 24 h, unless the payment is proven dead:
//!
//! * another request: 422;
//! * the same one: wait for a payment under way; present one in doubt; forward after a delivered one, and present it again
//!   if the site wants money again; else 409. No body is kept, so no answer comes from here.

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{present, target};
use crate::answer::{Code, Problem};
use crate::listen::proxy::Proxy;
use crate::payment::exchange::unreachable;
use crate::payment::idempotency::{Claim, Claimed, Key};
use crate::payment::presentation::AgentAnswer;
use bursar_core::hop::{self, Upgrading};
use bursar_ledger::{KeyHold, LedgerError, Payment, PaymentId, State};
use bursar_net::body::{BufferedBody, NotReplayable, Progress, Relay, Replay};
use bursar_net::upstream::{Lane, stream};
use bursar_rails::outstanding::{Asked, Fingerprint, Paid};

/// Before the request is forwarded; `None` to go on. One whose body cannot be looked at goes on too: it is not paid for.
pub async fn before(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: &Parts,
    kept: &BufferedBody,
    key: Key,
) -> Option<AgentAnswer> {
    proxy.keys.holder(key)?;
    let replay = match kept.collect().await {
        Ok(replay) => Some(replay),
        Err(NotReplayable::TooLarge) => None,
        Err(NotReplayable::NoRoom | NotReplayable::Broken) => return None,
    };
    let request = Keyed::new(proxy, lane, head, replay.as_ref(), key);
    request.answer(Asked::Nothing).await
}

/// After the site has answered it with 402; `None` to buy. `asked` says whether a payment was known when it was forwarded:
/// a 402 that is older than the payment says nothing about it.
pub async fn after_402(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: &Parts,
    kept: &BufferedBody,
    key: Key,
    asked: Asked,
) -> Option<AgentAnswer> {
    proxy.keys.holder(key)?;
    let replay = match kept.take().await {
        Ok(replay) => Some(replay),
        Err(NotReplayable::TooLarge) => None,
        Err(NotReplayable::NoRoom | NotReplayable::Broken) => return None,
    };
    let request = Keyed::new(proxy, lane, head, replay.as_ref(), key);
    match asked {
        Asked::Nothing => request.after_another().await,
        Asked::Again => request.answer(Asked::Again).await,
    }
}

/// The right to buy under the key, or the answer that came of another's purchase.
pub async fn claim(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: &Parts,
    replay: &Replay,
    key: Key,
) -> Result<Claim, AgentAnswer> {
    let request = Keyed::new(proxy, lane, head, Some(replay), key);
    loop {
        let over = match proxy.keys.claim(key) {
            Claimed::Granted(claim) => return Ok(claim),
            Claimed::Busy(over) => over,
            Claimed::Held(_) => match request.after_another().await {
                Some(answer) => return Err(answer),
                None => continue,
            },
        };
        if !request.waited(over).await {
            let detail = "Another request under this Idempotency-Key is about to pay and does not come to an end. Nothing \
                          was paid for this one.";
            return Err(Err(Problem::new(Code::StoreUnavailable, detail).retryable(true)));
        }
    }
}

struct Keyed<'a> {
    proxy: &'a Arc<Proxy>,
    lane: &'a Arc<Lane>,
    head: &'a Parts,
    /// `None`: too large to be replayed, and so none that was ever paid for.
    replay: Option<&'a Replay>,
    key: Key,
}

impl<'a> Keyed<'a> {
    fn new(proxy: &'a Arc<Proxy>, lane: &'a Arc<Lane>, head: &'a Parts, replay: Option<&'a Replay>, key: Key) -> Self {
        Self {
            proxy,
            lane,
            head,
            replay,
            key,
        }
    }

    /// `None`: after `Asked::Nothing`, forward it; after `Asked::Again`, nobody holds the key any more.
    async fn answer(&self, asked: Asked) -> Option<AgentAnswer> {
        let target = target(self.lane, self.head);
        loop {
            let (hold, payment) = match self.held().await {
                Ok(held) => held?,
                Err(error) => return Some(Err(unknown(error))),
            };
            let Some(replay) = self
                .replay
                .filter(|replay| is_of(target.with_body(&replay.sha256), &hold))
            else {
                return Some(Err(reused(hold.rid)));
            };
            return match self.proxy.outstanding.claim_paid(hold.rid, target, asked) {
                Paid::Join(over) => {
                    tracing::debug!(payment = %hold.rid, "the same Idempotency-Key waits for the payment under way");
                    match self.waited(over).await {
                        true => continue,
                        false => Some(Err(under_way(hold.rid))),
                    }
                }
                Paid::Present(presentable) => {
                    Some(present(self.proxy, self.lane, self.head, replay.clone(), *presentable).await)
                }
                Paid::InDoubt(rid) => Some(Err(in_doubt(rid))),
                Paid::PaidNotDelivered(rid) => Some(Err(not_delivered(rid))),
                Paid::Rest if asked == Asked::Again => Some(Err(already_paid(hold.rid, payment.as_ref()))),
                Paid::Rest => None,
            };
        }
    }

    /// Its own 402 is older than the payment, so the site is asked once more, without a credential. `None`: nobody holds the
    /// key any more.
    async fn after_another(&self) -> Option<AgentAnswer> {
        if let Some(answer) = self.answer(Asked::Nothing).await {
            return Some(answer);
        }
        self.proxy.keys.holder(self.key)?;
        let request = Request::from_parts(self.head.clone(), self.replay?.clone().into());
        let mut response: Response<Relay> = match self.lane.send(request, &Progress::none()).await {
            Ok(response) => response,
            Err(error) => return Some(Err(unreachable(error))),
        };
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            return self.answer(Asked::Again).await;
        }
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let detail = "The site answered with another protocol where it had asked for money before.";
            return Some(Err(Problem::new(Code::UpstreamBroken, detail)));
        }
        hop::strip_response(response.headers_mut(), Upgrading::No);
        Some(Ok(stream(response)))
    }

    /// The payment that holds the key. One that is proven dead gives it back.
    async fn held(&self) -> Result<Option<(KeyHold, Option<Payment>)>, LedgerError> {
        let Some(hold) = self.proxy.keys.holder(self.key) else {
            return Ok(None);
        };
        let payment = self.proxy.ledger.get(hold.rid).await?;
        let state = payment.as_ref().map(|payment| payment.state);
        if matches!(state, Some(State::Released | State::Expired)) {
            self.proxy.keys.free(&hold);
            return Ok(None);
        }
        Ok(Some((hold, payment)))
    }

    /// Whether what was waited for came to an end (R5).
    async fn waited(&self, mut over: watch::Receiver<()>) -> bool {
        timeout(self.proxy.config.timeouts.settle_wait, over.changed())
            .await
            .is_ok()
    }
}

fn is_of(fingerprint: Fingerprint, hold: &KeyHold) -> bool {
    fingerprint.bytes() == hold.fingerprint
}

fn reused(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} was made for another request under this Idempotency-Key. Nothing was forwarded or paid for this one. \
         Use a key of its own for each request; a key stays taken for 24 hours after its payment."
    );
    Problem::new(Code::IdempotencyKeyReused, detail).retryable(false)
}

fn under_way(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} under this Idempotency-Key is under way, and its answer has not ended yet. Ask again; nothing else is \
         paid under this key."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(true)
}

fn in_doubt(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} under this Idempotency-Key was sent, and whether it was taken is not known. It stays counted. Nothing \
         else is paid under this key for 24 hours, unless `bursar payments resolve {rid}` or the chain says that it is dead."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(false)
}

fn not_delivered(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} under this Idempotency-Key is settled by the merchant's word, but its answer did not arrive whole. Ask \
         the merchant with the transaction that `bursar payments show {rid}` names. Nothing else is paid under this key for 24 \
         hours."
    );
    Problem::new(Code::PaidNotDelivered, detail)
        .payment(rid)
        .retryable(false)
}

/// The site wants money again for what was paid once; nothing is left to present.
pub fn already_paid(rid: PaymentId, payment: Option<&Payment>) -> Problem {
    let settled = payment.filter(|payment| payment.state == State::Settled);
    let known = match settled {
        Some(_) => "It is settled, and the site asks for money again",
        None => "Whether it was taken is not known, and the site asks for money again",
    };
    let detail = format!(
        "Payment {rid} was made for this same request under this Idempotency-Key. {known}. Nothing else is paid under this \
         key for 24 hours; use another one to buy again."
    );
    let problem = Problem::new(Code::AlreadyPaid, detail).payment(rid).retryable(false);
    match payment.and_then(|payment| payment.tx.as_deref()) {
        Some(tx) => problem.transaction(tx),
        None => problem,
    }
}

fn unknown(error: LedgerError) -> Problem {
    let detail =
        format!("What was paid under this Idempotency-Key cannot be looked up: {error}. Nothing was paid now.");
    Problem::new(Code::StoreUnavailable, detail).retryable(true)
}
