//! A token as Stripe describes it, read strictly: nothing is assumed about what the answer leaves out.

use http::Uri;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::Order;
use super::key::Mode;
use super::names::{Currency, TokenId};
use super::service::Endpoint;
use bursar_core::host::Host;

#[cfg(test)]
mod tests;

/// A token and what Stripe says about it. It has no `Debug`: the id is a bearer secret.
pub struct Issued {
    pub id: TokenId,
    pub status: Status,
    pub limits: Limits,
    /// `None` if Stripe does not say, which proves nothing.
    pub captured: Option<Captured>,
    pub mode: Mode,
    /// The profile that may charge it, if Stripe names it.
    seller: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The only status in which a token may be used for a payment.
    Active,
    /// The cardholder has to confirm first, at this host if it could be read.
    RequiresAction {
        at: Option<Host>,
    },
    Deactivated(DeactivationReason),
}

/// Why a token can no longer be charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeactivationReason {
    /// Charged up to its limit.
    Consumed,
    Expired,
    /// The seller is done with it. `captured` says whether it paid.
    Resolved,
    Revoked,
    /// Not stated, or a reason that is not known here.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub currency: Currency,
    /// In minor units.
    pub max_amount: u64,
    /// Unix seconds.
    pub expires_at: Option<u64>,
}

/// What has been captured with a token so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    pub currency: Currency,
    /// In minor units.
    pub value: u64,
}

/// How a token differs from the one that was ordered or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Mode,
    Currency,
    MaxAmount,
    ExpiresAt,
    Seller,
    Token,
}

impl Issued {
    /// Reads the body of a 200 from `endpoint`. A member that is read must not appear twice.
    pub fn parse(body: &[u8], endpoint: Endpoint) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(body).ok()?;
        let status = match endpoint {
            Endpoint::Issued if wire.object == "shared_payment.issued_token" => wire.issued_status()?,
            Endpoint::TestHelper if wire.object == "shared_payment.granted_token" => wire.granted_status(),
            _ => return None,
        };
        let currency = |text: &str| Currency::parse(text).ok();
        let limits = Limits {
            currency: currency(&wire.usage_limits.currency)?,
            max_amount: wire.usage_limits.max_amount,
            expires_at: wire.usage_limits.expires_at,
        };
        let captured = match wire.usage_details.and_then(|details| details.amount_captured) {
            None => None,
            Some(captured) => Some(Captured {
                currency: currency(&captured.currency)?,
                value: captured.value,
            }),
        };
        Some(Self {
            id: wire.id,
            status,
            limits,
            captured,
            mode: match wire.livemode {
                true => Mode::Live,
                false => Mode::Test,
            },
            seller: wire.seller_details.and_then(|seller| seller.network_business_profile),
        })
    }

    /// The token's id, if it may be sent to the seller.
    pub fn presentable(&self) -> Option<&TokenId> {
        (self.status == Status::Active).then_some(&self.id)
    }

    /// The first difference from the order. The payment method is not compared: for a test payment method, Stripe
    /// answers with a name of its own.
    pub fn difference(&self, order: &Order<'_>) -> Option<Difference> {
        let is_other_seller = |seller: &String| seller != order.seller.as_str();
        if self.limits.currency != order.currency {
            Some(Difference::Currency)
        } else if self.limits.max_amount != order.max_amount {
            Some(Difference::MaxAmount)
        } else if self.limits.expires_at != Some(order.expires_at) {
            Some(Difference::ExpiresAt)
        } else if self.seller.as_ref().is_some_and(is_other_seller) {
            Some(Difference::Seller)
        } else {
            None
        }
    }
}

/// The members that are read. One without `default` must be present, even if it is `null`.
#[derive(Deserialize)]
struct Wire {
    #[serde(deserialize_with = "token_id")]
    id: TokenId,
    object: String,
    livemode: bool,
    /// Granted tokens have no status.
    #[serde(default)]
    status: Option<String>,
    #[serde(deserialize_with = "said")]
    deactivated_at: Option<u64>,
    #[serde(deserialize_with = "said")]
    deactivated_reason: Option<String>,
    #[serde(default)]
    next_action: Option<NextAction>,
    usage_limits: UsageLimits,
    #[serde(default)]
    usage_details: Option<UsageDetails>,
    #[serde(default)]
    seller_details: Option<SellerDetails>,
}

#[derive(Deserialize)]
struct UsageLimits {
    currency: String,
    max_amount: u64,
    #[serde(deserialize_with = "said")]
    expires_at: Option<u64>,
}

#[derive(Deserialize)]
struct UsageDetails {
    #[serde(default)]
    amount_captured: Option<AmountCaptured>,
}

#[derive(Deserialize)]
struct AmountCaptured {
    currency: String,
    value: u64,
}

#[derive(Deserialize)]
struct SellerDetails {
    #[serde(default)]
    network_business_profile: Option<String>,
}

#[derive(Deserialize)]
struct NextAction {
    #[serde(default)]
    redirect_to_url: Option<RedirectToUrl>,
}

#[derive(Deserialize)]
struct RedirectToUrl {
    url: String,
}

impl Wire {
    /// `None` for an unknown status, or one that another member contradicts.
    fn issued_status(&self) -> Option<Status> {
        match (self.status.as_deref()?, self.is_deactivated()) {
            ("active", false) => Some(Status::Active),
            ("requires_action", false) => Some(Status::RequiresAction {
                at: self.next_action.as_ref().and_then(NextAction::host),
            }),
            ("deactivated", _) => Some(Status::Deactivated(self.reason())),
            _ => None,
        }
    }

    fn granted_status(&self) -> Status {
        match self.is_deactivated() {
            false => Status::Active,
            true => Status::Deactivated(self.reason()),
        }
    }

    fn is_deactivated(&self) -> bool {
        self.deactivated_at.is_some() || self.deactivated_reason.is_some()
    }

    fn reason(&self) -> DeactivationReason {
        match self.deactivated_reason.as_deref() {
            Some("consumed") => DeactivationReason::Consumed,
            Some("expired") => DeactivationReason::Expired,
            Some("resolved") => DeactivationReason::Resolved,
            Some("revoked") => DeactivationReason::Revoked,
            _ => DeactivationReason::Other,
        }
    }
}

impl NextAction {
    /// The host only: the rest of the URL is a secret of the cardholder's.
    fn host(&self) -> Option<Host> {
        let url: Uri = self.redirect_to_url.as_ref()?.url.parse().ok()?;
        let authority = url.authority()?;
        let sane = url.scheme_str() == Some("https") && !authority.as_str().contains('@');
        sane.then(|| Host::parse(authority.host()).ok()).flatten()
    }
}

fn token_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TokenId, D::Error> {
    let text = Zeroizing::new(String::deserialize(deserializer)?);
    TokenId::parse(&text).map_err(D::Error::custom)
}

/// Accepts `null`, but not a missing member.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}
