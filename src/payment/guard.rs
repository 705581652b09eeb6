//! What no request may do, paid or not.

use std::time::Duration;

use http::header::HOST;
use http::{Method, Request};

use crate::answer::{Code, Problem};
use crate::config::operator::AgentPayments;
use bursar_core::hop;
use bursar_core::host::Authority;
use bursar_net::body::ReplayBudget;
use bursar_net::upstream::{HEAD_FIELDS, Origin};
use bursar_net::via::Via;

/// What guarding and forwarding need.
pub(crate) struct Traffic {
    pub agent_payments: AgentPayments,
    /// Only if it is enabled.
    pub via: Option<Via>,
    pub replay_budget: ReplayBudget,
    /// How long an upgraded connection may continue after shutdown begins.
    pub drain: Duration,
}

impl Traffic {
    pub(super) fn guard<B>(&self, origin: &Origin, request: &Request<B>) -> Result<(), Problem> {
        if request.headers().len() > HEAD_FIELDS {
            // On HTTP/1 hyper has already counted (R33).
            let detail = format!("The request has more than {HEAD_FIELDS} header fields.");
            return Err(Problem::new(Code::BadRequest, detail));
        }
        if let Some(field) = hop::agent_payment(request.headers())
            && self.agent_payments == AgentPayments::Refuse
        {
            let detail = format!("The request carries {field}. Send it without: bursar pays what the limits allow.");
            return Err(Problem::new(Code::AgentPayment, detail).retryable(false));
        }
        if let Some(via) = &self.via
            && via.has_been_here(request.headers())
        {
            let detail = "The request has already passed through this proxy: another one sends it back here.";
            return Err(Problem::new(Code::Loop, detail));
        }
        if request.method() == Method::CONNECT || !is_for(origin, request) {
            return Err(misdirected(origin));
        }
        Ok(())
    }
}

/// Whether everything that names a host names the tunnel's (threat 2.3). HTTP/1.0 may leave the host out.
fn is_for<B>(origin: &Origin, request: &Request<B>) -> bool {
    let same = |named: &str| {
        is_spelled(&origin.authority, named)
            || Authority::parse_or_default(named, origin.authority.port).is_ok_and(|named| named == origin.authority)
    };
    let uri = request.uri();
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    hosts.next().is_none()
        && uri.scheme_str().is_none_or(|scheme| scheme == origin.scheme.as_str())
        && uri.authority().is_none_or(|named| same(named.as_str()))
        && host.is_none_or(|named| named.to_str().is_ok_and(same))
}

/// Whether `named` is the host in our own spelling, with or without the port, as it nearly always is: only another
/// spelling has to be parsed. An IPv6 address is always parsed.
fn is_spelled(authority: &Authority, named: &str) -> bool {
    let host = authority.host.as_str();
    let Some(rest) = named.strip_prefix(host).filter(|_| !host.contains(':')) else {
        return false;
    };
    match rest.strip_prefix(':') {
        None => rest.is_empty(),
        Some(port) => port.starts_with(|digit: char| matches!(digit, '1'..='9')) && port.parse() == Ok(authority.port),
    }
}

pub(super) fn misdirected(origin: &Origin) -> Problem {
    let detail = format!(
        "This tunnel leads to {}. Open another one for another host.",
        origin.authority
    );
    Problem::new(Code::HostMismatch, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bursar_net::upstream::Scheme;

    fn traffic(agent_payments: AgentPayments) -> Traffic {
        Traffic {
            agent_payments,
            via: None,
            replay_budget: ReplayBudget::default(),
            drain: Duration::ZERO,
        }
    }

    fn origin() -> Origin {
        Origin {
            scheme: Scheme::Https,
            authority: Authority::parse("api.example.com:443").unwrap(),
        }
    }

    fn guarded(agent_payments: AgentPayments, request: http::request::Builder) -> Option<&'static str> {
        let request = request.body(()).unwrap();
        traffic(agent_payments)
            .guard(&origin(), &request)
            .err()
            .map(|problem| problem.code())
    }

    #[test]
    fn whatever_names_a_host_must_name_the_tunnels() {
        let guarded = |request| guarded(AgentPayments::Refuse, request);
        assert_eq!(guarded(Request::get("/")), None, "HTTP/1.0 without a host");
        assert_eq!(guarded(Request::get("/").header("host", "API.example.com")), None);
        assert_eq!(guarded(Request::get("https://api.example.com/")), None);
        let other = Some("host-mismatch");
        assert_eq!(guarded(Request::get("/").header("host", "evil.example")), other);
        assert_eq!(guarded(Request::get("/").header("host", "api.example.com:444")), other);
        assert_eq!(
            guarded(Request::get("http://api.example.com/")),
            other,
            "another scheme"
        );
        let twice = Request::get("/").header("host", "api.example.com");
        assert_eq!(guarded(twice.header("host", "api.example.com")), other, "two hosts");
        assert_eq!(
            guarded(Request::connect("api.example.com:443")),
            other,
            "a tunnel in the tunnel"
        );
    }

    #[test]
    fn our_own_spelling_of_the_host_is_taken_as_parsing_takes_it() {
        let hosts = [
            "api.example.com:443",
            "api.example.com:8443",
            "192.0.2.7:443",
            "[2001:db8::7]:443",
        ];
        let spellings = [
            "",
            ":",
            ":443",
            ":8443",
            ":0443",
            ":+443",
            ":44",
            ":4430",
            ":443 ",
            ".",
            "x",
            ".evil.example",
            "@evil.example",
            ":443@evil.example",
            ":443:443",
            ":65536",
            ":-1",
        ];
        for authority in hosts.map(|host| Authority::parse(host).unwrap()) {
            for end in spellings {
                for named in [format!("{}{end}", authority.host), format!("[{}]{end}", authority.host)] {
                    let parsed = Authority::parse_or_default(&named, authority.port);
                    let is_same = parsed.is_ok_and(|parsed| parsed == authority);
                    assert!(!is_spelled(&authority, &named) || is_same, "{named} for {authority}");
                }
            }
            let named = authority.host.as_str();
            let is_v6 = named.contains(':');
            assert_eq!(is_spelled(&authority, named), !is_v6);
            assert_eq!(is_spelled(&authority, &format!("{named}:{}", authority.port)), !is_v6);
        }
    }

    #[test]
    fn an_agents_own_payment_passes_only_where_the_operator_says_so() {
        let paying = || Request::get("/").header("payment-signature", "e30=");
        assert_eq!(guarded(AgentPayments::Refuse, paying()), Some("agent-payment"));
        assert_eq!(guarded(AgentPayments::Pass, paying()), None);
    }

    #[test]
    fn more_fields_than_a_head_may_have_are_refused() {
        let fields = |count| (0..count).fold(Request::get("/"), |request, n| request.header(format!("x-{n}"), "1"));
        assert_eq!(guarded(AgentPayments::Refuse, fields(HEAD_FIELDS)), None);
        assert_eq!(
            guarded(AgentPayments::Refuse, fields(HEAD_FIELDS + 1)),
            Some("bad-request")
        );
    }
}
