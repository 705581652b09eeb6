//! Headers that bursar does not forward: hop-by-hop fields (RFC 9110 §7.6.1), its own names, and credentials that a
//! seller echoes. Also finds payments that the agent makes itself.
//!
//! All other headers pass unchanged, in order and with their duplicates.

mod echo;
mod own_payment;
mod proxy_status;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

pub use echo::Presented;
pub use own_payment::agent_payment;

const SETTLEMENT_OVERRIDES: HeaderName = HeaderName::from_static("settlement-overrides");
const ALWAYS: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    TRANSFER_ENCODING,
];

/// Whether this exchange may switch protocols (`101 Switching Protocols`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrading {
    No,
    Yes,
}

impl Upgrading {
    /// What the request asks for. Upgrades to another version of HTTP or to TLS do not count, because bursar would not
    /// see a 402 inside them (threat 2.5).
    pub fn asked(version: Version, headers: &HeaderMap) -> Self {
        // HTTP/1.0 must not upgrade, and HTTP/2 cannot (RFC 9110 §7.8).
        if version != Version::HTTP_11 || !headers.contains_key(UPGRADE) {
            return Self::No;
        }
        let named = connection_options(headers).contains(&UPGRADE);
        let mut protocols = headers.get_all(UPGRADE).iter().flat_map(list_elements).peekable();
        let relayed = protocols.peek().is_some()
            && protocols.all(|protocol| {
                let name = protocol.split(|b| *b == b'/').next().unwrap_or_default();
                ![&b"h2c"[..], b"h2", b"http", b"tls"]
                    .iter()
                    .any(|p| name.eq_ignore_ascii_case(p))
            });
        if named && relayed { Self::Yes } else { Self::No }
    }
}

/// Prepares an agent's request for the origin. Fields named `Bursar-*` end here (R99). `version` is what the origin speaks: only HTTP/1.1 announces `TE` in
/// `Connection` (RFC 9110 §10.1.4); HTTP/2 forbids that field.
pub fn strip_request(headers: &mut HeaderMap, version: Version, upgrading: Upgrading) {
    let trailers = connection_fields_allow_trailers(headers);
    strip(headers, version, upgrading, |name| *name == TE && !trailers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if version < Version::HTTP_2 {
            headers.append(CONNECTION, HeaderValue::from_static("te"));
        }
    }
}

/// Prepares an origin's answer for the agent. Also removes what only bursar may say, `Bursar-*` and the member `bursar`
/// of `Proxy-Status` (R8, R99), and `Settlement-Overrides`, which is between a seller and its facilitator.
pub fn strip_response(headers: &mut HeaderMap, version: Version, upgrading: Upgrading) {
    strip(headers, version, upgrading, |name| {
        *name == TE || *name == SETTLEMENT_OVERRIDES
    });
    proxy_status::remove_ours(headers);
}

/// Prepares trailers in either direction. Fields that are checked or removed in a head are removed from trailers,
/// because some receivers merge trailers into the head (RFC 9110 §6.5.1).
pub fn strip_trailers(trailers: &mut HeaderMap) {
    proxy_status::remove_ours(trailers);
    let is_unfit =
        |name: &HeaderName| is_end_to_end(name) || ALWAYS.contains(name) || *name == CONNECTION || is_ours(name);
    remove_all(trailers, Version::HTTP_2, is_unfit);
}

/// Whether the agent waits for `100 Continue` before it uploads (RFC 9110 §10.1.1).
pub fn expects_continue(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(EXPECT).iter().flat_map(list_elements);
    expectations.any(|expected| expected.eq_ignore_ascii_case(b"100-continue"))
}

/// `HeaderMap::remove` moves the last field into the gap. On HTTP/1.1 the lines of a message keep their order by
/// themselves; on HTTP/2 the map is all there is, so it is made anew.
fn remove_all(headers: &mut HeaderMap, version: Version, is_unfit: impl Fn(&HeaderName) -> bool) {
    if !headers.keys().any(&is_unfit) {
        return;
    }
    if version < Version::HTTP_2 {
        let unfit: Vec<HeaderName> = headers.keys().filter(|name| is_unfit(name)).cloned().collect();
        for name in unfit {
            headers.remove(name);
        }
        return;
    }
    let mut current = None;
    for (name, value) in std::mem::take(headers) {
        // Further lines of the same field come without its name.
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| !is_unfit(name)) {
            headers.append(name, value);
        }
    }
}

/// Also with `_` in place of `-`, which gateways that hand fields on as variables cannot tell apart.
fn is_ours(name: &HeaderName) -> bool {
    begins_with(name, "bursar-")
}

fn begins_with(name: &HeaderName, prefix: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let name = name.as_str().bytes().map(dashed);
    name.take(prefix.len()).eq(prefix.bytes())
}

fn strip(headers: &mut HeaderMap, version: Version, upgrading: Upgrading, is_unfit: impl Fn(&HeaderName) -> bool) {
    // Most heads have nothing of this, and are looked through once.
    if !headers.keys().any(may_be_unfit) {
        return;
    }
    let options = connection_options(headers);
    // The transfer coding wins. A length beside it would cut the body short or run past it (RFC 9112 §6.3).
    let coded = headers.contains_key(TRANSFER_ENCODING);
    let upgrades = upgrading == Upgrading::Yes && headers.contains_key(UPGRADE);
    remove_all(headers, version, |name| {
        let by_name = || {
            ALWAYS.contains(name)
                || *name == CONNECTION
                || (*name == UPGRADE && !upgrades)
                || is_ours(name)
                || is_unfit(name)
        };
        (may_be_unfit(name) && by_name())
            || (*name == CONTENT_LENGTH && coded)
            || (*name != UPGRADE && options.contains(name) && !is_end_to_end(name))
    });
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether a field could be one that goes by its name alone; a head without any has no `Connection` and no
/// `Transfer-Encoding` either, by which others would go.
fn may_be_unfit(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.as_bytes().first() {
        Some(b'b') => name.starts_with("bursar"),
        Some(b'c') => name == CONNECTION.as_str(),
        Some(b'k') => name == "keep-alive",
        Some(b'p') => name.starts_with("proxy-"),
        Some(b's') => name == SETTLEMENT_OVERRIDES.as_str(),
        Some(b't') => name == TE.as_str() || name == TRANSFER_ENCODING.as_str(),
        Some(b'u') => name == UPGRADE.as_str(),
        _ => false,
    }
}

/// The fields that the `Connection` lines name. Options that are not field names, such as `close`, match no header.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(list_elements)
        .filter_map(|option| HeaderName::from_bytes(option).ok())
        .collect()
}

/// Fields that `Connection` must not remove: payments, logins, and what frames and routes the message. Otherwise the
/// sender of that line could decide what the other side sees (threat 2.5).
fn is_end_to_end(name: &HeaderName) -> bool {
    *name == AUTHORIZATION
        || *name == HOST
        || *name == CONTENT_LENGTH
        || begins_with(name, "payment-")
        || begins_with(name, "x-payment")
}

fn connection_fields_allow_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().flat_map(list_elements).any(|coding| {
        let name = coding.split(|b| *b == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    })
}

/// The elements of a comma-separated field, trimmed, without empty ones (RFC 9110 §5.6.1). Commas in quoted strings do
/// not separate; bytes outside ASCII are kept.
fn list_elements(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value
        .as_bytes()
        .split(move |byte| {
            let separates = *byte == b',' && !quoted;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
            separates
        })
        .map(|element| element.trim_ascii())
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn trailers_say_nothing_that_a_head_could_not() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-payment", "x"),
            ("x_payment", "x"),
            ("payment-signature", "x"),
            ("payment_signature", "x"),
            ("payment-response", "x"),
            ("authorization", "Payment x"),
            ("content-length", "9"),
            ("transfer-encoding", "chunked"),
            ("host", "other.example"),
            ("bursar-payment", "x"),
            ("proxy-status", "cache; hit, bursar; details=\"x\""),
            ("connection", "close"),
            ("checksum", "7"),
        ]);
        strip_trailers(&mut trailers);
        let kept = [("grpc-status", "0"), ("checksum", "7"), ("proxy-status", "cache; hit")];
        assert_eq!(trailers, map(&kept));
    }

    #[test]
    fn only_100_continue_is_waited_for() {
        assert!(expects_continue(&map(&[("expect", "100-Continue")])));
        assert!(expects_continue(&map(&[
            ("expect", "x"),
            ("expect", "y, 100-continue")
        ])));
        assert!(!expects_continue(&map(&[("expect", "200-ok")])));
        assert!(!expects_continue(&map(&[])));
    }

    #[test]
    fn what_stays_on_http2_keeps_its_order() {
        let mut headers = map(&[
            ("user-agent", "x"),
            ("proxy-authorization", "Basic eA=="),
            ("cookie", "a=1"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("cookie", "b=2"),
            ("bursar-budget", "1"),
            ("referer", "y"),
            ("accept-language", "de"),
        ]);
        strip_request(&mut headers, Version::HTTP_2, Upgrading::No);
        let lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let kept: [(&str, &[u8]); 7] = [
            ("user-agent", b"x"),
            ("cookie", b"a=1"),
            ("cookie", b"b=2"),
            ("te", b"trailers"),
            ("accept", b"*/*"),
            ("referer", b"y"),
            ("accept-language", b"de"),
        ];
        assert_eq!(lines, kept);
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = map(&[
            ("connection", "close, X-One"),
            ("connection", " x-two ,,keep-alive"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-two", "3"),
            ("x-three", "4"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("host", "a.example"),
            ("cookie", "a=b"),
        ]);
        strip_request(&mut headers, Version::HTTP_11, Upgrading::No);
        assert_eq!(
            headers,
            map(&[("x-three", "4"), ("host", "a.example"), ("cookie", "a=b")])
        );
    }

    #[test]
    fn a_coding_takes_the_length_with_it() {
        let mut headers = map(&[("content-length", "2"), ("transfer-encoding", "chunked"), ("a", "b")]);
        strip_response(&mut headers, Version::HTTP_11, Upgrading::No);
        assert_eq!(headers, map(&[("a", "b")]));
    }

    #[test]
    fn connection_cannot_name_what_must_arrive() {
        let kept = map(&[
            ("payment-signature", "s"),
            ("payment-response", "r"),
            ("payment-required", "q"),
            ("x-payment", "x"),
            ("x-payment-response", "y"),
            ("authorization", "Bearer t"),
            ("host", "a.example"),
            ("content-length", "3"),
        ]);
        let mut headers = kept.clone();
        for name in kept.keys() {
            headers.append(
                "connection",
                HeaderValue::from_str(&name.as_str().to_uppercase()).unwrap(),
            );
        }
        strip_request(&mut headers, Version::HTTP_11, Upgrading::No);
        assert_eq!(headers, kept);
    }

    #[test]
    fn what_agents_say_to_us_ends_here() {
        let mut headers = map(&[
            ("bursar-budget", "0.10"),
            ("Bursar-Anything", "x"),
            ("bursar_budget", "y"),
            ("bursary", "kept"),
            ("x-bursar-budget", "kept"),
        ]);
        strip_request(&mut headers, Version::HTTP_11, Upgrading::No);
        assert_eq!(headers, map(&[("bursary", "kept"), ("x-bursar-budget", "kept")]));
    }

    #[test]
    fn te_keeps_trailers_only() {
        let te = |value: &str, version| {
            let mut headers = map(&[("te", value), ("connection", "te")]);
            strip_request(&mut headers, version, Upgrading::No);
            headers
        };
        let with_trailers = map(&[("te", "trailers"), ("connection", "te")]);
        assert_eq!(te("gzip;q=0.5, Trailers", Version::HTTP_11), with_trailers);
        assert_eq!(te("trailers;q=1", Version::HTTP_2), map(&[("te", "trailers")]));
        assert!(te("gzip", Version::HTTP_11).is_empty());
    }

    #[test]
    fn an_upgrade_keeps_its_two_fields() {
        let lines = [
            ("connection", "Upgrade, X-Drop"),
            ("upgrade", "websocket"),
            ("x-drop", "1"),
        ];
        let mut headers = map(&lines);
        assert_eq!(Upgrading::asked(Version::HTTP_11, &headers), Upgrading::Yes);
        strip_request(&mut headers, Version::HTTP_11, Upgrading::Yes);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
        let mut headers = map(&lines);
        strip_response(&mut headers, Version::HTTP_11, Upgrading::No);
        assert!(headers.is_empty());
    }

    #[test]
    fn no_upgrade_to_what_we_could_not_read() {
        for (connection, upgrade) in [
            ("upgrade, http2-settings", "h2c"),
            ("upgrade", "websocket, H2C"),
            ("upgrade", "TLS/1.2, HTTP/1.1"),
            ("upgrade", "HTTP/2.0"),
            ("keep-alive", "websocket"),
            ("upgrade", ""),
        ] {
            let headers = map(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(Upgrading::asked(Version::HTTP_11, &headers), Upgrading::No, "{upgrade}");
        }
        assert_eq!(
            Upgrading::asked(Version::HTTP_11, &map(&[("connection", "upgrade")])),
            Upgrading::No
        );
    }

    #[test]
    fn answers_cannot_speak_for_us() {
        let mut headers = map(&[
            ("bursar-payment", "0198"),
            ("bursar-anything", "x"),
            ("bursar_payment", "x"),
            ("settlement-overrides", "{}"),
            ("proxy-status", "bursar; details=\"no-offer\", edge; fwd=miss"),
            ("proxy-authenticate", "Basic"),
            ("proxy-status", "cache; hit"),
            ("payment-response", "r"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("www-authenticate", "Basic"),
        ]);
        strip_response(&mut headers, Version::HTTP_11, Upgrading::No);
        let kept = [
            ("proxy-status", "edge; fwd=miss"),
            ("proxy-status", "cache; hit"),
            ("payment-response", "r"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("www-authenticate", "Basic"),
        ];
        assert_eq!(headers, map(&kept));
    }

    proptest! {
        #[test]
        fn nothing_named_survives(names in proptest::collection::vec("[a-z]{1,6}", 0..6), lines in 1usize..4) {
            let mut headers = HeaderMap::new();
            for (i, name) in names.iter().enumerate() {
                headers.append(HeaderName::from_bytes(format!("n-{name}").as_bytes()).unwrap(), HeaderValue::from(i));
            }
            headers.insert("kept", HeaderValue::from(1));
            for chunk in names.chunks(lines) {
                let line = chunk.iter().map(|name| format!("N-{name}")).collect::<Vec<_>>().join(" , ");
                headers.append(CONNECTION, HeaderValue::from_str(&line).unwrap());
            }
            strip_request(&mut headers, Version::HTTP_11, Upgrading::No);
            prop_assert_eq!(headers, map(&[("kept", "1")]));
        }
    }

    #[test]
    fn whatever_goes_by_its_name_is_not_overlooked() {
        let others = [CONNECTION, UPGRADE, TE, SETTLEMENT_OVERRIDES];
        for name in ALWAYS.iter().chain(&others) {
            assert!(may_be_unfit(name), "{name}");
        }
        for name in ["bursar-budget", "bursar_budget", "bursar-", "proxy_connection"] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            assert_eq!(may_be_unfit(&name), is_ours(&name), "{name}");
        }
    }
}
