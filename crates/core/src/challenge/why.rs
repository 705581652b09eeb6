//! Why a challenge, or one offer in it, is not paid.
//!
//! The reasons are ours alone: no word of the merchant is ever part of one, so they may be logged, shown to an agent and
//! matched by scripts (threat 1.15).

use std::fmt;

use crate::money::AmountError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $code:literal, $text:literal;)+) => {
        /// A reason for not paying. [`Why::code`] is stable; [`fmt::Display`] is a sentence for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Why {
            $($(#[$doc])* $name,)+
        }

        impl Why {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Kebab-case text, never renamed: `asset-unknown`, `timeout-out-of-range`.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// Reads [`Why::code`].
            pub fn parse(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    // The answer as a whole.
    NoChallenge => "no-challenge", "The 402 carries no payment challenge that we know.";
    HeaderEmpty => "challenge-header-empty", "The PAYMENT-REQUIRED header is empty.";
    /// Several fields, or several values merged into one: which of them counts would be a guess.
    HeaderRepeated => "challenge-header-repeated", "The PAYMENT-REQUIRED header occurs more than once.";
    TooLarge => "challenge-too-large", "The challenge is larger than 64 KiB.";
    BodyUndecodable => "challenge-not-decodable", "The body of the 402 is encoded in a way we do not decode.";
    BodyCutOff => "challenge-cut-off", "The body of the 402 did not arrive whole in time.";
    NotBase64 => "challenge-not-base64", "The challenge is not base64.";
    NotJson => "challenge-not-json", "The challenge is not valid JSON.";
    NotObject => "challenge-not-object", "The challenge is not a JSON object.";
    DuplicateKey => "challenge-duplicate-key", "The challenge names the same JSON member twice.";
    TooDeep => "challenge-too-deep", "The challenge is nested deeper than 32 levels.";
    /// A JSON body without `x402Version`: an answer that merely happens to be JSON.
    NotX402 => "not-x402", "The body of the 402 is no x402 challenge.";
    VersionUnsupported => "version-unsupported", "The challenge states an x402 version that does not belong in this place.";
    V2InBody => "v2-in-body", "The x402 v2 challenge is in the body; it belongs in the PAYMENT-REQUIRED header.";
    OffersMissing => "offers-missing", "The challenge has no list of offers.";
    OffersEmpty => "offers-empty", "The challenge has an empty list of offers.";
    SignInOnly => "sign-in-only", "The challenge asks for a wallet sign-in, not for a payment.";
    TooManyOffers => "too-many-offers", "The challenge has more than 16 offers.";

    // One `Payment` challenge of MPP.
    MppMalformed => "mpp-malformed", "A Payment challenge in WWW-Authenticate is not well-formed.";
    MppParameterTwice => "mpp-parameter-twice", "A Payment challenge has the same parameter twice.";
    MppParameterMissing => "mpp-parameter-missing", "A Payment challenge lacks id, realm, method, intent or request.";
    MppMethodMalformed => "mpp-method-malformed", "A Payment challenge has a method or an intent that is no name.";
    MppRequestTooLarge => "mpp-request-too-large", "The request of a Payment challenge is longer than 16 KiB.";
    /// Anything but `Authorization` and `Payment-Authorization` (MPP §3.4).
    MppHeaderNotAllowed => "mpp-header-not-allowed", "A Payment challenge wants its credential in a header field that is not for that.";
    ExpiresMalformed => "expires-malformed", "The challenge's expires is not an RFC 3339 time.";
    ChallengeExpired => "challenge-expired", "The challenge has expired, or does so within 6 seconds.";
    /// Its nonce is on record: one challenge is answered once (R18).
    ChallengeUsed => "challenge-used", "This very challenge was answered before; the site must give a new one.";
    DigestUnsupported => "digest-unsupported", "The challenge binds the request's body in another way than by SHA-256.";
    DigestMismatch => "digest-mismatch", "The challenge is for another request body than the one sent.";
    RealmDiffers => "realm-differs", "The challenge's realm is not the host asked.";
    ChainMissing => "chain-missing", "The offer does not say for which chain it is.";
    CredentialTypeUnsupported => "credential-type-unsupported", "The offer does not take an EIP-3009 authorization.";
    SplitsUnsupported => "splits-unsupported", "The offer splits the amount between several payees.";
    DecimalsMismatch => "decimals-mismatch", "The offer states other decimals than the token has.";

    CurrencyUnknown => "currency-unknown", "The offer's currency is none that Stripe charges.";
    ProfileMalformed => "profile-malformed", "The offer does not name the seller's Stripe profile.";
    ExternalIdMalformed => "external-id-malformed", "The offer's externalId is not a short text.";
    ModeUnsupported => "mode-unsupported", "The offer does not take a signed transaction (mode pull).";
    /// Ours ties the transfer to its challenge, and to no other.
    MemoUnsupported => "memo-unsupported", "The offer wants a memo of its own in the transfer.";

    // Rails and intents of MPP that are known and not paid.
    MppUsdc => "mpp-usdc-not-paid", "The offer is for MPP's usdc method, which is not paid.";
    MppSolana => "mpp-solana-not-paid", "The offer is for MPP's solana method, which is not paid.";
    MppLightning => "mpp-lightning-not-paid", "The offer is for MPP's lightning method, which is not paid.";
    MppCard => "mpp-card-not-paid", "The offer is for MPP's card method, which is not paid.";
    MppStellar => "mpp-stellar-not-paid", "The offer is for MPP's stellar method, which is not paid.";
    MppHedera => "mpp-hedera-not-paid", "The offer is for MPP's hedera method, which is not paid.";
    MppNearIntents => "mpp-nearintents-not-paid", "The offer is for MPP's nearintents method, which is not paid.";
    MppMethodUnknown => "mpp-method-unknown", "The offer is for an MPP method that we do not know.";
    MppSession => "mpp-session-not-paid", "The offer is for a session with a deposit, which is not paid.";
    MppSubscription => "mpp-subscription-not-paid", "The offer is for a subscription, a standing right to charge, which is not given.";
    MppIntentUnknown => "mpp-intent-unknown", "The offer is for an MPP intent that we do not know.";

    // One requirement.
    RequirementNotObject => "requirement-not-object", "The offer is not a JSON object.";
    SchemeUnsupported => "scheme-unsupported", "The offer uses a payment scheme other than \"exact\" and \"upto\".";
    NetworkMalformed => "network-malformed", "The offer's network is not a valid CAIP-2 name.";
    NetworkUnsupported => "network-unsupported", "The offer is for a network we have no token on.";
    AssetMalformed => "asset-malformed", "The offer's asset is not a contract address.";
    AssetUnknown => "asset-unknown", "The offer's asset is not in our table of tokens.";
    AssetNeedsPermit2 => "asset-needs-permit2", "The offer's token can be paid by Permit2 only, and the offer does not say so.";
    TransferMethodUnsupported => "transfer-method-unsupported", "The offer asks for a transfer method other than EIP-3009 and Permit2.";
    FacilitatorMissing => "facilitator-missing", "The upto offer does not name the facilitator that may take the money.";
    PaymentFlowUnsupported => "payment-flow-unsupported", "The offer asks for a payment flow other than authorization or upfront.";
    TokenDomainMissing => "token-domain-missing", "The offer does not state the token's EIP-712 name and version.";
    TokenDomainMismatch => "token-domain-mismatch", "The offer states another EIP-712 name or version than the token has.";
    AmountNotText => "amount-not-text", "The offer's amount is missing or is not a JSON string.";
    AmountNotDecimal => "amount-not-decimal", "The offer's amount is not a plain decimal number.";
    AmountLeadingZero => "amount-leading-zero", "The offer's amount has leading zeros.";
    AmountTooLarge => "amount-too-large", "The offer's amount does not fit 128 bits.";
    PayeeMalformed => "payee-malformed", "The offer's payee is not an address.";
    PayeeChecksum => "payee-checksum", "The offer's payee has a wrong EIP-55 checksum.";
    PayeeZero => "payee-zero", "The offer's payee is the zero address.";
    PayeeIsAsset => "payee-is-asset", "The offer's payee is the token contract itself, or on Tempo any token.";
    TimeoutNotInteger => "timeout-not-integer", "The offer's maxTimeoutSeconds is missing or is not a JSON integer.";
    TimeoutOutOfRange => "timeout-out-of-range", "The offer's maxTimeoutSeconds is not between 10 and 86400.";

    // The offer against the payer.
    NoWallet => "no-wallet", "The offer is for a network, and [wallet] in bursar.toml names no key.";
    StripeNotConfigured => "stripe-not-configured", "The offer is for Stripe, and [stripe] in bursar.toml names no key.";
    /// A test key pays test sellers, a live key live ones.
    StripeModeDiffers => "stripe-mode-differs", "The seller's Stripe profile is for test payments and our key for live ones, or the reverse.";
    NetworkNotConfigured => "network-not-configured", "The offer is for a network that [networks] in bursar.toml does not name.";
    SignerCents => "signer-whole-cents", "BKey signs for whole US cents, and the offer's amount is none.";
    SignerToken => "signer-other-token", "BKey signs for one token on one network, and the offer is for another.";
    /// Its nonce follows from the challenge (R18).
    SignerNonce => "signer-chooses-nonce", "The offer fixes the nonce of its authorization, and BKey chooses its own.";
    SignerRail => "signer-only-eip3009", "BKey signs EIP-3009 authorizations for x402 alone, and the offer wants another credential.";
    SignerCurrency => "signer-only-dollars", "BKey issues tokens in US dollars alone.";
    /// Without a node nobody could prove what was taken (R12).
    UpToNeedsNode => "upto-needs-node", "The offer is for any part of an amount, and no node is named for its network.";
    AllowanceMissing => "allowance-missing", "The wallet has not allowed Permit2 to move this token, and the seller does not bring the permission.";
    AllowanceUnknown => "allowance-unknown", "No node said whether the wallet has allowed Permit2 to move this token.";
    /// Two at once would bear the same nonce of the token's.
    PermissionBusy => "permission-busy", "Another payment is bringing the wallet's permission for Permit2 to the chain, and takes long.";
    PayeeIsPayer => "payee-is-payer", "The offer's payee is our own wallet.";
    AmountZero => "amount-zero", "The offer's amount is zero, and zero_amount is not set.";
    ResourceHostDiffers => "resource-host-differs", "The challenge is for a resource on another host than the one asked.";
    ResourceUnreadable => "resource-unreadable", "The host of the challenge's resource cannot be read.";

    // The credential.
    CredentialTooLarge => "credential-too-large", "The payment header would be larger than 64 KiB.";
    PayloadOfAnotherRail => "payload-of-another-rail", "What was made pays over another rail than the offer's.";
    PaymentIdMalformed => "payment-id-malformed", "The payment id is not 16 to 128 letters, digits, underscores or hyphens.";
}

impl From<AmountError> for Why {
    fn from(error: AmountError) -> Self {
        match error {
            AmountError::Empty | AmountError::NotDecimal | AmountError::TooPrecise => Self::AmountNotDecimal,
            AmountError::LeadingZero => Self::AmountLeadingZero,
            AmountError::TooLarge => Self::AmountTooLarge,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Why {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_unique_kebab_case() {
        let codes: HashSet<_> = Why::ALL.iter().map(|why| why.code()).collect();
        assert_eq!(codes.len(), Why::ALL.len());
        for code in codes {
            assert!(
                code.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{code}"
            );
        }
    }

    #[test]
    fn sentences_end() {
        for why in Why::ALL {
            assert!(why.to_string().ends_with('.'), "{why}");
        }
    }
}
