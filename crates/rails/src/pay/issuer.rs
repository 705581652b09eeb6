//! Payments through Stripe: a Shared Payment Token is ordered for exactly what the ledger record says, kept so that
//! Stripe can be asked about it later, and revoked if it was not used (MPP §6).
//!
//! The payment id is the idempotency key. An order whose answer was lost, or that a crash interrupted, is therefore the
//! same order when it is repeated (R8 and R14).

mod tokens;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio::time::sleep;

use crate::stripe::{
    Currency, DeactivationReason, Effect, Fault, Issued, Order, PaymentMethod, Profile, Status, Stripe, StripeError,
    TokenId,
};
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::{Asset, Mode};
use bursar_ledger::{Payment, PaymentId, Reason, Reservation, Source};
pub use tokens::Tokens;

/// Pauses between the tries of one order. Nothing has been sent to the seller yet, and the agent is waiting.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// How long an order can be repeated: Stripe forgets an idempotency key after a day (R14).
const REPEATABLE: SignedDuration = SignedDuration::from_hours(20);

/// The Stripe account that issues tokens.
pub struct Issuer {
    stripe: Stripe,
    payment_method: PaymentMethod,
    tokens: Tokens,
    reported: Mutex<Reported>,
}

/// Payments that need another key, each logged once; of the newest ones only, because a log line more does no harm.
#[derive(Default)]
struct Reported(BTreeSet<PaymentId>);

impl Reported {
    const MOST: usize = 1024;

    /// Whether it has not been reported yet.
    fn is_new(&mut self, rid: PaymentId) -> bool {
        let is_new = self.0.insert(rid);
        if self.0.len() > Self::MOST {
            self.0.pop_first();
        }
        is_new
    }
}

/// Why there is no token to send.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{detail}")]
pub struct NotIssued {
    pub why: Reason,
    pub left: Exposure,
    /// Who says what is left: Stripe, or we if Stripe was not asked.
    pub by: Source,
    pub fault: Fault,
    detail: String,
}

/// What a failed order may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// There is no token, or it was revoked.
    Nothing,
    /// There may be a token, which no seller was sent.
    Perhaps,
}

/// What Stripe says about a payment's token (R214).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    /// The token was charged.
    Charged,
    /// It can still be charged.
    Live,
    /// It can never be charged, and was not.
    Dead(Reason),
    /// The answer does not say.
    Unclear(String),
}

/// Why nothing is known about a payment's token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct NoStatus {
    pub why: String,
    /// Stripe does not answer or limits our rate: do not ask about other payments now.
    pub silent: bool,
}

/// What a token was ordered for, according to the ledger.
struct Ordered {
    rid: PaymentId,
    payment_method: PaymentMethod,
    currency: Currency,
    amount: u64,
    expires_at: u64,
    seller: Profile,
}

impl Issuer {
    pub fn new(stripe: Stripe, payment_method: PaymentMethod, tokens: Tokens) -> Self {
        Self {
            stripe,
            payment_method,
            tokens,
            reported: Mutex::default(),
        }
    }

    pub fn mode(&self) -> Mode {
        self.stripe.mode()
    }

    /// The account that payments come from.
    pub fn account(&self) -> Option<Account> {
        Account::parse(self.payment_method.as_str())
    }

    /// How the ledger names the account that orders.
    pub fn mark(&self) -> AccountMark {
        self.stripe.mark()
    }

    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Orders the token for a ledger record. It is on disk before it is returned, ready to be sent.
    pub(super) async fn issue(&self, reservation: &Reservation) -> Result<TokenId, NotIssued> {
        let (terms, arm) = (reservation.terms(), reservation.arm());
        let rid = reservation.rid();
        let ordered = Ordered::of(
            rid,
            &arm.from,
            terms.asset,
            terms.amount.get(),
            arm.valid_before,
            &terms.payee,
        )
        .filter(|ordered| ordered.payment_method == self.payment_method && arm.issuer == Some(self.mark()))
        .ok_or_else(NotIssued::other_account)?;
        let issued = match self.order(&ordered).await {
            Ok(issued) => issued,
            Err((error, left)) => {
                let left = match &error {
                    StripeError::Differs { token, .. } => self.take_back(token).await,
                    _ => left,
                };
                return Err(NotIssued::of(&error, left));
            }
        };
        let Some(token) = issued.presentable() else {
            let left = self.take_back(&issued.id).await;
            return Err(NotIssued::not_active(&issued.status, left));
        };
        self.tokens.keep(rid, token);
        Ok(token.clone())
    }

    /// Tries the same order up to three times, as long as that can help. What is left behind counts over all tries: if
    /// one of them may have made a token, a later one that certainly did not does not change that.
    async fn order(&self, ordered: &Ordered) -> Result<Issued, (StripeError, Exposure)> {
        let (mut pauses, mut left) = (PAUSES.into_iter(), Exposure::Nothing);
        loop {
            let error = match self.stripe.issue(&ordered.order()).await {
                Ok(issued) => return Ok(issued),
                Err(error) => error,
            };
            let again = match &error {
                StripeError::RateLimited { .. } | StripeError::Unsent(_) | StripeError::IdempotencyConflict => true,
                error => error.effect() == Effect::Unknown,
            };
            tracing::warn!(payment = %ordered.rid, why = error.reason().as_str(), again, "Stripe issued no token");
            if error.effect() != Effect::None {
                left = Exposure::Perhaps;
            }
            match pauses.next().filter(|_| again) {
                Some(pause) => sleep(pause).await,
                None => return Err((error, left)),
            }
        }
    }

    /// Revokes a token that no seller was sent. The state that Stripe reports afterwards decides.
    async fn take_back(&self, token: &TokenId) -> Exposure {
        if let Err(error) = self.stripe.revoke(token).await {
            tracing::warn!(
                why = error.reason().as_str(),
                "could not revoke a token that was never sent to a seller"
            );
        }
        match self.stripe.token(token).await.map(|issued| token_status(&issued)) {
            Ok(TokenStatus::Dead(_)) => Exposure::Nothing,
            _ => Exposure::Perhaps,
        }
    }

    /// The token of a payment, if it can be found: it is stored here, or the same order, repeated by the same account,
    /// returns it. `Ok(None)`: there is no token, and none can come into being.
    pub async fn token_of(&self, payment: &Payment, now: Timestamp) -> Result<Option<TokenId>, NoStatus> {
        let rid = payment.rid();
        if let Some(token) = self.tokens.of(rid) {
            return Ok(Some(token));
        }
        let fresh = now.duration_since(payment.created_at.timestamp()) <= REPEATABLE;
        if !fresh {
            let why = "its token is no longer stored here, and its order is too old to repeat; resolve it by hand";
            return Err(why.into());
        }
        let ordered = Ordered::recorded(payment).ok_or("its record does not describe an order at Stripe")?;
        self.is_ours(payment)?;
        match self.stripe.issue(&ordered.order()).await {
            Ok(Issued { id, .. }) | Err(StripeError::Differs { token: id, .. }) => {
                self.tokens.keep(rid, &id);
                Ok(Some(id))
            }
            // Stripe would have repeated the answer to the first order, whatever it was.
            Err(StripeError::Declined { .. } | StripeError::Refused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks that this account placed the order. To another account the same order would be a new one, and its answer
    /// would say nothing about the token that the seller may hold.
    fn is_ours(&self, payment: &Payment) -> Result<(), NoStatus> {
        let ordered_by = payment.arm.as_ref().and_then(|arm| arm.issuer);
        if ordered_by == Some(self.mark()) {
            return Ok(());
        }
        let (rid, at) = (payment.rid(), payment.created_at);
        let why = match ordered_by {
            Some(_) => format!(
                "its token is not stored here, and only the key that was under [stripe] at {at} can look it up: put \
                 that key back, or resolve the payment by hand"
            ),
            None => {
                "its token is not stored here, and its record does not say which account ordered it; resolve it by hand"
                    .to_owned()
            }
        };
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_new(rid) {
            tracing::warn!(payment = %rid, why, "the payment stays counted until `bursar payments resolve` closes it");
        }
        Err(why.as_str().into())
    }

    /// Asks Stripe for the state of a token.
    pub async fn look(&self, token: &TokenId) -> Result<TokenStatus, NoStatus> {
        Ok(token_status(&self.stripe.token(token).await?))
    }

    /// Revokes a token, and asks for its state: a seller may have charged it first.
    pub async fn revoke(&self, token: &TokenId) -> Result<TokenStatus, NoStatus> {
        match self.stripe.revoke(token).await {
            Ok(_) | Err(StripeError::Refused { .. }) => self.look(token).await,
            Err(error) => Err(error.into()),
        }
    }
}

impl From<StripeError> for NoStatus {
    fn from(error: StripeError) -> Self {
        Self {
            why: error.to_string(),
            silent: matches!(
                error,
                StripeError::Unsent(_)
                    | StripeError::Unclear(_)
                    | StripeError::Unavailable { .. }
                    | StripeError::RateLimited { .. }
            ),
        }
    }
}

impl From<&str> for NoStatus {
    fn from(why: &str) -> Self {
        Self {
            why: why.to_owned(),
            silent: false,
        }
    }
}

/// A token is dead only if it can no longer be charged **and** nothing was captured with it. If Stripe does not say
/// what was captured, that proves nothing.
fn token_status(issued: &Issued) -> TokenStatus {
    let taken = issued.captured.map(|captured| captured.value);
    match (&issued.status, taken) {
        (_, Some(1..)) | (Status::Deactivated(DeactivationReason::Consumed), _) => TokenStatus::Charged,
        (Status::Active | Status::RequiresAction { .. }, _) => TokenStatus::Live,
        (Status::Deactivated(reason), Some(0)) => TokenStatus::Dead(match reason {
            DeactivationReason::Expired => Reason::TokenExpired,
            DeactivationReason::Revoked => Reason::TokenRevoked,
            DeactivationReason::Resolved => Reason::TokenResolved,
            DeactivationReason::Consumed | DeactivationReason::Other => Reason::TokenDeactivated,
        }),
        (Status::Deactivated(_), None) => {
            TokenStatus::Unclear("Stripe does not say how much was charged with its token".to_owned())
        }
    }
}

impl Ordered {
    fn of(
        rid: PaymentId,
        from: &Account,
        asset: Asset,
        amount: u128,
        expires_at: u64,
        payee: &Account,
    ) -> Option<Self> {
        let Asset::Fiat(_, currency) = asset else {
            return None;
        };
        Some(Self {
            rid,
            payment_method: PaymentMethod::parse(from.stripe()?.as_str()).ok()?,
            currency: Currency::parse(currency.code).ok()?,
            amount: amount.try_into().ok()?,
            expires_at,
            seller: Profile::parse(payee.stripe()?.as_str()).ok()?,
        })
    }

    fn recorded(payment: &Payment) -> Option<Self> {
        let (reserved, arm) = (&payment.reserved, payment.arm.as_ref()?);
        let asset = Asset::parse(&reserved.asset)?;
        Self::of(
            payment.rid(),
            &arm.from,
            asset,
            reserved.amount.0,
            arm.valid_before.0,
            &reserved.payee,
        )
    }

    fn order(&self) -> Order<'_> {
        Order {
            idempotency_key: self.rid,
            payment_method: &self.payment_method,
            currency: self.currency,
            max_amount: self.amount,
            expires_at: self.expires_at,
            seller: &self.seller,
        }
    }
}

impl NotIssued {
    fn of(error: &StripeError, left: Exposure) -> Self {
        Self {
            why: error.reason(),
            left,
            by: Source::Stripe,
            fault: error.fault(),
            detail: error.to_string(),
        }
    }

    fn not_active(status: &Status, left: Exposure) -> Self {
        let (why, fault, detail) = match status {
            Status::RequiresAction { at: Some(host) } => (
                Reason::StripeActionRequired,
                Fault::Card,
                format!("the card's bank requires the cardholder to confirm the payment at {host}"),
            ),
            Status::RequiresAction { at: None } => (
                Reason::StripeActionRequired,
                Fault::Card,
                "the card's bank requires the cardholder to confirm the payment".to_owned(),
            ),
            Status::Active | Status::Deactivated(_) => (
                Reason::StripeNotActive,
                Fault::Stripe,
                "the token that Stripe issued was not active".to_owned(),
            ),
        };
        Self {
            why,
            left,
            by: Source::Stripe,
            fault,
            detail,
        }
    }

    /// As if Stripe had refused.
    #[cfg(any(test, feature = "testing"))]
    pub fn example(fault: Fault, left: Exposure) -> Self {
        Self {
            why: Reason::StripeDeclined,
            left,
            by: Source::Stripe,
            fault,
            detail: "the card was declined".to_owned(),
        }
    }

    fn other_account() -> Self {
        Self {
            why: Reason::StripeOtherAccount,
            left: Exposure::Nothing,
            by: Source::Us,
            fault: Fault::Setup,
            detail: "the payment was recorded for a payment method or account other than the one configured now"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_reported_is_remembered_for_the_newest_payments_only() {
        let mut reported = Reported::default();
        let id = |number: i64| PaymentId::new(Timestamp::from_second(1_760_000_000 + number).unwrap(), [0; 10]);
        let most = i64::try_from(Reported::MOST).unwrap();
        for number in 0..3 * most {
            assert!(reported.is_new(id(number)));
            assert!(reported.0.len() <= Reported::MOST);
        }
        assert!(!reported.is_new(id(3 * most - 1)));
    }
}
