//! Why nothing was paid, once it was decided to buy: the books or the limits said no, or there is no credential.

use super::{NotBought, Purchase, STORE_RETRY};
use crate::answer::{Code, Problem};
use crate::payment::consider;
use crate::payment::repeat::keyed::already_paid;
use bursar_core::challenge::Why;
use bursar_core::policy::Refusal;
use bursar_ledger::{Outcome, PaymentId, Reservation, ReserveError};
use bursar_rails::pay::{Exposure, PayError};
use bursar_rails::stripe::Fault;

impl Purchase {
    pub(super) fn not_reserved(&self, error: ReserveError) -> NotBought {
        let problem = match error {
            // Random nonces do not repeat: the challenge decided this one (R18).
            ReserveError::NonceTaken => return NotBought::OfferGone(Why::ChallengeUsed),
            // A question that was joined may have been put under other limits, with other charges.
            ReserveError::Denied { charge, settled, open } if charge < self.intent.plan.charges.len() => {
                let plan = &self.intent.plan;
                let refusal = Refusal::over_limit(&plan.charges[charge], settled, open);
                let (agent, origin) = (self.lane.agent(), self.lane.origin());
                consider::record_refusal(
                    &self.proxy,
                    agent,
                    plan.group.as_deref(),
                    origin,
                    &refusal,
                    Some(plan.usd),
                );
                Problem::refused(&refusal)
            }
            ReserveError::StalePolicy { have, need } => {
                tracing::error!(
                    have,
                    need,
                    "limits.toml here is not the one that is in force on the shared books"
                );
                let detail = format!(
                    "Another proxy on these books has other limits (generation {need}; here it is {have}). Nothing was paid. The \
                     operator must put the same limits.toml on every proxy."
                );
                Problem::new(Code::StoreUnavailable, detail)
                    .retryable(true)
                    .retry_after(STORE_RETRY)
            }
            // Held for a question of other terms, and not paid.
            ReserveError::KeyTaken(rid) if self.waits(rid) => {
                let detail = format!(
                    "Question {rid} under this Idempotency-Key waits for a person, and asks about other terms than the site's now. \
                     Nothing was paid. Nothing else is paid under this key until that question is over."
                );
                Problem::new(Code::ApprovalBusy, detail)
                    .approval(rid, None)
                    .retryable(true)
                    .retry_after(STORE_RETRY)
            }
            // The claim keeps others away; only the last second of a key can lead here.
            ReserveError::KeyTaken(rid) => already_paid(rid, None),
            error => {
                tracing::error!(%error, "payment not recorded, nothing signed");
                let detail = format!(
                    "The payment could not be recorded: {error}. Nothing was paid; requests that cost nothing go through."
                );
                Problem::new(Code::StoreUnavailable, detail)
                    .retryable(true)
                    .retry_after(STORE_RETRY)
            }
        };
        problem.into()
    }

    fn waits(&self, rid: PaymentId) -> bool {
        let questions = self.proxy.questions.as_ref();
        questions.is_some_and(|questions| questions.holds(rid))
    }

    /// There is no credential. What may be left of it stays counted.
    pub(super) async fn not_paid(&self, reservation: Reservation, error: &PayError) -> Problem {
        let rid = reservation.rid();
        let PayError::NotIssued(not_issued) = error else {
            // What somebody else has signed can be cashed, whether it can be sent or not.
            match reservation.arm().signer {
                None => self.never_signed(reservation).await,
                Some(_) => {
                    let valid_before = reservation.arm().valid_before;
                    self.in_doubt(rid, valid_before, "signer-not-sent").await;
                }
            }
            let detail = format!("The payment could not be signed: {error}. Nothing was paid.");
            return Problem::new(Code::SigningFailed, detail);
        };
        let why = not_issued.why;
        let outcome = match not_issued.left {
            Exposure::Nothing => Outcome::Expired { by: not_issued.by, why },
            Exposure::Perhaps => Outcome::Unknown { why, tx: None },
        };
        tracing::warn!(payment = %rid, agent = %self.lane.agent(), why, %error, "no token, so no payment");
        self.finish(rid, outcome).await;
        let (code, retryable, way_out) = match not_issued.fault {
            Fault::Card => (
                Code::PaymentDeclined,
                false,
                "The operator must look after the payment method under [stripe].",
            ),
            Fault::Offer => (
                Code::PaymentDeclined,
                false,
                "The merchant asks for what Stripe does not do; trying again will not help.",
            ),
            Fault::Setup => (
                Code::TokenUnavailable,
                false,
                "The operator must look after [stripe] in bursar.toml.",
            ),
            Fault::Stripe | Fault::Network => (Code::TokenUnavailable, true, "Trying again later may help."),
        };
        let counted = match not_issued.left {
            Exposure::Nothing => "",
            Exposure::Perhaps => {
                " A token may exist, which the merchant was not given; it counts until it has been taken back."
            }
        };
        let detail = format!("No payment could be made through Stripe: {error}. Nothing was paid.{counted} {way_out}");
        let problem = Problem::new(code, detail).payment(rid).retryable(retryable);
        match retryable {
            true => problem.retry_after(STORE_RETRY),
            false => problem,
        }
    }
}
