//! One token: for one seller, one charge, up to an amount, until a time.

use serde_json::{Map, Value, json};

use super::AccountId;

/// What a token is created with.
pub(super) struct Terms {
    /// `None` for a token from the test helper.
    pub issuer: Option<AccountId>,
    pub grantee: AccountId,
    pub seller_profile: Option<String>,
    pub external_id: Option<String>,
    pub card: Card,
    pub currency: &'static str,
    pub max_amount: u64,
    pub expires_at: Option<u64>,
    pub return_url: Option<String>,
    pub setup_future_usage: Option<&'static str>,
    pub shared_metadata: Map<String, Value>,
    pub use_stripe_sdk: Option<bool>,
}

/// Stripe's test payment methods, each with its own outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Card {
    /// `pm_card_visa`: always succeeds.
    Visa,
    /// `pm_card_authenticationRequired`: the holder has to confirm first.
    AuthenticationRequired,
    /// `pm_card_chargeDeclined`: no token is issued.
    ChargeDeclined,
    /// `pm_card_chargeCustomerFail`: the token is issued, but charging it fails.
    ChargeCustomerFail,
}

pub(super) struct Token {
    id: String,
    terms: Terms,
    created: u64,
    token_state: TokenState,
    captured: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenState {
    Active,
    RequiresAction,
    Deactivated { reason: Reason, at: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Consumed,
    Expired,
    Revoked,
}

/// Why a token was not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCharge {
    RequiresAction,
    Deactivated(Reason),
    Currency,
    Amount,
    Card,
}

/// The effect of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Revoked {
    Now,
    /// The token was already deactivated without a charge.
    Before,
    /// The token was already charged, so it cannot be revoked.
    TooLate,
}

impl Card {
    pub(super) fn named(payment_method: &str) -> Option<Self> {
        [
            Self::Visa,
            Self::AuthenticationRequired,
            Self::ChargeDeclined,
            Self::ChargeCustomerFail,
        ]
        .into_iter()
        .find(|card| card.name() == payment_method)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Visa => "pm_card_visa",
            Self::AuthenticationRequired => "pm_card_authenticationRequired",
            Self::ChargeDeclined => "pm_card_chargeDeclined",
            Self::ChargeCustomerFail => "pm_card_chargeCustomerFail",
        }
    }
}

impl Reason {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Consumed => "consumed",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    pub(super) fn new(id: String, terms: Terms, now: u64) -> Self {
        let token_state = match terms.card {
            Card::AuthenticationRequired => TokenState::RequiresAction,
            _ => TokenState::Active,
        };
        Self {
            id,
            terms,
            created: now,
            token_state,
            captured: 0,
        }
    }

    pub(super) fn is_issued_by(&self, account: AccountId) -> bool {
        self.terms.issuer == Some(account)
    }

    pub(super) fn is_granted_to(&self, account: AccountId) -> bool {
        self.terms.grantee == account
    }

    /// Expires the token if its time has come; called before every access.
    pub(super) fn see(&mut self, now: u64) {
        if let Some(at) = self.terms.expires_at.filter(|at| *at <= now)
            && !matches!(self.token_state, TokenState::Deactivated { .. })
        {
            let reason = Reason::Expired;
            self.token_state = TokenState::Deactivated { reason, at };
        }
    }

    pub(super) fn authenticate(&mut self) -> bool {
        let waits = self.token_state == TokenState::RequiresAction;
        if waits {
            self.token_state = TokenState::Active;
        }
        waits
    }

    pub(super) fn revoke(&mut self, now: u64) -> Revoked {
        self.see(now);
        match self.token_state {
            TokenState::Active | TokenState::RequiresAction => {
                let reason = Reason::Revoked;
                self.token_state = TokenState::Deactivated { reason, at: now };
                Revoked::Now
            }
            TokenState::Deactivated {
                reason: Reason::Consumed,
                ..
            } => Revoked::TooLate,
            TokenState::Deactivated { .. } => Revoked::Before,
        }
    }

    /// Charges `amount` once; the rest of the maximum is forfeited.
    pub(super) fn charge(&mut self, amount: u64, currency: &str, now: u64) -> Result<(), NoCharge> {
        self.see(now);
        match self.token_state {
            TokenState::RequiresAction => return Err(NoCharge::RequiresAction),
            TokenState::Deactivated { reason, .. } => return Err(NoCharge::Deactivated(reason)),
            TokenState::Active => {}
        }
        if currency != self.terms.currency {
            return Err(NoCharge::Currency);
        }
        if amount > self.terms.max_amount {
            return Err(NoCharge::Amount);
        }
        if self.terms.card == Card::ChargeCustomerFail {
            return Err(NoCharge::Card);
        }
        let reason = Reason::Consumed;
        self.token_state = TokenState::Deactivated { reason, at: now };
        self.captured = amount;
        Ok(())
    }

    /// The token as its issuer sees it.
    pub(super) fn issued_json(&self) -> Value {
        let terms = &self.terms;
        let status = match self.token_state {
            TokenState::Active => "active",
            TokenState::RequiresAction => "requires_action",
            TokenState::Deactivated { .. } => "deactivated",
        };
        json!({
            "id": self.id,
            "object": "shared_payment.issued_token",
            "created": self.created,
            "deactivated_at": self.deactivated().map(|(_, at)| at),
            "deactivated_reason": self.deactivated().map(|(reason, _)| reason.word()),
            "livemode": false,
            "next_action": self.next_action(),
            "payment_method": terms.card.name(),
            "return_url": terms.return_url,
            "risk_details": null,
            "seller_details": terms.seller_profile.as_ref().map(|profile| json!({
                "external_id": terms.external_id.clone().unwrap_or_default(),
                "network_business_profile": profile,
            })),
            "setup_future_usage": terms.setup_future_usage,
            "shared_metadata": terms.shared_metadata,
            "status": status,
            "usage_details": self.usage_details(),
            "usage_limits": self.usage_limits(),
            "use_stripe_sdk": terms.use_stripe_sdk,
        })
    }

    /// The token as the seller who may charge it sees it. It has no status.
    pub(super) fn granted_json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "shared_payment.granted_token",
            "agent_details": null,
            "created": self.created,
            "deactivated_at": self.deactivated().map(|(_, at)| at),
            "deactivated_reason": self.deactivated().map(|(reason, _)| reason.word()),
            "livemode": false,
            "payment_method_details": null,
            "risk_details": null,
            "shared_metadata": self.terms.shared_metadata,
            "usage_details": self.usage_details(),
            "usage_limits": self.usage_limits(),
        })
    }

    fn deactivated(&self) -> Option<(Reason, u64)> {
        match self.token_state {
            TokenState::Deactivated { reason, at } => Some((reason, at)),
            TokenState::Active | TokenState::RequiresAction => None,
        }
    }

    fn next_action(&self) -> Value {
        match (self.token_state, self.terms.use_stripe_sdk) {
            (TokenState::RequiresAction, Some(true)) => json!({
                "type": "use_stripe_sdk",
                "redirect_to_url": null,
                "use_stripe_sdk": { "value": "c2FuZGJveA==" },
            }),
            (TokenState::RequiresAction, _) => json!({
                "type": "redirect_to_url",
                "redirect_to_url": {
                    "return_url": self.terms.return_url.clone().unwrap_or_default(),
                    "url": "https://hooks.stripe.com/redirect/authenticate/sandbox",
                },
                "use_stripe_sdk": null,
            }),
            _ => Value::Null,
        }
    }

    fn usage_details(&self) -> Value {
        json!({ "amount_captured": { "currency": self.terms.currency, "value": self.captured } })
    }

    fn usage_limits(&self) -> Value {
        json!({
            "currency": self.terms.currency,
            "expires_at": self.terms.expires_at,
            "max_amount": self.terms.max_amount,
        })
    }
}
