//! The host that a challenge says it is for (R23, threat 1.10).
//!
//! This does not use a URL library. URLs that such libraries parse differently (backslashes, blanks, user info,
//! non-ASCII hosts) count as unreadable, and offers with an unreadable URL are not paid.

use std::net::Ipv6Addr;

/// The host of an x402 `resource` or of an MPP `realm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceHost {
    /// No resource or a relative one is named, so it is the requested host.
    Same,
    /// Lower case, without port; IPv6 without brackets.
    Named(String),
    Unreadable,
}

impl ResourceHost {
    /// A realm is a host, with or without port, or a URL. Anything else is unreadable.
    pub(super) fn of_realm(realm: &str) -> Self {
        if realm.contains("//") {
            return Self::of_url(realm);
        }
        host(realm).map_or(Self::Unreadable, Self::Named)
    }

    pub(super) fn of_url(url: &str) -> Self {
        if url.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Self::Unreadable;
        }
        let after_scheme = match scheme_length(url) {
            Some(length) => &url[length + 1..],
            None => url,
        };
        match after_scheme.strip_prefix("//") {
            Some(rest) => {
                let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
                host(authority).map_or(Self::Unreadable, Self::Named)
            }
            // `https:path` means one thing to browsers and another in RFC 3986.
            None if after_scheme.len() < url.len() => Self::Unreadable,
            None => Self::Same,
        }
    }
}

/// Whether two host names are the same. Case and a trailing dot do not matter; IPv6 is compared as an address.
pub(super) fn same_host(left: &str, right: &str) -> bool {
    let (left, right) = (bare(left), bare(right));
    match (left.parse::<Ipv6Addr>(), right.parse::<Ipv6Addr>()) {
        (Ok(left), Ok(right)) => left == right,
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
    fn a_realm_is_a_host_or_nothing() {
        for (realm, host) in [
            ("API.Example.com", "api.example.com"),
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
            "",
            "Weather, Inc.",
            "api.example.com/v1",
            "a@b",
            "b\u{fc}cher.example",
            "//",
            "::1",
        ] {
            assert_eq!(ResourceHost::of_realm(realm), ResourceHost::Unreadable, "{realm}");
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
        assert!(!same_host("api.example.com", "example.com"));
        assert!(!same_host("api.example.com", "api.example.com.evil.test"));
    }
}
