//! Why a purchase that was decided on did not pay: the ledger or the limits refused, or there is no credential.

use jiff::Timestamp;

use super::{NotBought, Purchase, STORE_RETRY};
use crate::answer::{Code, Problem};
use crate::payment::consider::PurchasePlan;
use crate::payment::repeat::already_paid;
use bursar_core::challenge::Why;
use bursar_core::policy::{Charge, Refusal, Window, fits_from};
use bursar_ledger::{Outcome, PaymentId, Reason, ReserveError, Standing};
use bursar_rails::pay::{Exposure, Made, NotIssued, NotPaid, PayError};
use bursar_rails::stripe::Fault;

impl Purchase {
    /// Nothing of this purchase is on record.
    pub(super) async fn not_reserved(&self, error: ReserveError) -> NotBought {
        let fits_from = match &error {
            ReserveError::Denied { charge, .. } => match self.plan.decided.charges.get(*charge) {
                Some(over) => self.fits_from(over).await,
                None => None,
            },
            _ => None,
        };
        self.refused_by_ledger(error, fits_from)
    }

    /// `fits_from`: when a refused charge fits again, if it is known.
    pub(super) fn refused_by_ledger(&self, error: ReserveError, fits_from: Option<Timestamp>) -> NotBought {
        let problem = match error {
            // Random nonces do not repeat, so the challenge determined this one (R18).
            ReserveError::NonceTaken => return NotBought::OfferGone(Why::ChallengeUsed),
            // The joined question may have been asked under other limits, with other charges.
            ReserveError::Denied { charge, settled, open } if charge < self.plan.decided.charges.len() => {
                let decided = &self.plan.decided;
                let refusal = Refusal::over_limit(&decided.charges[charge], settled, open).fitting_from(fits_from);
                let group = decided.group.as_deref();
                let decider = &self.context.decider;
                decider.record_refusal(self.subject(), group, &refusal, Some(decided.usd));
                Problem::refused(&refusal, self.lane.agent(), &self.lane.origin().authority.host)
            }
            ReserveError::Paused(pause) => {
                let PurchasePlan { decided, .. } = &self.plan;
                let group = decided.group.as_deref();
                let decider = &self.context.decider;
                decider.refuse_paused(self.subject(), group, &pause, Some(decided.usd))
            }
            // Held for a question about other terms, and not paid.
            ReserveError::KeyTaken(rid) if self.is_asked_about(rid) => other_terms_are_asked(rid),
            // The claim excludes other requests; this can happen only in the last second of a key.
            ReserveError::KeyTaken(rid) => already_paid(rid, None),
            error => not_recorded(&error),
        };
        problem.into()
    }

    /// From when on the charge fits its rolling window. `None` too if the ledger cannot be asked: the refusal stands
    /// without it.
    async fn fits_from(&self, over: &Charge) -> Option<Timestamp> {
        // Only then is the ledger asked once more.
        let may_fit = matches!(over.window, Window::Rolling(_)) && over.amount <= over.cap;
        if !may_fit {
            return None;
        }
        let standing = Standing::ask(&*self.buying().ledger, std::slice::from_ref(over))
            .await
            .ok()?;
        fits_from(over, |later| standing.counted(later))
    }

    fn is_asked_about(&self, rid: PaymentId) -> bool {
        let questions = self.buying().questions.as_ref();
        questions.is_some_and(|questions| questions.holds(rid))
    }

    /// No credential was made. Whatever may exist of one stays counted.
    pub(super) async fn not_paid(&self, not_paid: NotPaid) -> Problem {
        let (rid, made) = match &not_paid {
            NotPaid::Untouched { reservation, .. } => (reservation.rid(), None),
            NotPaid::UsedUp {
                id, valid_before, made, ..
            } => (*id, Some((*made, *valid_before))),
        };
        let error = not_paid.error();
        if let PayError::NotIssued(not_issued) = error {
            self.finish(rid, not_issued_outcome(not_issued)).await;
            let (agent, why) = (self.lane.agent(), not_issued.why);
            tracing::warn!(payment = %rid, %agent, %why, %error, "no token was issued, so nothing is paid");
            return no_token(rid, not_issued);
        }
        let (left, way_out) = match made {
            None | Some((Made::OwnSignature, _)) => {
                self.never_signed(rid).await;
                ("Nothing was paid.", "The operator must check the log.")
            }
            // It exists, and no seller was given it: it counts until it has been taken back.
            Some((Made::Token, _)) => {
                let (why, tx) = (Reason::NeverSent, None);
                self.finish(rid, Outcome::Unknown { why, tx }).await;
                (
                    "A token exists that the merchant was not sent.",
                    "The payment counts until that token is revoked.",
                )
            }
            // It can be cashed, whether it can be sent or not.
            Some((Made::Elsewhere, valid_before)) => {
                self.outcome_unknown(rid, valid_before, Reason::SignerNotSent).await;
                (
                    "A credential exists that the merchant was not sent.",
                    "The payment counts until that credential is proven unusable, or the operator runs `bursar payments \
                     resolve`.",
                )
            }
        };
        tracing::error!(payment = %rid, agent = %self.lane.agent(), %error, "no credential could be made");
        let detail = format!("Payment {rid} could not be made: {error}. {left} {way_out}");
        Problem::new(Code::SigningFailed, detail).payment(rid)
    }
}

fn not_recorded(error: &ReserveError) -> Problem {
    let detail = match error {
        ReserveError::StalePolicy { have, need } => {
            tracing::error!(
                have,
                need,
                "this proxy's limits.toml is not the one in force on the shared ledger"
            );
            format!(
                "Another proxy on this ledger has newer limits (generation {need}; this proxy has {have}). Nothing was \
                 paid. The operator must put the same limits.toml on every proxy."
            )
        }
        error => {
            tracing::error!(%error, "payment not recorded, nothing signed");
            format!(
                "The payment could not be recorded: {error}. Nothing was paid; requests that cost nothing still pass."
            )
        }
    };
    Problem::new(Code::StoreUnavailable, detail)
        .retryable(true)
        .retry_after(STORE_RETRY)
}

fn other_terms_are_asked(rid: PaymentId) -> Problem {
    let detail = format!(
        "Question {rid} under this Idempotency-Key is waiting for a person and is about other terms than the site's \
         current ones. Nothing was paid. Nothing else is paid under this key until that question has ended."
    );
    Problem::new(Code::ApprovalBusy, detail)
        .approval(rid, None)
        .retryable(true)
        .retry_after(STORE_RETRY)
}

fn not_issued_outcome(not_issued: &NotIssued) -> Outcome {
    let why = not_issued.why;
    match not_issued.left {
        Exposure::Nothing => Outcome::Expired { by: not_issued.by, why },
        Exposure::Perhaps => Outcome::Unknown { why, tx: None },
    }
}

fn no_token(rid: PaymentId, not_issued: &NotIssued) -> Problem {
    let (code, retryable, way_out) = match not_issued.fault {
        Fault::Card => (
            Code::PaymentDeclined,
            false,
            "The operator must check the payment method under [stripe].",
        ),
        Fault::Offer => (
            Code::PaymentDeclined,
            false,
            "The merchant asks for something that Stripe does not support; trying again will not help.",
        ),
        Fault::Setup => (
            Code::TokenUnavailable,
            false,
            "The operator must check [stripe] in bursar.toml.",
        ),
        Fault::Stripe | Fault::Network => (Code::TokenUnavailable, true, "Trying again later may help."),
    };
    let counted = match not_issued.left {
        Exposure::Nothing => String::new(),
        Exposure::Perhaps => format!(
            " A token may exist that the merchant was not sent; payment {rid} counts until that token is revoked."
        ),
    };
    let detail = format!("No payment could be made through Stripe: {not_issued}. Nothing was paid.{counted} {way_out}");
    let problem = Problem::new(code, detail).payment(rid).retryable(retryable);
    match retryable {
        true => problem.retry_after(STORE_RETRY),
        false => problem,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use bursar_ledger::Source;

    fn id() -> PaymentId {
        PaymentId::new(Timestamp::UNIX_EPOCH, [7; 10])
    }

    fn not_issued(fault: Fault, left: Exposure) -> NotIssued {
        NotIssued::example(fault, left)
    }

    #[test]
    fn a_token_that_may_exist_stays_counted_and_one_that_cannot_does_not() {
        let gone = not_issued_outcome(&not_issued(Fault::Card, Exposure::Nothing));
        assert!(matches!(gone, Outcome::Expired { by: Source::Stripe, .. }), "{gone:?}");
        let perhaps = not_issued_outcome(&not_issued(Fault::Card, Exposure::Perhaps));
        assert!(matches!(perhaps, Outcome::Unknown { tx: None, .. }), "{perhaps:?}");
    }

    #[test]
    fn whose_fault_it_is_decides_the_code() {
        for (fault, code) in [
            (Fault::Card, "payment-declined"),
            (Fault::Offer, "payment-declined"),
            (Fault::Setup, "token-unavailable"),
            (Fault::Stripe, "token-unavailable"),
            (Fault::Network, "token-unavailable"),
        ] {
            assert_eq!(no_token(id(), &not_issued(fault, Exposure::Nothing)).code(), code);
        }
    }

    #[test]
    fn a_ledger_that_cannot_record_asks_to_come_back() {
        for error in [ReserveError::LowSpace, ReserveError::StalePolicy { have: 1, need: 2 }] {
            let problem = not_recorded(&error);
            assert_eq!(problem.code(), "store-unavailable");
            assert_eq!(problem.into_response().headers()["retry-after"], "30");
        }
    }
}
