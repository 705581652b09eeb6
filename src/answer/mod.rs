//! Every answer that bursar writes itself: refusals, errors, the login. They are all made here, so that an agent always
//! finds the same shape: `application/problem+json` (RFC 9457) with a stable `type`, and `Proxy-Status` (RFC 9209).

mod code;
pub(crate) mod explained;
mod unpaid;

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Map, Value};

use bursar_core::agent_name::AgentName;
use bursar_core::host::Host;
use bursar_core::money::MicroUsd;
use bursar_core::plain::plain_json;
use bursar_core::policy::{Refusal, Remaining};
use bursar_ledger::PaymentId;
use bursar_net::body::AnswerBody;
use bursar_net::dial::DialError;
use bursar_net::shares::Full;
use bursar_net::upstream::UpstreamError;
pub(crate) use code::{Code, Spec};
pub(crate) use unpaid::Unpaid;

/// When to try again after something was used up: requests and connections end all the time.
const ROOM_AGAIN: Duration = Duration::from_secs(2);

pub(crate) const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
pub(crate) const BURSAR_PAYMENT: HeaderName = HeaderName::from_static("bursar-payment");
const BURSAR_PRICE: HeaderName = HeaderName::from_static("bursar-price");
const BURSAR_REMAINING: HeaderName = HeaderName::from_static("bursar-remaining");
const BURSAR_NOTE: HeaderName = HeaderName::from_static("bursar-note");

/// A problem document under construction. Boxed, because it is the rare side of the `Result`s that carry it.
pub(crate) struct Problem(Box<Document>);

struct Document {
    spec: Spec,
    /// The status of the code, unless bursar.toml sets another one.
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
    payment: Option<PaymentId>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self::of(code.spec(), sentence(detail.into()))
    }

    fn of(spec: Spec, detail: String) -> Self {
        Self(Box::new(Document {
            spec,
            status: spec.status,
            detail,
            members: Map::new(),
            retry_after: None,
            payment: None,
        }))
    }

    /// A refusal by the limits: who wanted to pay whom, which rule, how much is used and reserved, when it resets and when to
    /// try again (R230).
    pub(crate) fn refused(refusal: &Refusal, agent: &AgentName, merchant: &Host) -> Self {
        let mut problem = Self::of(code::refusal(refusal.code), refusal.detail.clone());
        let members = &mut problem.0.members;
        members.insert("agent".into(), agent.as_str().into());
        members.insert("merchant".into(), merchant.as_str().into());
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
        if let Some(at) = refusal.retry_at {
            members.insert("retry_at".into(), at.to_string().into());
        }
        members.insert("retryable".into(), false.into());
        problem
    }

    /// Why the site gave no answer, for an exchange in which nothing was paid.
    pub(crate) fn unreachable(error: &UpstreamError) -> Self {
        let problem = Self::new(
            code::unreachable(error),
            sentence(match error.remedy() {
                Some(remedy) => format!("{error}. {remedy} Nothing was paid."),
                None => format!("{error}. Nothing was paid."),
            }),
        );
        match error {
            UpstreamError::Dial(DialError::Full(_)) => problem.retryable(true).retry_after(ROOM_AGAIN),
            _ => problem,
        }
    }

    /// The agent, or all of them together, use as much as there is.
    pub(crate) fn full(full: Full) -> Self {
        let detail = sentence(format!("{full}. Nothing was forwarded and nothing was paid."));
        Self::new(code::full(full), detail)
            .retryable(true)
            .retry_after(ROOM_AGAIN)
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub(crate) fn retryable(mut self, retryable: bool) -> Self {
        self.0.members.insert("retryable".into(), retryable.into());
        self
    }

    pub(crate) fn payment(mut self, rid: PaymentId) -> Self {
        self.0.members.insert("payment".into(), rid.to_string().into());
        self.0.payment = Some(rid);
        self
    }

    /// Overrides the status of the code, where bursar.toml sets one.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The question that a person is asked, by its id, and its deadline.
    pub(crate) fn approval(mut self, id: PaymentId, expires_at: Option<Timestamp>) -> Self {
        let members = &mut self.0.members;
        members.insert("approval_id".into(), id.to_string().into());
        if let Some(at) = expires_at {
            members.insert("expires_at".into(), at.to_string().into());
        }
        self
    }

    /// The transaction that settled the payment.
    pub(crate) fn transaction(mut self, tx: &str) -> Self {
        self.0.members.insert("tx".into(), tx.into());
        self
    }

    pub(crate) fn code(&self) -> &'static str {
        self.0.spec.code
    }

    /// What happened, and what to do, in sentences.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn into_response(self) -> Response<AnswerBody> {
        let this = *self.0;
        let mut document = Map::new();
        document.insert("type".into(), format!("urn:bursar:problem:{}", this.spec.code).into());
        document.insert("title".into(), this.spec.title.into());
        document.insert("status".into(), this.status.as_u16().into());
        document.insert("detail".into(), this.detail.into());
        document.extend(this.members);
        let text = serde_json::to_string_pretty(&document).unwrap_or_default();
        // Agents print what they get, and a reason may be quoted to people (R78).
        let text = format!("{}\n", plain_json(&text));

        let mut response = Response::new(AnswerBody::full(Bytes::from(text)));
        *response.status_mut() = this.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // RFC 9110 §6.6.1: the origin of an answer dates it.
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
        if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
            headers.insert(DATE, date);
        }
        if let Ok(value) = HeaderValue::try_from(format!(
            "bursar; error={}; details=\"{}\"",
            this.spec.error, this.spec.code
        )) {
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

/// Errors start in lower case because they are joined to other text; agents read whole sentences.
fn sentence(text: String) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if first.is_ascii_lowercase() => first.to_ascii_uppercase().to_string() + letters.as_str(),
        _ => text,
    }
}

/// Names the payment on an answer, whether the site or bursar wrote it.
pub(crate) fn mark_paid(headers: &mut HeaderMap, rid: PaymentId) {
    if let Ok(value) = HeaderValue::try_from(rid.to_string()) {
        headers.insert(BURSAR_PAYMENT, value);
    }
}

/// Says on a paid answer what the payment counts as, and which limit the agent reaches first after it (R236).
pub(crate) fn mark_price(headers: &mut HeaderMap, usd: Option<MicroUsd>, remaining: Option<&Remaining>) {
    let price = usd.and_then(|usd| HeaderValue::try_from(format!("{usd} USD")).ok());
    let remaining = remaining.and_then(|remaining| HeaderValue::try_from(remaining.to_string()).ok());
    for (name, value) in [(BURSAR_PRICE, price), (BURSAR_REMAINING, remaining)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Adds the reason why a 402 that is passed on was not paid, for programs and as one sentence: many agents' tools hide
/// `Proxy-Status`. Other proxies' members stay (RFC 9209 §2).
pub(crate) fn mark_unpaid(headers: &mut HeaderMap, why: Unpaid) {
    if let Ok(value) = HeaderValue::try_from(format!("bursar; details=\"{}\"", why.code())) {
        headers.append(PROXY_STATUS, value);
    }
    if let Ok(value) = HeaderValue::try_from(why.note()) {
        headers.insert(BURSAR_NOTE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_402_that_is_passed_on_says_why_in_one_sentence() {
        for why in Unpaid::all() {
            let mut headers = HeaderMap::new();
            headers.insert(PROXY_STATUS, HeaderValue::from_static("other; details=\"x\""));
            mark_unpaid(&mut headers, why);
            assert_eq!(headers.get_all(PROXY_STATUS).iter().count(), 2);
            let note = headers[BURSAR_NOTE].to_str().unwrap();
            assert!(note.contains(why.code()), "{note}");
            let ends = note.match_indices(". ").count() + usize::from(!note.ends_with('.'));
            assert_eq!((ends, note.len() <= 480), (0, true), "{note}");
        }
    }
}
