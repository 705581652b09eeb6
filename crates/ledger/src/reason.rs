//! Why a payment is in its state: the `why` of an entry, and the `reason` of a payment in lists. Each reason once, with
//! its meaning.

use std::fmt;

use bursar_core::challenge::mpp::Statement;

macro_rules! reasons {
    ($($name:ident $text:literal $meaning:literal)+) => {
        /// A reason that bursar gives. An operator's own reason, in `payments resolve --why`, is free text instead.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($name,)+
            /// What an MPP seller's problem document said. A statement, not a proof.
            Seller(Statement),
        }

        impl Reason {
            const OWN: &[Self] = &[$(Self::$name),+];

            /// Stable text: signed entries contain it, and scripts match it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                    Self::Seller(statement) => statement.code(),
                }
            }

            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                    Self::Seller(_) => "The seller said why it did not accept the payment. That is no proof, so the \
                                        payment stays counted.",
                }
            }
        }
    };
}

reasons! {
    NeverSigned "never-signed"
        "Nothing was signed, or the signature never left this process."
    Paused "paused"
        "`bursar pause` stopped the payment after it was recorded and before anything was signed or ordered for it."
    NeverSent "never-sent"
        "A token was made and not sent to the seller, for example because it came too late."
    NotSent "not-sent"
        "The credential may have been sent in part: the connection ended while it was being written."
    AnswerLost "answer-lost"
        "The credential was sent, and the connection ended before the answer came."
    AnswerLate "answer-late"
        "The credential was sent, and no answer came in time."
    NoReceipt "no-receipt"
        "The seller answered without a receipt."
    ReceiptFailed "receipt-says-failed"
        "The seller's receipt says that the payment failed."
    ReceiptUnreadable "receipt-unreadable"
        "The seller's receipt cannot be read."
    Abandoned "abandoned"
        "The proxy had stopped waiting for the ledger when the payment was recorded."
    Restart "restart"
        "The proxy stopped between the record and the outcome, so it is not known whether the credential was sent."
    OwnerGone "owner-gone"
        "The proxy that made the payment has been silent for a minute, and another one took its payments over."
    NeverCashed "never-cashed"
        "The chain proves that the authorization was not used before it expired."
    Cancelled "cancelled"
        "The chain shows that the authorization was cancelled."
    NeverIssued "never-issued"
        "Stripe has no token for this payment."
    ApprovalDenied "approval-denied"
        "A person denied the payment."
    ApprovalExpired "approval-expired"
        "No approval was given, or it was not used in time."
    ApprovalFailed "approval-failed"
        "The approval backend gave no usable answer."
    ApprovalNotRecorded "approval-not-recorded"
        "The approval could not be recorded."
    ConfirmedLate "confirmed-late"
        "The payment was confirmed at BKey after the agent's request had ended; a repeat presents it."
    SignerNotConfirmed "signer-not-confirmed"
        "Nobody confirmed the payment at BKey while bursar waited."
    SignerNotRecorded "signer-not-recorded"
        "What BKey signed could not be recorded, so it was not sent."
    SignerNonceUsed "signer-nonce-used"
        "The nonce that BKey chose was already used, so its signature was not sent."
    SignerNotSent "signer-not-sent"
        "What BKey signed could not be made into a credential, so it was not sent."
    SignerDiffers "signer-differs"
        "BKey signed something other than what is on record, so it was not sent."
    SignerUnclear "signer-unclear"
        "BKey did not say what became of the order, so it may have signed."
    SignerRefused "signer-refused"
        "BKey refused the order."
    SignerUnreachable "signer-unreachable"
        "BKey could not be reached, so it has no order."
    SignerOther "signer-other"
        "The record is for another signer than the one configured."
    SignerSaysSettled "signer-says-settled"
        "BKey says that the order is settled, without a credential to send."
    SignerSaysExpired "signer-says-expired"
        "BKey says that the order has expired."
    SignerSaysFailed "signer-says-failed"
        "BKey says that the order failed or was denied."
    StripeDeclined "stripe-declined"
        "Stripe or the card's bank declined."
    StripeRefused "stripe-refused"
        "Stripe refused the order as invalid."
    StripeUnauthorized "stripe-unauthorized"
        "Stripe does not accept the secret key."
    StripeIdempotencyConflict "stripe-idempotency-conflict"
        "Stripe has another order under this payment's id."
    StripeRateLimited "stripe-rate-limited"
        "Stripe limits the rate of requests."
    StripeUnavailable "stripe-unavailable"
        "Stripe answered with a server error."
    StripeUnclear "stripe-unclear"
        "The answer of Stripe was lost, so a token may exist."
    StripeUnsent "stripe-unsent"
        "Stripe could not be reached."
    StripeUnreadable "stripe-unreadable"
        "The answer of Stripe cannot be read."
    StripeDiffers "stripe-differs"
        "Stripe issued a token for something other than what was ordered. It was not sent, and bursar revokes it."
    StripeActionRequired "stripe-action-required"
        "The card holder would have to confirm the payment."
    StripeNotActive "stripe-not-active"
        "Stripe issued a token that is not active."
    StripeOtherAccount "stripe-other-account"
        "The record is for another Stripe account or payment method than the one configured."
    TokenExpired "token-expired"
        "The token expired without being charged."
    TokenRevoked "token-revoked"
        "The token was revoked without being charged."
    TokenResolved "token-resolved"
        "Stripe resolved the token without a charge."
    TokenDeactivated "token-deactivated"
        "Stripe deactivated the token without a charge."
}

impl Reason {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let seller = Statement::ALL.into_iter().map(Self::Seller);
        Self::OWN.iter().copied().chain(seller)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_occurs_once_and_says_what_it_means() {
        let texts: BTreeSet<_> = Reason::all().map(Reason::as_str).collect();
        assert_eq!(texts.len(), Reason::all().count());
        for reason in Reason::all() {
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'-';
            assert!(reason.as_str().bytes().all(plain), "{reason:?}");
            assert!(reason.meaning().ends_with('.'), "{reason:?}");
        }
    }
}
