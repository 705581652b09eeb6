//! Every answer that bursar writes itself: refusals, errors, the login. One place, so that an agent always finds the same
//! shape: `application/problem+json` (RFC 9457) with a stable `type`, and `Proxy-Status` (RFC 9209).
//!
//! The codes are a contract (R37): listed in the README, never renamed.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Map, Value};

use bursar_core::policy::Refusal;
use bursar_ledger::PaymentId;
use bursar_net::body::AnswerBody;

pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub const BURSAR_PAYMENT: HeaderName = HeaderName::from_static("bursar-payment");

/// What happened, by its stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BadRequest,
    ProxyAuthentication,
    Loop,
    AgentPayment,
    DestinationNotAllowed,
    HostMismatch,
    UpstreamUnreachable,
    UpstreamName,
    UpstreamCertificate,
    UpstreamBroken,
    UpstreamTimeout,
    WalletInsufficient,
    StoreUnavailable,
    SigningFailed,
    PaymentDeclined,
    TokenUnavailable,
    SignerUnavailable,
    SignerPending,
    ApprovalPending,
    ApprovalDenied,
    ApprovalExpired,
    ApprovalFailed,
    ApprovalBusy,
    AnswerLost,
    AnswerLate,
    PaymentInDoubt,
    PaidNotDelivered,
    AlreadyPaid,
    IdempotencyKeyReused,
    IdempotencyKeyUnusable,
}

impl Code {
    pub const ALL: [Self; 30] = [
        Self::BadRequest,
        Self::ProxyAuthentication,
        Self::Loop,
        Self::AgentPayment,
        Self::DestinationNotAllowed,
        Self::HostMismatch,
        Self::UpstreamUnreachable,
        Self::UpstreamName,
        Self::UpstreamCertificate,
        Self::UpstreamBroken,
        Self::UpstreamTimeout,
        Self::WalletInsufficient,
        Self::StoreUnavailable,
        Self::SigningFailed,
        Self::PaymentDeclined,
        Self::TokenUnavailable,
        Self::SignerUnavailable,
        Self::SignerPending,
        Self::ApprovalPending,
        Self::ApprovalDenied,
        Self::ApprovalExpired,
        Self::ApprovalFailed,
        Self::ApprovalBusy,
        Self::AnswerLost,
        Self::AnswerLate,
        Self::PaymentInDoubt,
        Self::PaidNotDelivered,
        Self::AlreadyPaid,
        Self::IdempotencyKeyReused,
        Self::IdempotencyKeyUnusable,
    ];

    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    const fn title(self) -> &'static str {
        self.row().3
    }

    /// Code, status, RFC 9209 error type, title.
    const fn row(self) -> (&'static str, StatusCode, &'static str, &'static str) {
        const DENIED: &str = "http_request_denied";
        match self {
            Self::BadRequest => (
                "bad-request",
                StatusCode::BAD_REQUEST,
                "http_request_error",
                "This is not a request a proxy can forward",
            ),
            Self::ProxyAuthentication => (
                "proxy-authentication",
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                DENIED,
                "The proxy does not know who is asking",
            ),
            Self::Loop => (
                "loop",
                StatusCode::LOOP_DETECTED,
                "proxy_loop_detected",
                "The request leads back to this proxy",
            ),
            Self::AgentPayment => (
                "agent-payment",
                StatusCode::FORBIDDEN,
                DENIED,
                "Agents do not pay by themselves here",
            ),
            Self::DestinationNotAllowed => (
                "destination-not-allowed",
                StatusCode::FORBIDDEN,
                "destination_ip_prohibited",
                "This destination may not be reached through the proxy",
            ),
            Self::HostMismatch => (
                "host-mismatch",
                StatusCode::MISDIRECTED_REQUEST,
                DENIED,
                "The request names another host than the tunnel",
            ),
            Self::UpstreamUnreachable => (
                "upstream-unreachable",
                StatusCode::BAD_GATEWAY,
                "connection_refused",
                "The site could not be reached",
            ),
            Self::UpstreamName => (
                "upstream-name",
                StatusCode::BAD_GATEWAY,
                "dns_error",
                "The site's name could not be resolved",
            ),
            Self::UpstreamCertificate => (
                "upstream-certificate",
                StatusCode::BAD_GATEWAY,
                "tls_certificate_error",
                "The site's certificate could not be verified",
            ),
            Self::UpstreamBroken => (
                "upstream-broken",
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "The site broke off the exchange",
            ),
            Self::UpstreamTimeout => (
                "upstream-timeout",
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "The site did not answer in time",
            ),
            Self::WalletInsufficient => (
                "wallet-insufficient",
                StatusCode::FORBIDDEN,
                DENIED,
                "The wallet does not hold enough for this payment",
            ),
            Self::StoreUnavailable => (
                "store-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "The payment could not be recorded, so nothing was paid",
            ),
            Self::SigningFailed => (
                "signing-failed",
                StatusCode::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "The payment could not be signed, so nothing was paid",
            ),
            Self::PaymentDeclined => (
                "payment-declined",
                StatusCode::FORBIDDEN,
                DENIED,
                "The payment was declined, so nothing was paid",
            ),
            Self::TokenUnavailable => (
                "token-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "Stripe issued no token, so nothing was paid",
            ),
            Self::SignerUnavailable => (
                "signer-unavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "BKey made no credential, so nothing was paid",
            ),
            Self::SignerPending => (
                "signer-pending",
                StatusCode::SERVICE_UNAVAILABLE,
                DENIED,
                "A person has yet to confirm this payment on the phone",
            ),
            Self::ApprovalPending => (
                "approval-pending",
                StatusCode::SERVICE_UNAVAILABLE,
                DENIED,
                "A person has yet to approve this payment",
            ),
            Self::ApprovalDenied => (
                "approval-denied",
                StatusCode::FORBIDDEN,
                DENIED,
                "A person has denied this payment",
            ),
            Self::ApprovalExpired => (
                "approval-expired",
                StatusCode::SERVICE_UNAVAILABLE,
                DENIED,
                "Nobody decided about this payment in time",
            ),
            Self::ApprovalFailed => (
                "approval-failed",
                StatusCode::SERVICE_UNAVAILABLE,
                "proxy_internal_error",
                "Nobody could be asked about this payment",
            ),
            Self::ApprovalBusy => (
                "approval-busy",
                StatusCode::SERVICE_UNAVAILABLE,
                DENIED,
                "Too much is being asked of the approver",
            ),
            Self::AnswerLost => (
                "answer-lost",
                StatusCode::BAD_GATEWAY,
                "connection_terminated",
                "Paid, but the site's answer was lost",
            ),
            Self::AnswerLate => (
                "answer-late",
                StatusCode::GATEWAY_TIMEOUT,
                "http_response_timeout",
                "Paid, but the site has not answered in time",
            ),
            Self::PaymentInDoubt => (
                "payment-in-doubt",
                StatusCode::CONFLICT,
                DENIED,
                "An earlier payment for this request is still in doubt",
            ),
            Self::PaidNotDelivered => (
                "paid-not-delivered",
                StatusCode::CONFLICT,
                DENIED,
                "This request is paid, but its answer was not delivered",
            ),
            Self::AlreadyPaid => (
                "already-paid",
                StatusCode::CONFLICT,
                DENIED,
                "A payment was made under this Idempotency-Key already",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                DENIED,
                "This Idempotency-Key belongs to another request",
            ),
            Self::IdempotencyKeyUnusable => (
                "idempotency-key-unusable",
                StatusCode::BAD_REQUEST,
                DENIED,
                "This Idempotency-Key cannot be relied on",
            ),
        }
    }
}

/// A problem document in the making. Boxed, because it is the rare side of every `Result` that it stands in.
pub struct Problem(Box<Document>);

struct Document {
    status: StatusCode,
    code: &'static str,
    error: &'static str,
    title: &'static str,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
    payment: Option<PaymentId>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (name, status, error, title) = code.row();
        debug_assert_eq!(code.title(), title);
        Self(Box::new(Document {
            status,
            code: name,
            error,
            title,
            detail: sentence(detail.into()),
            members: Map::new(),
            retry_after: None,
            payment: None,
        }))
    }

    /// Finance's file says no: which rule, how much is used and reserved, when it resets (R230).
    pub fn refused(refusal: &Refusal) -> Self {
        let mut members = Map::new();
        members.insert("rule".into(), refusal.rule.clone().into());
        let amounts = [
            ("limit", &refusal.limit),
            ("used", &refusal.used),
            ("reserved", &refusal.reserved),
            ("asked", &refusal.asked),
        ];
        for (name, value) in amounts {
            if let Some(value) = value {
                members.insert(name.into(), value.clone().into());
            }
        }
        if let Some(at) = refusal.resets_at {
            members.insert("resets_at".into(), at.to_string().into());
        }
        members.insert("retryable".into(), false.into());
        Self(Box::new(Document {
            status: StatusCode::FORBIDDEN,
            code: refusal.code.code(),
            error: "http_request_denied",
            title: "The payment is not allowed",
            detail: refusal.detail.clone(),
            members,
            retry_after: None,
            payment: None,
        }))
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.members.insert("retryable".into(), retryable.into());
        self
    }

    pub fn payment(mut self, rid: PaymentId) -> Self {
        self.0.members.insert("payment".into(), rid.to_string().into());
        self.0.payment = Some(rid);
        self
    }

    /// Another status than the code's own, where bursar.toml sets one.
    pub fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The question that a person is asked, by its id, and until when it stands.
    pub fn approval(mut self, id: PaymentId, expires_at: Option<Timestamp>) -> Self {
        let members = &mut self.0.members;
        members.insert("approval_id".into(), id.to_string().into());
        if let Some(at) = expires_at {
            members.insert("expires_at".into(), at.to_string().into());
        }
        self
    }

    /// The transaction that settled the payment.
    pub fn transaction(mut self, tx: &str) -> Self {
        self.0.members.insert("tx".into(), tx.into());
        self
    }

    pub fn code(&self) -> &'static str {
        self.0.code
    }

    pub fn into_response(self) -> Response<AnswerBody> {
        let this = *self.0;
        let mut document = Map::new();
        document.insert("type".into(), format!("urn:bursar:problem:{}", this.code).into());
        document.insert("title".into(), this.title.into());
        document.insert("status".into(), this.status.as_u16().into());
        document.insert("detail".into(), this.detail.into());
        document.extend(this.members);
        let mut text = serde_json::to_vec_pretty(&document).unwrap_or_default();
        text.push(b'\n');

        let mut response = Response::new(AnswerBody::full(Bytes::from(text)));
        *response.status_mut() = this.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // RFC 9110 §6.6.1: whoever makes an answer dates it.
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
        if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
            headers.insert(DATE, date);
        }
        if let Ok(value) = HeaderValue::try_from(format!("bursar; error={}; details=\"{}\"", this.error, this.code)) {
            headers.insert(PROXY_STATUS, value);
        }
        if let Some(wait) = this.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if let Some(rid) = this.payment {
            mark_paid(headers, rid);
        }
        if this.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            headers.insert(
                PROXY_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"bursar\", charset=\"UTF-8\""),
            );
        }
        response
    }
}

/// Errors begin in lower case, because they are joined to other words; what an agent reads is a sentence.
fn sentence(text: String) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if first.is_ascii_lowercase() => first.to_ascii_uppercase().to_string() + letters.as_str(),
        _ => text,
    }
}

/// Names the payment on an answer, whoever wrote that answer.
pub fn mark_paid(headers: &mut HeaderMap, rid: PaymentId) {
    if let Ok(value) = HeaderValue::try_from(rid.to_string()) {
        headers.insert(BURSAR_PAYMENT, value);
    }
}

/// Says on a 402 that is passed on why it was not paid. Other proxies' members stay (RFC 9209 §2).
pub fn mark_unpaid(headers: &mut HeaderMap, why: &'static str) {
    if let Ok(value) = HeaderValue::try_from(format!("bursar; details=\"{why}\"")) {
        headers.append(PROXY_STATUS, value);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use bursar_core::challenge::Why;
    use bursar_core::policy::RefusalCode;

    #[test]
    fn codes_are_unique_and_plain() {
        let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
    }

    #[test]
    fn the_readme_lists_every_code() {
        let readme = include_str!("../README.md");
        let codes = Code::ALL.map(Code::as_str);
        let refusals = RefusalCode::ALL.map(RefusalCode::code);
        let reasons = Why::ALL.iter().map(|why| why.code());
        for code in codes.into_iter().chain(refusals).chain(reasons) {
            assert!(readme.contains(&format!("`{code}`")), "README.md lacks `{code}`");
        }
    }

    #[test]
    fn the_login_says_how() {
        let response = Problem::new(Code::ProxyAuthentication, "x").into_response();
        assert_eq!(response.status(), 407);
        assert!(
            response.headers()[PROXY_AUTHENTICATE]
                .to_str()
                .unwrap()
                .starts_with("Basic")
        );
        assert_eq!(
            response.headers()[PROXY_STATUS],
            "bursar; error=http_request_denied; details=\"proxy-authentication\""
        );
    }
}
