//! Requests with an `Idempotency-Key` (R6). Once a payment was made under a key, nothing else is signed under it for
//! 24 h, unless the payment is proven never to be taken:
//!
//! * another request: 422;
//! * the same one: wait for a payment under way; present an outstanding one; forward after a delivered one, and present it
//!   again if the site asks for payment again; else 409. No answer is stored, so none is repeated from here.

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{RepeatGuard, Repeats};
use crate::answer::{Code, Problem};
use crate::payment::forward::send_again;
use crate::payment::idempotency::{Claim, Claimed, Key};
use crate::payment::presentation::AgentAnswer;
use bursar_ledger::{KeyHold, LedgerError, Payment, PaymentId, State};
use bursar_net::body::{BufferedBody, NotReplayable, Replay};
use bursar_net::upstream::stream;
use bursar_rails::outstanding::{Asked, Fingerprint, Paid};

impl RepeatGuard<'_> {
    /// `None` to continue. A request whose body cannot be read continues too: it is not paid for.
    pub(super) async fn keyed_before_forwarding(&self, body: &BufferedBody, key: Key) -> Option<AgentAnswer> {
        self.repeats.keys.holder(key)?;
        let replay = if_replayable(body.collect().await)?;
        self.under_key(replay.as_ref(), key, Asked::Nothing).await
    }

    /// After the site has answered with 402; `None` to buy.
    pub(super) async fn keyed_after_402(&self, body: &BufferedBody, key: Key) -> Option<AgentAnswer> {
        self.repeats.keys.holder(key)?;
        let replay = if_replayable(body.take().await)?;
        match self.asked {
            Asked::Nothing => self.after_another(replay.as_ref(), key).await,
            Asked::Again => self.under_key(replay.as_ref(), key, Asked::Again).await,
        }
    }

    /// The right to buy under the key, or the answer from the other purchase that holds it.
    pub(super) async fn claim(&self, replay: &Replay, key: Key) -> Result<Claim, AgentAnswer> {
        loop {
            let over = match self.repeats.keys.claim(key) {
                Claimed::Granted(claim) => return Ok(claim),
                Claimed::Busy(over) => over,
                Claimed::Held => match self.after_another(Some(replay), key).await {
                    Some(answer) => return Err(answer),
                    None => continue,
                },
            };
            if !self.repeats.waited(over).await {
                let detail = "Another request under this Idempotency-Key has not finished paying. Nothing was paid for \
                              this one.";
                return Err(Err(Problem::new(Code::StoreUnavailable, detail).retryable(true)));
            }
        }
    }

    /// `replay` is `None` for a body too large to be replayed, which was never paid for. The answer is `None`: after
    /// `Asked::Nothing`, forward the request; after `Asked::Again`, no payment holds the key any more.
    async fn under_key(&self, replay: Option<&Replay>, key: Key, asked: Asked) -> Option<AgentAnswer> {
        let target = self.target();
        loop {
            let (hold, payment) = match self.repeats.held(key).await {
                Ok(held) => held?,
                Err(error) => return Some(Err(not_looked_up(error))),
            };
            let same = |replay: &&Replay| is_of(target.with_body(&replay.sha256), &hold);
            let Some(replay) = replay.filter(same) else {
                return Some(Err(reused(hold.rid)));
            };
            return match self.repeats.outstanding.claim_paid(hold.rid, target, asked) {
                Paid::Join(over) => {
                    tracing::debug!(payment = %hold.rid, "the same Idempotency-Key waits for the payment under way");
                    match self.repeats.waited(over).await {
                        true => continue,
                        false => Some(Err(under_way(hold.rid))),
                    }
                }
                Paid::Present(presentable) => Some(self.present(replay.clone(), *presentable).await),
                Paid::OutcomeUnknown(rid) => Some(Err(outcome_unknown(rid))),
                Paid::PaidNotDelivered(rid) => Some(Err(not_delivered(rid))),
                Paid::Rest if asked == Asked::Again => Some(Err(already_paid(hold.rid, payment.as_ref()))),
                Paid::Rest => None,
            };
        }
    }

    /// Its 402 is older than the payment, so the site is asked again, without a credential. `None`: no payment holds
    /// the key any more.
    async fn after_another(&self, replay: Option<&Replay>, key: Key) -> Option<AgentAnswer> {
        if let Some(answer) = self.under_key(replay, key, Asked::Nothing).await {
            return Some(answer);
        }
        self.repeats.keys.holder(key)?;
        match send_again(self.lane, self.head, replay?).await {
            Ok(response) if response.status() == StatusCode::PAYMENT_REQUIRED => {
                self.under_key(replay, key, Asked::Again).await
            }
            Ok(response) => Some(Ok(stream(response))),
            Err(problem) => Some(Err(problem)),
        }
    }
}

impl Repeats {
    /// The payment that holds the key. If it is proven never to be taken, the key is free again.
    async fn held(&self, key: Key) -> Result<Option<(KeyHold, Option<Payment>)>, LedgerError> {
        let Some(hold) = self.keys.holder(key) else {
            return Ok(None);
        };
        let payment = self.ledger.get(hold.rid).await?;
        let state = payment.as_ref().map(|payment| payment.state);
        if matches!(state, Some(State::Released | State::Expired)) {
            self.keys.free(&hold);
            return Ok(None);
        }
        Ok(Some((hold, payment)))
    }

    /// Whether the awaited purchase ended in time (R5).
    async fn waited(&self, mut over: watch::Receiver<()>) -> bool {
        timeout(self.settle_wait, over.changed()).await.is_ok()
    }
}

/// `Some(None)`: too large to be replayed. `None`: the body cannot be read.
fn if_replayable(read: Result<Replay, NotReplayable>) -> Option<Option<Replay>> {
    match read {
        Ok(replay) => Some(Some(replay)),
        Err(NotReplayable::TooLarge) => Some(None),
        Err(NotReplayable::NoRoom | NotReplayable::Broken) => None,
    }
}

fn is_of(fingerprint: Fingerprint, hold: &KeyHold) -> bool {
    fingerprint.bytes() == hold.fingerprint
}

fn reused(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} was made for another request under this Idempotency-Key. Nothing was forwarded or paid for this one. \
         Use a different key for each request; a key stays taken for 24 hours after its payment."
    );
    Problem::new(Code::IdempotencyKeyReused, detail).retryable(false)
}

fn under_way(rid: PaymentId) -> Problem {
    let detail = format!(
        "Payment {rid} under this Idempotency-Key is still in progress. Send the request again later; nothing else is \
         paid under this key."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(true)
}

fn outcome_unknown(rid: PaymentId) -> Problem {
    let detail = format!(
        "The outcome of payment {rid} under this Idempotency-Key is unknown: it was sent, and the merchant may have \
         taken it. It stays counted. Nothing else is paid under this key for 24 hours, unless `bursar payments resolve \
         {rid}` or the chain proves that it was never taken."
    );
    Problem::new(Code::PaymentInDoubt, detail).payment(rid).retryable(false)
}

fn not_delivered(rid: PaymentId) -> Problem {
    let detail = format!(
        "The merchant says that payment {rid} under this Idempotency-Key is settled, but its answer did not arrive \
         completely. Ask the merchant, and quote the transaction that `bursar payments show {rid}` prints. Nothing \
         else is paid under this key for 24 hours."
    );
    Problem::new(Code::PaidNotDelivered, detail)
        .payment(rid)
        .retryable(false)
}

/// The site asks for payment again for what was paid once; nothing is left to present.
pub(crate) fn already_paid(rid: PaymentId, payment: Option<&Payment>) -> Problem {
    let settled = payment.filter(|payment| payment.state == State::Settled);
    let known = match settled {
        Some(_) => "It is settled, and the site asks for payment again",
        None => "Its outcome is unknown, and the site asks for payment again",
    };
    let detail = format!(
        "Payment {rid} was made for this same request under this Idempotency-Key. {known}. Nothing else is paid under this \
         key for 24 hours; use another key to buy again."
    );
    let problem = Problem::new(Code::AlreadyPaid, detail).payment(rid).retryable(false);
    match payment.and_then(|payment| payment.tx.as_deref()) {
        Some(tx) => problem.transaction(tx),
        None => problem,
    }
}

fn not_looked_up(error: LedgerError) -> Problem {
    let detail = format!(
        "The payment under this Idempotency-Key could not be looked up: {error}. Nothing was paid for this \
                 request."
    );
    Problem::new(Code::StoreUnavailable, detail).retryable(true)
}
