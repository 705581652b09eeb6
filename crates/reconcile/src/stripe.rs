//! What Stripe says about a payment's token, and what follows from it (R11, R14 and R214).
//!
//! Unlike a signature, a token can be revoked. So an outstanding payment is not left to expire: once the seller has had
//! `settle_wait`, the payment is withdrawn from repeats, its token is revoked, and then read again, because the seller
//! may have charged it first.

use jiff::{SignedDuration, Timestamp};

use super::reconciler::{Notice, Reconciler, SILENCES, Silences, not_recorded};
use super::report::{Finding, PaymentLine};
use bursar_core::assets::{Asset, Network};
use bursar_ledger::{self as ledger, LedgerError, Outcome, Payment, Reason, Signer, Source, State};
use bursar_rails::outstanding::{Withdrawal, Withdrawn};
use bursar_rails::pay::{Issuer, NoStatus, TokenStatus, Tokens};
use bursar_rails::stripe::TokenId;

/// The result of asking about one payment.
type StripeLine = Result<PaymentLine, NoStatus>;

/// Whether a payment was made through Stripe.
pub(crate) fn is_stripe(payment: &Payment) -> bool {
    matches!(Asset::parse(&payment.reserved.asset), Some(Asset::Fiat(..)))
}

impl Reconciler {
    /// Whether the configured account can be asked about this payment.
    pub(crate) fn can_ask_stripe(&self, payment: &Payment) -> bool {
        self.issuer_of(payment).is_ok()
    }

    fn issuer_of(&self, payment: &Payment) -> Result<&Issuer, String> {
        if payment.arm.as_ref().is_some_and(|arm| arm.signer == Some(Signer::Bkey)) {
            let why =
                "its token was issued by BKey, so Stripe cannot be asked: a receipt settles it, or resolve it by hand";
            return Err(why.to_owned());
        }
        let issuer = self
            .issuer
            .as_deref()
            .ok_or("it was paid through Stripe, and bursar.toml has no [stripe] to ask with")?;
        match Network::parse(&payment.reserved.network) == Some(Network::Stripe(issuer.mode())) {
            true => Ok(issuer),
            false => Err("the key under [stripe] is for the other mode, live or test".to_owned()),
        }
    }

    /// Asks about one payment, and records the result in the ledger. A revocation is never left half done: a pass that
    /// is told to stop does so before the next payment.
    pub(super) async fn stripe_payment(&self, payment: &Payment, silences: &mut Silences) -> PaymentLine {
        let line = |finding| PaymentLine::of(payment, finding);
        let issuer = match self.issuer_of(payment) {
            Ok(issuer) => issuer,
            Err(why) => return line(Finding::Undecided).why(why),
        };
        if self.stop.is_cancelled() {
            return line(Finding::Undecided).why("the comparison was interrupted");
        }
        let silent = silences.entry(Network::Stripe(issuer.mode())).or_default();
        if *silent >= SILENCES {
            return line(Finding::Undecided).why("Stripe stopped answering");
        }
        let result = match payment.state {
            State::Unknown => self.unknown(issuer, payment).await,
            State::Settled => self.claimed(issuer, payment).await,
            State::Expired if payment.by == Some(Source::Operator) => self.called_dead(issuer, payment).await,
            // Closed because Stripe said so. No new charge can begin, but one that began as a hold may still be
            // captured.
            State::Expired if issuer.tokens().of(payment.rid()).is_some() => self.called_dead(issuer, payment).await,
            _ => return line(Finding::Confirmed),
        };
        match result {
            Ok(line) => {
                *silent = 0;
                line
            }
            Err(no_status) => {
                *silent += u8::from(no_status.silent);
                line(Finding::Undecided).why(no_status.why)
            }
        }
    }

    async fn called_dead(&self, issuer: &Issuer, payment: &Payment) -> StripeLine {
        let line = |finding| PaymentLine::of(payment, finding);
        let (now, rid) = (self.clock.now(), payment.rid());
        let token_status = match issuer.token_of(payment, now).await? {
            Some(token) => issuer.look(&token).await?,
            None => TokenStatus::Dead(Reason::NeverIssued),
        };
        Ok(match token_status {
            TokenStatus::Dead(_) => {
                if !Tokens::may_have_a_hold(payment, now) {
                    issuer.tokens().forget(rid);
                }
                line(Finding::Confirmed)
            }
            TokenStatus::Charged => {
                let who = match payment.by {
                    Some(Source::Operator) => "an operator",
                    _ => "Stripe",
                };
                let why = format!("{who} says it was not paid, but its Stripe token was charged");
                // A closed payment takes no finding and is not counted, so people have to be notified. That is up to a
                // server, which has alert channels.
                tracing::error!(
                    payment = %rid, merchant = payment.reserved.host, why,
                    "money was spent that is not counted"
                );
                if self.outstanding.is_some() {
                    (self.notices)(Notice::Disputed { rid, why: why.clone() });
                    issuer.tokens().forget(rid);
                }
                line(Finding::Disputed).why(why)
            }
            TokenStatus::Live => line(Finding::Undecided).why("the token can still be charged"),
            TokenStatus::Unclear(why) => line(Finding::Undecided).why(why),
        })
    }

    async fn unknown(&self, issuer: &Issuer, payment: &Payment) -> StripeLine {
        let line = |finding| PaymentLine::of(payment, finding);
        let (now, rid) = (self.clock.now(), payment.rid());
        let patience = SignedDuration::try_from(self.settle_wait).unwrap_or(SignedDuration::MAX);
        let Some(token) = issuer.token_of(payment, now).await? else {
            // There was never a token to charge.
            return Ok(self
                .gone(issuer, payment, Withdrawn::default(), Reason::NeverIssued)
                .await);
        };
        match issuer.look(&token).await? {
            TokenStatus::Charged => return Ok(self.charged(issuer, payment).await),
            TokenStatus::Unclear(why) => return Ok(line(Finding::Undecided).why(why)),
            TokenStatus::Live | TokenStatus::Dead(_) => {}
        }
        // The seller has `settle_wait` from when it was last sent the token (R14). The ledger has the first time; of a
        // repeat it records the beginning, not the time at which its answer was given up.
        let until = |shown: Timestamp| shown.checked_add(patience).unwrap_or(Timestamp::MAX);
        let first = until(payment.updated_at.timestamp());
        if first > now {
            return Ok(pending(payment, first));
        }
        let rested = now.checked_sub(patience).unwrap_or(Timestamp::MIN);
        let withdrawn = match self
            .outstanding
            .as_ref()
            .map(|outstanding| outstanding.withdraw_rested(rid, rested))
        {
            None => Withdrawn::default(),
            Some(Ok(Withdrawal::Out(withdrawn))) => withdrawn,
            Some(Ok(Withdrawal::UnderWay)) => {
                return Ok(line(Finding::Pending).why("a repeat is presenting it right now"));
            }
            Some(Err(shown)) => return Ok(pending(payment, until(shown))),
        };
        let token_status = self.taken_back(issuer, &token).await;
        if let Ok(TokenStatus::Dead(why)) = token_status {
            return Ok(self.gone(issuer, payment, withdrawn, why).await);
        }
        if let Some(outstanding) = &self.outstanding {
            outstanding.put_back(withdrawn);
        }
        Ok(match token_status? {
            TokenStatus::Charged => self.charged(issuer, payment).await,
            TokenStatus::Live => line(Finding::Undecided).why("Stripe has not revoked the token"),
            TokenStatus::Dead(why) => line(Finding::Undecided).why(why),
            TokenStatus::Unclear(why) => line(Finding::Undecided).why(why),
        })
    }

    async fn taken_back(&self, issuer: &Issuer, token: &TokenId) -> Result<TokenStatus, NoStatus> {
        match issuer.look(token).await? {
            TokenStatus::Live => issuer.revoke(token).await,
            token_status => Ok(token_status),
        }
    }

    async fn charged(&self, issuer: &Issuer, payment: &Payment) -> PaymentLine {
        let rid = payment.rid();
        let by = Source::Stripe;
        match self.ledger.finish(rid, Outcome::Settled { by, tx: None }).await {
            Ok(()) => {
                if let Some(outstanding) = &self.outstanding {
                    outstanding.proven_paid(rid);
                }
                issuer.tokens().forget(rid);
                tracing::info!(payment = %rid, "outcome was unknown; Stripe shows it was paid");
                let mut line = PaymentLine::of(payment, Finding::Settled);
                line.after = State::Settled;
                line
            }
            Err(error) => not_recorded(payment, &error),
        }
    }

    async fn gone(&self, issuer: &Issuer, payment: &Payment, withdrawn: Withdrawn, why: Reason) -> PaymentLine {
        let rid = payment.rid();
        let by = Source::Stripe;
        let recorded = self.ledger.finish(rid, Outcome::Expired { by, why }).await;
        if let Some(outstanding) = &self.outstanding {
            match &recorded {
                Ok(()) => outstanding.proven_dead(withdrawn),
                Err(_) => outstanding.put_back(withdrawn),
            }
        }
        match recorded {
            Ok(()) => {
                issuer.tokens().watch(rid);
                tracing::info!(payment = %rid, %why, "it can never be charged and is no longer counted");
                let mut line = PaymentLine::of(payment, Finding::Expired).why(why);
                line.after = State::Expired;
                line
            }
            Err(error) => not_recorded(payment, &error),
        }
    }

    /// Only the merchant says that it was paid. Its token is never revoked: a seller may hold the money first and
    /// capture it later.
    async fn claimed(&self, issuer: &Issuer, payment: &Payment) -> StripeLine {
        let line = |finding| PaymentLine::of(payment, finding);
        let (now, rid) = (self.clock.now(), payment.rid());
        let Some(token) = issuer.token_of(payment, now).await? else {
            return Ok(self.never_charged(issuer, payment).await);
        };
        Ok(match issuer.look(&token).await? {
            TokenStatus::Charged => {
                let (by, tx, block) = (Source::Stripe, None, None);
                let finding = ledger::Finding::Confirmed { by, tx, block };
                match self.ledger.record_finding(rid, finding).await {
                    // Recorded before, or older than the ledger keeps waiting for; it is true all the same.
                    Ok(()) | Err(LedgerError::NotUnconfirmed(_)) => {
                        issuer.tokens().forget(rid);
                        line(Finding::Confirmed)
                    }
                    Err(error) => not_recorded(payment, &error),
                }
            }
            TokenStatus::Live => {
                let until = payment.arm.as_ref().map_or(0, |arm| arm.valid_before.0);
                let until = i64::try_from(until).ok().and_then(|at| Timestamp::from_second(at).ok());
                pending(payment, until.unwrap_or(now))
            }
            TokenStatus::Dead(_) => self.never_charged(issuer, payment).await,
            TokenStatus::Unclear(why) => line(Finding::Undecided).why(why),
        })
    }

    async fn never_charged(&self, issuer: &Issuer, payment: &Payment) -> PaymentLine {
        let why = "the receipt says paid, but its Stripe token was never charged and never can be";
        let (line, is_done) = self.contradicted(payment, why, None).await;
        if is_done {
            issuer.tokens().forget(payment.rid());
        }
        line
    }
}

fn pending(payment: &Payment, until: Timestamp) -> PaymentLine {
    let mut line = PaymentLine::of(payment, Finding::Pending);
    line.until = Some(until);
    line
}

#[cfg(test)]
mod tests;
