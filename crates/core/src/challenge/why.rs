//! Why a challenge, or one offer in it, is not paid.
//!
//! The wording is all ours: no text from the merchant is ever included, so reasons are safe to log, to show to an agent
//! and to match in scripts (threat 1.15).

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

            /// The sentence that `Display` shows.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    // The response as a whole.
    NoChallenge => "no-challenge", "The 402 contains no payment challenge that bursar knows.";
    HeaderEmpty => "challenge-header-empty", "The PAYMENT-REQUIRED header is empty.";
    /// Several fields, or several values merged into one: choosing one would be a guess.
    HeaderRepeated => "challenge-header-repeated", "The PAYMENT-REQUIRED header occurs more than once.";
    TooLarge => "challenge-too-large", "The challenge is larger than 64 KiB.";
    BodyUndecodable => "challenge-not-decodable", "The body of the 402 has a content coding that bursar cannot decode.";
    BodyCutOff => "challenge-cut-off", "The body of the 402 did not arrive completely in time.";
    NotBase64 => "challenge-not-base64", "The challenge is not base64.";
    NotJson => "challenge-not-json", "The challenge is not valid JSON.";
    NotObject => "challenge-not-object", "The challenge is not a JSON object.";
    DuplicateKey => "challenge-duplicate-key", "The challenge names the same JSON member twice.";
    TooDeep => "challenge-too-deep", "The challenge is nested deeper than 32 levels.";
    /// A JSON body without `x402Version`: a response that merely happens to be JSON.
    NotX402 => "not-x402", "The body of the 402 is not an x402 challenge.";
    VersionUnsupported => "version-unsupported", "The challenge's x402Version is not the one expected in this place.";
    V2InBody => "v2-in-body", "The x402 v2 challenge is in the body, but it belongs in the PAYMENT-REQUIRED header.";
    OffersMissing => "offers-missing", "The challenge has no list of offers.";
    OffersEmpty => "offers-empty", "The challenge has an empty list of offers.";
    SignInOnly => "sign-in-only", "The challenge asks for a wallet sign-in, not for a payment.";
    TooManyOffers => "too-many-offers", "The challenge has more than 64 offers.";

    // One `Payment` challenge of MPP.
    MppMalformed => "mpp-malformed", "A Payment challenge in WWW-Authenticate is not well-formed.";
    MppParameterTwice => "mpp-parameter-twice", "A Payment challenge repeats a parameter.";
    MppParameterMissing => "mpp-parameter-missing", "A Payment challenge lacks id, realm, method, intent or request.";
    MppMethodMalformed => "mpp-method-malformed", "A Payment challenge has a malformed method or intent.";
    MppRequestTooLarge => "mpp-request-too-large", "The request of a Payment challenge is longer than 16 KiB.";
    /// Anything but `Authorization` and `Payment-Authorization` (MPP §3.4).
    MppHeaderNotAllowed => "mpp-header-not-allowed", "A Payment challenge asks for its credential in a header field that is not allowed.";
    ExpiresMalformed => "expires-malformed", "The challenge's expires is not an RFC 3339 time.";
    ChallengeExpired => "challenge-expired", "The challenge has expired, or expires within 6 seconds.";
    /// The ledger already has its nonce: a challenge is answered only once (R18).
    ChallengeUsed => "challenge-used", "This challenge was already answered; the site must issue a new one.";
    DigestUnsupported => "digest-unsupported", "The challenge binds the request body by something other than SHA-256.";
    DigestMismatch => "digest-mismatch", "The challenge is for a different request body from the one sent.";
    RealmDiffers => "realm-differs", "The challenge's realm names another host than the requested one, or is not one that limits.toml lists.";
    ChainMissing => "chain-missing", "The offer does not name its chain.";
    CredentialTypeUnsupported => "credential-type-unsupported", "The offer does not accept an EIP-3009 authorization.";
    SplitsUnsupported => "splits-unsupported", "The offer splits the amount between several payees.";
    DecimalsMismatch => "decimals-mismatch", "The offer's decimals differ from the token's.";

    CurrencyUnknown => "currency-unknown", "Stripe does not charge in the offer's currency.";
    ProfileMalformed => "profile-malformed", "The offer does not name the seller's Stripe profile.";
    ExternalIdMalformed => "external-id-malformed", "The offer's externalId is not a string of at most 512 bytes.";
    ModeUnsupported => "mode-unsupported", "The offer does not accept a signed transaction (mode pull).";
    /// Our own memo ties the transfer to one challenge, so there is no room for another.
    MemoUnsupported => "memo-unsupported", "The offer requires its own memo in the transfer.";

    // MPP methods and intents that are recognised but not supported.
    MppUsdc => "mpp-usdc-not-paid", "The offer is for MPP's usdc method, which bursar does not support.";
    MppSolana => "mpp-solana-not-paid", "The offer is for MPP's solana method, which bursar does not support.";
    MppLightning => "mpp-lightning-not-paid", "The offer is for MPP's lightning method, which bursar does not support.";
    MppCard => "mpp-card-not-paid", "The offer is for MPP's card method, which bursar does not support.";
    MppStellar => "mpp-stellar-not-paid", "The offer is for MPP's stellar method, which bursar does not support.";
    MppHedera => "mpp-hedera-not-paid", "The offer is for MPP's hedera method, which bursar does not support.";
    MppNearIntents => "mpp-nearintents-not-paid", "The offer is for MPP's nearintents method, which bursar does not support.";
    MppMethodUnknown => "mpp-method-unknown", "The offer is for an MPP method that bursar does not know.";
    MppSession => "mpp-session-not-paid", "The offer is for a session with a deposit, which bursar does not support.";
    MppSubscription => "mpp-subscription-not-paid", "The offer is for a subscription, a standing right to charge, which bursar does not grant.";
    MppIntentUnknown => "mpp-intent-unknown", "The offer is for an MPP intent that bursar does not know.";

    // One requirement.
    /// It would be signed, but the seller would compare it with the first one (R70).
    FirstOfPair => "first-of-pair", "An earlier offer of the challenge has the same scheme and network, and an x402 v1 seller looks only at that one.";
    RequirementNotObject => "requirement-not-object", "The offer is not a JSON object.";
    SchemeUnsupported => "scheme-unsupported", "The offer uses a payment scheme other than \"exact\" and \"upto\".";
    NetworkMalformed => "network-malformed", "The offer's network is not a valid CAIP-2 name.";
    NetworkUnsupported => "network-unsupported", "The offer is for a network on which bursar knows no token.";
    AssetMalformed => "asset-malformed", "The offer's asset is not a contract address.";
    AssetUnknown => "asset-unknown", "The offer's asset is not in bursar's table of tokens.";
    AssetNeedsPermit2 => "asset-needs-permit2", "The offer's token can be paid only through Permit2, which the offer does not ask for.";
    TransferMethodUnsupported => "transfer-method-unsupported", "The offer asks for a transfer method other than EIP-3009 and Permit2.";
    FacilitatorMissing => "facilitator-missing", "The upto offer does not name the facilitator that may take the money.";
    PaymentFlowUnsupported => "payment-flow-unsupported", "The offer asks for a payment flow other than authorization or upfront.";
    TokenDomainMissing => "token-domain-missing", "The offer does not state the token's EIP-712 name and version.";
    TokenDomainMismatch => "token-domain-mismatch", "The offer's EIP-712 name or version differs from the token's.";
    AmountNotText => "amount-not-text", "The offer's amount is missing or is not a JSON string.";
    AmountNotDecimal => "amount-not-decimal", "The offer's amount is not a plain decimal number.";
    AmountLeadingZero => "amount-leading-zero", "The offer's amount has leading zeros.";
    AmountTooLarge => "amount-too-large", "The offer's amount does not fit in 128 bits.";
    PayeeMalformed => "payee-malformed", "The offer's payee is not an address.";
    PayeeChecksum => "payee-checksum", "The offer's payee has a wrong EIP-55 checksum.";
    PayeeZero => "payee-zero", "The offer's payee is the zero address.";
    PayeeIsAsset => "payee-is-asset", "The offer's payee is the token contract itself or, on Tempo, any token.";
    TimeoutNotInteger => "timeout-not-integer", "The offer's maxTimeoutSeconds is missing or is not a JSON integer.";
    TimeoutOutOfRange => "timeout-out-of-range", "The offer's maxTimeoutSeconds is below 10.";

    // The offer, checked against the payer.
    NoWallet => "no-wallet", "The offer needs a wallet, but [wallet] in bursar.toml names no key.";
    StripeNotConfigured => "stripe-not-configured", "The offer is for Stripe, but [stripe] in bursar.toml names no key.";
    /// A test key pays only test sellers, a live key only live ones.
    StripeModeDiffers => "stripe-mode-differs", "Of the seller's Stripe profile and bursar's Stripe key, one is for test payments and the other for live ones.";
    NetworkNotConfigured => "network-not-configured", "The offer is for a network that is not listed under [networks] in bursar.toml.";
    SignerCents => "signer-whole-cents", "BKey pays only whole US cents, and the offer's amount is zero or has a fraction of a cent.";
    SignerToken => "signer-other-token", "BKey signs for one token on one network, but the offer is for another.";
    /// The nonce is derived from the challenge (R18).
    SignerNonce => "signer-chooses-nonce", "The offer fixes the nonce of its authorization, but BKey chooses its own.";
    SignerRail => "signer-only-eip3009", "BKey signs only EIP-3009 authorizations for x402, but the offer needs another credential.";
    SignerCurrency => "signer-only-dollars", "BKey issues tokens in US dollars only.";
    /// Without a node there is no proof of what was taken (R12).
    UpToNeedsNode => "upto-needs-node", "The seller may take any part of the amount, and no RPC node is configured to prove how much.";
    AllowanceMissing => "allowance-missing", "The wallet has given Permit2 no allowance for this token, and the seller does not submit a permit.";
    AllowanceUnknown => "allowance-unknown", "No RPC node could say whether Permit2 has an allowance for this token from the wallet.";
    /// Two permits at the same time would have the same nonce.
    PermissionBusy => "permission-busy", "The seller of another payment is still submitting the wallet's permit for Permit2.";
    PayeeIsPayer => "payee-is-payer", "The offer's payee is bursar's own wallet.";
    AmountZero => "amount-zero", "The offer's amount is zero, and zero_amount is not set in limits.toml.";
    ResourceHostDiffers => "resource-host-differs", "The challenge is for a resource on a host other than the one requested.";
    ResourceUnreadable => "resource-unreadable", "The host of the challenge's resource could not be parsed.";

    // The credential.
    CredentialTooLarge => "credential-too-large", "The payment header would be larger than 64 KiB.";
    PayloadOfAnotherRail => "payload-of-another-rail", "The signed payload is for a different rail from the offer's.";
    PaymentIdMalformed => "payment-id-malformed", "The payment id is not 16 to 128 letters, digits, underscores or hyphens.";
}

impl Why {
    /// What to do about it, and who can.
    pub const fn what_to_do(self) -> &'static str {
        const SELLER: &str = "The site's challenge is at fault; tell the site's operator.";
        const ANOTHER_WAY: &str = "Use a site, or another offer of it, that takes a payment which bursar supports.";
        match self {
            Self::NoChallenge | Self::NotX402 | Self::VersionUnsupported | Self::SignInOnly => ANOTHER_WAY,
            Self::TooLarge | Self::BodyUndecodable | Self::TooManyOffers | Self::TooDeep => SELLER,
            Self::BodyCutOff => "Try again; if it happens each time, the fault is the site's.",
            Self::ChallengeExpired | Self::ChallengeUsed => {
                "Send the request again: the site should answer with a fresh challenge."
            }
            Self::DigestMismatch => {
                "Send the request again with the same body; if it happens each time, the fault is the site's."
            }
            Self::RealmDiffers | Self::ResourceHostDiffers => {
                "If the merchant really uses that name, finance can list it in the merchant's section of limits.toml: a host under `resource_hosts`, the text of a realm under `realms`."
            }
            Self::ChainMissing
            | Self::DecimalsMismatch
            | Self::CurrencyUnknown
            | Self::ProfileMalformed
            | Self::ExternalIdMalformed
            | Self::FacilitatorMissing
            | Self::TokenDomainMissing
            | Self::TokenDomainMismatch => SELLER,
            Self::CredentialTypeUnsupported
            | Self::SplitsUnsupported
            | Self::DigestUnsupported
            | Self::ModeUnsupported
            | Self::MemoUnsupported
            | Self::MppHeaderNotAllowed
            | Self::MppUsdc
            | Self::MppSolana
            | Self::MppLightning
            | Self::MppCard
            | Self::MppStellar
            | Self::MppHedera
            | Self::MppNearIntents
            | Self::MppMethodUnknown
            | Self::MppSession
            | Self::MppSubscription
            | Self::MppIntentUnknown
            | Self::SchemeUnsupported
            | Self::NetworkUnsupported
            | Self::AssetUnknown
            | Self::AssetNeedsPermit2
            | Self::TransferMethodUnsupported
            | Self::PaymentFlowUnsupported => ANOTHER_WAY,
            Self::NoWallet => "The operator can name a key under [wallet.evm] in bursar.toml.",
            Self::StripeNotConfigured => "The operator can set up [stripe] in bursar.toml.",
            Self::StripeModeDiffers => {
                "Use a key of the same mode as the seller: a test key pays test sellers, a live key live ones."
            }
            Self::NetworkNotConfigured => "The operator can add the network under [networks] in bursar.toml.",
            Self::FirstOfPair => {
                "Look at the reason of the earlier offer with the same scheme and network; only that one could be paid."
            }
            Self::SignerCents | Self::SignerToken | Self::SignerNonce | Self::SignerRail | Self::SignerCurrency => {
                "BKey cannot pay this; a wallet key of your own, or a Stripe account, can."
            }
            Self::UpToNeedsNode => "The operator can name a node for the network (`rpc` under [networks]).",
            Self::AllowanceMissing => {
                "Approve Permit2 for this token from the wallet, for as much as you are willing to spend."
            }
            Self::AllowanceUnknown => "Try again later; the operator should check the nodes under [networks].",
            Self::PermissionBusy => "Try again in a minute.",
            Self::AmountZero => {
                "Finance can set `zero_amount = true` in limits.toml if such requests should be answered."
            }
            Self::PayeeIsPayer => "The site asks you to pay yourself; tell the site's operator.",
            Self::CredentialTooLarge => SELLER,
            Self::PayloadOfAnotherRail | Self::PaymentIdMalformed => "This is a bug in bursar; please report it.",
            Self::HeaderEmpty
            | Self::HeaderRepeated
            | Self::NotBase64
            | Self::NotJson
            | Self::NotObject
            | Self::DuplicateKey
            | Self::V2InBody
            | Self::OffersMissing
            | Self::OffersEmpty
            | Self::MppMalformed
            | Self::MppParameterTwice
            | Self::MppParameterMissing
            | Self::MppMethodMalformed
            | Self::MppRequestTooLarge
            | Self::ExpiresMalformed
            | Self::RequirementNotObject
            | Self::NetworkMalformed
            | Self::AssetMalformed
            | Self::AmountNotText
            | Self::AmountNotDecimal
            | Self::AmountLeadingZero
            | Self::AmountTooLarge
            | Self::PayeeMalformed
            | Self::PayeeChecksum
            | Self::PayeeZero
            | Self::PayeeIsAsset
            | Self::TimeoutNotInteger
            | Self::TimeoutOutOfRange
            | Self::ResourceUnreadable => SELLER,
        }
    }
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
