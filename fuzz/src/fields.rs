//! Fields of HTTP and names of hosts, from agents and sites.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_core::host::{Authority, Host};
use bursar_core::{hop, prefer};
use bursar_net::splice::HelloReader;
use bursar_net::via::Via;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Version, header};
use rustls::server::Acceptor;

/// Names, addresses and authorities: one spelling each, and the host that a browser would go to.
pub fn host(data: &[u8]) {
    let Ok(written) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(host) = Host::parse(written) {
        let shown = host.as_str();
        assert!(shown.is_ascii() && !shown.is_empty() && shown.len() <= 253);
        assert_eq!(shown, shown.to_ascii_lowercase());
        assert!(
            !shown
                .bytes()
                .any(|byte| byte.is_ascii_control() || b" /\\@#?%".contains(&byte))
        );
        assert_eq!(Host::parse(shown).as_ref(), Ok(&host));
        assert_eq!(Host::parse(&written.to_ascii_uppercase()).as_ref(), Ok(&host));
        let in_url = if shown.contains(':') {
            format!("[{shown}]")
        } else {
            shown.to_owned()
        };
        if let Ok(url) = url::Url::parse(&format!("https://{in_url}/")) {
            let browsed = url.host_str().expect("a host").trim_matches(['[', ']']);
            match host.is_disguised_ipv4() {
                // The dialer refuses it, because this is what others read in it.
                true => assert!(
                    browsed.parse::<std::net::IpAddr>().is_ok(),
                    "{shown} is a name to browsers"
                ),
                false => assert_eq!(Host::parse(browsed).as_ref(), Ok(&host)),
            }
        }
    }
    if let Ok(authority) = Authority::parse(written) {
        assert_ne!(authority.port, 0);
        assert_eq!(Authority::parse(&authority.to_string()).as_ref(), Ok(&authority));
        assert_eq!(Authority::parse_or_default(written, 1).as_ref(), Ok(&authority));
        assert!(authority.to_string().parse::<http::uri::Authority>().is_ok());
    }
    if let Ok(authority) = Authority::parse_or_default(written, 443) {
        assert_eq!(Authority::parse(&authority.to_string()).as_ref(), Ok(&authority));
        // hyper reads the same host and port in it.
        if let Ok(second) = written.parse::<http::uri::Authority>() {
            assert_eq!(Host::parse(second.host()).as_ref(), Ok(&authority.host));
            assert_eq!(second.port_u16().unwrap_or(443), authority.port);
        }
    }
}

/// Heads and trailers on their way through: what is between two neighbours goes, everything else stays as it was, in
/// its order.
pub fn hop_by_hop(data: &[u8]) {
    let Some((first, lines)) = data.split_first() else {
        return;
    };
    let (before, _) = head_and_body(lines);
    let version = if first & 1 == 0 {
        Version::HTTP_11
    } else {
        Version::HTTP_2
    };
    let upgrading = hop::Upgrading::asked(version, &before);
    if version == Version::HTTP_2 {
        assert_eq!(upgrading, hop::Upgrading::No);
    }

    let mut request = before.clone();
    hop::strip_request(&mut request, version, upgrading);
    let named = named_by_connection(&before);
    between_neighbours(&request, upgrading);
    kept(&before, &request, &named, &[]);
    let mut twice = request.clone();
    hop::strip_request(&mut twice, version, upgrading);
    assert_eq!(same(&twice), same(&request), "stripping twice is stripping once");

    let mut answer = before.clone();
    hop::strip_response(&mut answer, version, upgrading);
    between_neighbours(&answer, upgrading);
    assert!(answer.keys().all(|name| !name.as_str().starts_with("bursar-")));
    assert!(!answer.contains_key("settlement-overrides") && !answer.contains_key(header::TE));
    kept(&before, &answer, &named, &["settlement-overrides", "proxy-status"]);

    let mut trailers = before.clone();
    hop::strip_trailers(&mut trailers);
    for name in trailers.keys() {
        let text = name.as_str();
        let says_too_much = ["bursar-", "payment-", "x-payment"]
            .iter()
            .any(|start| text.starts_with(start));
        assert!(!says_too_much && *name != AUTHORIZATION && *name != HOST && *name != CONTENT_LENGTH);
        assert!(!ALWAYS.contains(&text) && *name != CONNECTION);
    }

    own_payment(&before);
}

const ALWAYS: [&str; 6] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "transfer-encoding",
];

fn between_neighbours(headers: &HeaderMap, upgrading: hop::Upgrading) {
    for name in ALWAYS {
        assert!(!headers.contains_key(name), "{name} was forwarded");
    }
    for value in headers.get_all(CONNECTION) {
        assert!(
            ["upgrade", "te"].iter().any(|known| value == known),
            "{value:?} was forwarded"
        );
    }
    if upgrading == hop::Upgrading::No {
        assert!(!headers.contains_key(header::UPGRADE));
    }
}

/// What `Connection` names, split at every comma; `None` if quotes leave that open.
fn named_by_connection(headers: &HeaderMap) -> Option<HashSet<String>> {
    let mut named = HashSet::new();
    for value in headers.get_all(CONNECTION) {
        if value.as_bytes().contains(&b'"') {
            return None;
        }
        let options = value.as_bytes().split(|byte| *byte == b',');
        named.extend(options.map(|option| String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase()));
    }
    Some(named)
}

fn kept(before: &HeaderMap, after: &HeaderMap, named: &Option<HashSet<String>>, dropped: &[&str]) {
    let values = |headers: &HeaderMap, name: &HeaderName| -> Vec<HeaderValue> {
        headers.get_all(name).iter().cloned().collect()
    };
    for name in before.keys() {
        let text = name.as_str();
        let is_end_to_end = [AUTHORIZATION, HOST].contains(name)
            || (*name == CONTENT_LENGTH && !before.contains_key("transfer-encoding"))
            || text.starts_with("payment-")
            || text.starts_with("x-payment");
        // Gateways that hand fields on as variables read `_` as `-`, so these names may count as the others.
        let is_like_ours = ["bursar_", "payment_", "x_payment"]
            .iter()
            .any(|start| text.starts_with(start));
        let is_ours = text.starts_with("bursar-") || is_like_ours || dropped.contains(&text);
        let is_hop = ALWAYS.contains(&text) || [CONNECTION, header::TE, header::UPGRADE].contains(name);
        let Some(named) = named else {
            if is_end_to_end {
                assert_eq!(values(before, name), values(after, name), "{name} changed");
            }
            continue;
        };
        if is_end_to_end || !(is_ours || is_hop || *name == CONTENT_LENGTH || named.contains(text)) {
            assert_eq!(values(before, name), values(after, name), "{name} changed");
        } else if named.contains(text)
            && !is_like_ours
            && *name != header::UPGRADE
            && *name != header::TE
            && *name != CONNECTION
        {
            assert!(
                !after.contains_key(name),
                "{name} is named by Connection and was forwarded"
            );
        }
    }
    for name in after.keys() {
        assert!(before.contains_key(name) || *name == CONNECTION, "{name} was invented");
    }
}

/// A payment of the agent's own is seen, however it is written.
fn own_payment(headers: &HeaderMap) {
    let found = hop::agent_payment(headers);
    let field = [
        "x-payment",
        "payment-signature",
        "payment-authorization",
        "x-payment-spt",
    ]
    .iter()
    .any(|name| headers.contains_key(*name));
    let plain = headers.get_all(AUTHORIZATION).iter().any(|value| {
        value.as_bytes().split(|byte| *byte == b',').any(|element| {
            let scheme = element.trim_ascii().split(u8::is_ascii_whitespace).next();
            scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"payment"))
        })
    });
    if field || plain {
        assert!(found.is_some(), "a payment of the agent's passed");
    }
    if !field && !headers.contains_key(AUTHORIZATION) {
        assert_eq!(found, None);
    }
}

/// Field by field: the order of different fields says nothing.
fn same(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    fields.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    fields
}

/// `Prefer`: never a longer wait than the longest, and nothing that is not asked for.
pub fn prefer_wait(data: &[u8]) {
    const USUAL: Duration = Duration::from_secs(1234);
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("prefer", value);
        }
    }
    let wait = prefer::wait(&headers, USUAL);
    assert!(wait == USUAL || wait <= Duration::from_secs(300));
    let lowered = data.to_ascii_lowercase();
    let says = |word: &[u8]| lowered.windows(word.len()).any(|window| window == word);
    if wait != USUAL {
        assert!(says(b"wait") || says(b"respond-async"));
    }
    // The first preference counts: one in front decides, and other preferences change nothing.
    let with = |front: &'static str| {
        let mut all = HeaderMap::from_iter([(HeaderName::from_static("prefer"), HeaderValue::from_static(front))]);
        for value in headers.get_all("prefer") {
            all.append("prefer", value.clone());
        }
        prefer::wait(&all, USUAL)
    };
    assert_eq!(with("wait=7"), Duration::from_secs(7));
    assert_eq!(with("return=minimal"), wait);
}

/// The hello of a TLS client: the name that is compared with the CONNECT is the one that another reader of it finds.
pub fn tls_hello(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else {
        return;
    };
    let read = |parts: &[&[u8]]| {
        let mut reader = HelloReader::default();
        let mut read = Ok(None);
        for part in parts {
            reader.bytes.extend_from_slice(part);
            read = reader.read();
            if !matches!(read, Ok(None)) {
                break;
            }
        }
        read.map(|hello| hello.map(|hello| hello.name))
    };
    let whole = read(&[bytes]);
    let (first, second) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    // In parts, what follows the hello may not have come yet.
    if let Ok(Some(name)) = &whole {
        assert_eq!(read(&[first, second]).as_ref(), Ok(&Some(name.clone())));
    }
    let mut acceptor = Acceptor::default();
    let mut unread = bytes;
    while acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) {}
    if let (Ok(Some(ours)), Ok(Some(accepted))) = (whole, acceptor.accept()) {
        let hello = accepted.client_hello();
        // It takes an address in the place of a name for none.
        if let Some(theirs) = hello.server_name() {
            assert_eq!(ours.map(|name| name.to_ascii_lowercase()).as_deref(), Some(theirs));
        }
    }
}

/// `Via`: a request that has been here is seen as such behind any other entries, and no other is.
pub fn via_loop(data: &[u8]) {
    let via = Via::random().expect("random bytes");
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::VIA, value);
        }
    }
    assert!(!via.has_been_here(&headers), "nobody can guess the name");
    let lines = headers.get_all(header::VIA).iter().count();
    via.add(&mut headers, Version::HTTP_11);
    assert_eq!(headers.get_all(header::VIA).iter().count(), lines + 1);
    assert!(via.has_been_here(&headers));
    assert!(!Via::random().expect("random bytes").has_been_here(&headers));
    // A proxy on the way may join the lines into one.
    let joined: Vec<&str> = headers
        .get_all(header::VIA)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let joined = HeaderMap::from_iter([(header::VIA, joined.join(", ").parse().expect("text"))]);
    assert!(via.has_been_here(&joined));
}

/// `Proxy-Authorization`.
pub fn proxy_credential(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else {
        return;
    };
    let Some((name, token)) = bursar::fuzzing::proxy_credential(&value) else {
        return;
    };
    assert!(!name.contains(':'));
    let text = value.to_str().expect("a credential is text");
    let (scheme, _) = text.trim().split_once(' ').expect("a scheme");
    assert!(scheme.eq_ignore_ascii_case("basic"));
    let printed = format!("Basic {}", STANDARD.encode(format!("{name}:{token}")));
    let again = bursar::fuzzing::proxy_credential(&printed.parse().expect("base64"));
    assert_eq!(again, Some((name, token)));
}

/// Lines `name: value` up to an empty line, and what follows it. Lines that are no fields are left out.
pub fn head_and_body(data: &[u8]) -> (HeaderMap, &[u8]) {
    let (mut headers, mut rest) = (HeaderMap::new(), data);
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &[][..]),
        };
        if let Some(colon) = line.iter().position(|byte| *byte == b':')
            && let Ok(name) = HeaderName::from_bytes(&line[..colon])
            && let Ok(value) = HeaderValue::from_bytes(line[colon + 1..].trim_ascii())
            && headers.len() < 1000
        {
            headers.append(name, value);
        }
        rest = after;
        if line.is_empty() || rest.is_empty() {
            return (headers, rest);
        }
    }
}
