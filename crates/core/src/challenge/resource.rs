//! The host that a challenge says it is for (R23, threat 1.10).
//!
//! This does not use a URL library. URLs that such libraries parse differently (a backslash, a blank or user info before
//! the host's end, non-ASCII hosts) count as unreadable, and offers with an unreadable URL are not paid. What follows the
//! host does not matter (R72).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::Host;

/// The host of an x402 `resource` or of an MPP `realm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceHost {
    /// No resource or a relative one is named, so it is the requested host.
    Same,
    /// Lower case, without port; IPv6 without brackets.
    Named(String),
    /// A realm that is no host, such as `MPP Payment`: it says nothing about the merchant (R71).
    Words,
    Unreadable,
}

impl ResourceHost {
    /// A realm is a host, with or without port and path, or a URL, or words.
    pub(super) fn of_realm(realm: &str) -> Self {
        let realm = realm.trim();
        if realm.contains("//") {
            return Self::of_url(realm);
        }
        match host(authority(realm)) {
            Some(host) => Self::Named(host),
            None if looks_like_a_host(realm) => Self::Unreadable,
            None => Self::Words,
        }
    }

    /// Reads `url` as RFC 3986 and as browsers do, and believes only what both say. Browsers drop line breaks and tabs
    /// anywhere, and blanks and control characters around it, and take a backslash for a slash.
    pub(super) fn of_url(url: &str) -> Self {
        let kept: String = url
            .trim_matches(|c: char| c <= ' ')
            .chars()
            .filter(|c| !matches!(c, '\t' | '\r' | '\n'))
            .map(|c| if c == '\\' { '/' } else { c })
            .collect();
        let by_the_standard = Self::of_plain_url(url);
        match Self::of_plain_url(&kept) == by_the_standard {
            true => by_the_standard,
            false => Self::Unreadable,
        }
    }

    fn of_plain_url(url: &str) -> Self {
        let after_scheme = match scheme_length(url) {
            Some(length) => &url[length + 1..],
            None => url,
        };
        match after_scheme.strip_prefix("//") {
            Some(rest) => host(authority(rest)).map_or(Self::Unreadable, Self::Named),
            // `https:path` means one thing to browsers and another in RFC 3986.
            None if after_scheme.len() < url.len() => Self::Unreadable,
            None => Self::Same,
        }
    }
}

/// What comes before path, query and fragment.
fn authority(text: &str) -> &str {
    text.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether some reader could find a host in a realm where [`host`] finds none: one with user info, an escape or a letter
/// outside ASCII.
fn looks_like_a_host(realm: &str) -> bool {
    let dotted = realm.contains(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']);
    let doubtful = realm.contains(['@', '\\', '%', ':', '[', ']']) || !realm.is_ascii();
    dotted && doubtful && !realm.contains(char::is_whitespace)
}

/// R71: whether a host can tell one merchant from another: a name with a dot, or an address, that does not belong to a
/// machine or a network of its own.
pub(super) fn is_public(host: &str) -> bool {
    /// Set aside for what is local (RFC 6761, RFC 6762, RFC 8375, and ICANN's reservation of `internal`).
    const LOCAL: [&str; 4] = [".localhost", ".local", ".internal", ".home.arpa"];
    // What is no host in our reading differs from every host, so it binds.
    let Ok(host) = Host::parse(host) else {
        return true;
    };
    match host.ip().map(|address| address.to_canonical()) {
        Some(IpAddr::V4(address)) => is_public_v4(address),
        Some(IpAddr::V6(address)) => is_public_v6(address),
        None => {
            let name = host.as_str();
            host.is_disguised_ipv4() || name.contains('.') && !LOCAL.iter().any(|local| name.ends_with(local))
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let shared = matches!(address.octets(), [100, 64..=127, ..]);
    let own = address.octets()[0] == 0 || address.is_loopback() || address.is_link_local() || address.is_private();
    !shared && !own
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let own = address.is_unspecified() || address.is_loopback();
    !own && !address.is_unique_local() && !address.is_unicast_link_local()
}

/// Whether two host names are the same. Case and a trailing dot do not matter; addresses are compared as addresses.
pub(super) fn same_host(left: &str, right: &str) -> bool {
    let (left, right) = (bare(left), bare(right));
    match (left.parse::<IpAddr>(), right.parse::<IpAddr>()) {
        // An IPv4 address may be written as an IPv6 one.
        (Ok(left), Ok(right)) => left.to_canonical() == right.to_canonical(),
        _ => left.eq_ignore_ascii_case(right),
    }
}

fn bare(host: &str) -> &str {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host)
}

/// The length of the scheme before its colon (RFC 3986 §3.1).
fn scheme_length(url: &str) -> Option<usize> {
    let length = url.find(':')?;
    let scheme = &url.as_bytes()[..length];
    let (first, rest) = scheme.split_first()?;
    let valid = first.is_ascii_alphabetic()
        && rest
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    valid.then_some(length)
}

fn host(authority: &str) -> Option<String> {
    if authority.contains('@') {
        return None;
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (inner, port) = rest.split_once(']')?;
        inner.parse::<Ipv6Addr>().ok()?;
        return is_port(port).then(|| inner.to_ascii_lowercase());
    }
    let colon = authority.find(':').unwrap_or(authority.len());
    let (name, port) = authority.split_at(colon);
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    (plain && !name.is_empty() && is_port(port)).then(|| name.to_ascii_lowercase())
}

fn is_port(text: &str) -> bool {
    text.is_empty()
        || text
            .strip_prefix(':')
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_without_port_and_case() {
        for (url, host) in [
            ("https://API.Example.com/x?y#z", "api.example.com"),
            ("http://api.example.com:8080", "api.example.com"),
            ("https://api.example.com?q=https://other.example", "api.example.com"),
            ("//api.example.com/x", "api.example.com"),
            ("https://api.example.com/\u{3b1}?q=1", "api.example.com"),
            ("mcp://tool/name", "tool"),
            ("http://127.0.0.1:21020/odd", "127.0.0.1"),
            ("http://[::1]:80/", "::1"),
            ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ] {
            assert_eq!(ResourceHost::of_url(url), ResourceHost::Named(host.into()), "{url}");
        }
    }

    #[test]
    fn a_realm_is_a_host_or_words() {
        for (realm, host) in [
            ("API.Example.com", "api.example.com"),
            (" api.example.com ", "api.example.com"),
            ("api.example.com/v1", "api.example.com"),
            ("localhost:3000", "localhost"),
            ("Payments", "payments"),
            ("api.example.com:8443", "api.example.com"),
            ("https://api.example.com/v1", "api.example.com"),
            ("[::1]:80", "::1"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(
                ResourceHost::of_realm(realm),
                ResourceHost::Named(host.into()),
                "{realm}"
            );
        }
        for realm in [
            "MPP Payment",
            "Weather, Inc.",
            "Weather,Inc.",
            "Terms of bank.example.com",
            "Prices: see bank.example.com",
            "caf\u{e9}",
            "a@b",
            "::1",
            "\u{2014}",
        ] {
            assert_eq!(ResourceHost::of_realm(realm), ResourceHost::Words, "{realm}");
        }
        for realm in [
            "user@bank.example.com",
            "bank.example.com\\@localhost",
            "bank%2eexample.com.",
            "bank.example.com:80x",
            "b\u{fc}cher.example",
            "bank\u{3002}example",
            "https://localhost@bank.example.com/",
            "https:///bank.example.com",
            "//",
        ] {
            assert_eq!(ResourceHost::of_realm(realm), ResourceHost::Unreadable, "{realm}");
        }
    }

    #[test]
    fn only_a_public_host_tells_merchants_apart() {
        for host in [
            "bank.example.com",
            "evil.example",
            "localhost.example.com",
            "local.example",
            "notlocal.com",
            "8.8.8.8",
            "198.51.100.7",
            "2001:db8::1",
            "::ffff:8.8.8.8",
            "-not-a-host-",
            "0x08080808",
        ] {
            assert!(is_public(host), "{host}");
        }
        for host in [
            "localhost",
            "LOCALHOST.",
            "app.localhost",
            "backend",
            "web.default.svc.cluster.local",
            "billing.internal",
            "nas.home.arpa",
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.5",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            assert!(!is_public(host), "{host}");
        }
    }

    #[test]
    fn what_follows_the_host_does_not_matter() {
        for url in [
            "https://api.example.com/artist/Sigur Ros",
            "https://api.example.com/a\\b",
            "https://api.example.com/?q=a\\@b.example c",
            "https://api.example.com/\ttab\n",
            "https://api.example.com#@evil.example",
            "https://api.example.com/@evil.example/ ",
        ] {
            let named = ResourceHost::Named("api.example.com".into());
            assert_eq!(ResourceHost::of_url(url), named, "{url:?}");
        }
        for url in ["/artist/Sigur Ros", "a b", "/a\\b", "?q=\\\\evil.example"] {
            assert_eq!(ResourceHost::of_url(url), ResourceHost::Same, "{url:?}");
        }
    }

    #[test]
    fn relative_urls_are_on_the_same_host() {
        for url in ["", "/data", "data", "?q", "#f", "./a:b", "../x", "/a//b.example/"] {
            assert_eq!(ResourceHost::of_url(url), ResourceHost::Same, "{url}");
        }
    }

    #[test]
    fn doubtful_urls_are_unreadable() {
        for url in [
            "https://",
            "https:///path",
            "https:api.example.com",
            "urn:x",
            "https://user@api.example.com/",
            "https://good.example\\@bad.example/",
            "https://good.example\\bad.example/",
            "http://good.example\\\\@bad.example/",
            "\\\\bad.example/x",
            "/\\bad.example/x",
            "/\t/bad.example/x",
            " //bad.example/x",
            "\u{1}//bad.example/x",
            "ht\ntps://bad.example/",
            "https:\\\\bad.example/",
            "https://good.example \t.bad.example/",
            "https://ex ample.com/",
            " https://api.example.com/",
            "https://api.example.com\n.bad.example/",
            "https://b\u{fc}cher.example/",
            "https://api%2eexample.com/",
            "https://api.example.com:80x/",
            "https://[::1/",
            "https://[zz]/",
        ] {
            assert_eq!(ResourceHost::of_url(url), ResourceHost::Unreadable, "{url:?}");
        }
    }

    #[test]
    fn hosts_are_compared_by_meaning() {
        assert!(same_host("api.example.com", "API.example.com."));
        assert!(same_host("[::1]", "0:0::1"));
        assert!(same_host("192.0.2.1", "[::ffff:192.0.2.1]"));
        assert!(!same_host("192.0.2.1", "[::ffff:192.0.2.2]"));
        assert!(!same_host("api.example.com", "example.com"));
        assert!(!same_host("api.example.com", "api.example.com.evil.test"));
    }
}
