//! The request headers that can carry a credential (x402 §2.3, §2.4, MPP §3.4).

use http::HeaderName;
use http::header::AUTHORIZATION;

/// `PAYMENT-SIGNATURE`: the x402 v2 credential.
pub(super) const PAYMENT_SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
/// `X-PAYMENT`: the x402 v1 credential.
pub(super) const X_PAYMENT: HeaderName = HeaderName::from_static("x-payment");
/// `Payment-Authorization`: where a credential goes if the server needs `Authorization` for itself.
const PAYMENT_AUTHORIZATION: HeaderName = HeaderName::from_static("payment-authorization");

/// The request field that carries the credential. Only these are possible, whatever a challenge's `header` says:
/// otherwise a server could make us write to `Cookie` or `Host` (MPP §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CredentialField {
    Authorization,
    PaymentAuthorization,
}

impl CredentialField {
    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Authorization, Self::PaymentAuthorization]
            .into_iter()
            .find(|field| name.eq_ignore_ascii_case(field.header().as_str()))
    }

    pub(super) const fn header(self) -> HeaderName {
        match self {
            Self::Authorization => AUTHORIZATION,
            Self::PaymentAuthorization => PAYMENT_AUTHORIZATION,
        }
    }
}
