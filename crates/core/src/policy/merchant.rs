//! Hosts as limits.toml names them: exactly, or as `*.example.com` for everything below a name.

use std::fmt;
use std::net::Ipv6Addr;

use thiserror::Error;

use crate::host::Host;

/// What the challenges of one merchant may call it: `[merchants."api.example.com"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MerchantNames {
    /// Other hosts, as x402's resource or MPP's realm (R23).
    pub resource_hosts: Vec<String>,
    /// If there are any, the only texts that may stand as MPP's realm (R71).
    pub realms: Vec<String>,
}

/// One entry of a `merchants` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    Exact(Host),
    /// `*.example.com`: any depth below `example.com`, but not `example.com` itself (R51).
    Below(Host),
}

/// Why a string is not a host. The messages say what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("write only the host, without scheme or path, such as api.example.com")]
    Address,
    #[error("write the host without a port: limits apply to all its ports")]
    Port,
    #[error("write the host in its ASCII form, which starts with xn--")]
    NotAscii,
    #[error("write the host without the trailing dot")]
    TrailingDot,
    #[error("`*` may only be the whole first label, as in *.example.com")]
    Star,
    #[error("wildcards are not allowed here: name each host")]
    StarNotHere,
    #[error("this is neither a DNS name nor an IP address")]
    NotHost,
}

/// Reads a host from one of the two configuration files: just the host, with no wildcard, in the spelling that requests
/// are compared in.
pub fn named_host(text: &str) -> Result<Host, HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if !text.is_ascii() {
        return Err(HostError::NotAscii);
    }
    if text.contains('*') {
        return Err(HostError::StarNotHere);
    }
    if text.contains(['/', '?', '#', '@']) {
        return Err(HostError::Address);
    }
    if text.contains(':') && bare(text).parse::<Ipv6Addr>().is_err() {
        return Err(HostError::Port);
    }
    if text.ends_with('.') {
        return Err(HostError::TrailingDot);
    }
    match Host::parse(text) {
        // Only C resolvers read `127.1` and the like as addresses.
        Ok(host) if host.is_disguised_ipv4() => Err(HostError::NotHost),
        host => host.map_err(|_| HostError::NotHost),
    }
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let Some(below) = text.strip_prefix("*.") else {
            return match named_host(text) {
                Err(HostError::StarNotHere) => Err(HostError::Star),
                host => host.map(Self::Exact),
            };
        };
        let host = named_host(below).map_err(|e| match e {
            HostError::Empty | HostError::StarNotHere => HostError::Star,
            other => other,
        })?;
        if host.ip().is_some() {
            return Err(HostError::Star);
        }
        Ok(Self::Below(host))
    }

    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => is(exact, host),
            Self::Below(apex) => {
                let (host, apex) = (plain(host).as_bytes(), apex.as_str().as_bytes());
                let Some(dot) = host.len().checked_sub(apex.len() + 1) else {
                    return false;
                };
                dot > 0 && host[dot] == b'.' && host[dot + 1..].eq_ignore_ascii_case(apex)
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Below(apex) => write!(f, "*.{apex}"),
        }
    }
}

/// Whether `host`, taken from a request, is this one. Accepts every spelling, so that a denied host cannot get past its
/// entry under another one.
pub(super) fn is(named: &Host, host: &str) -> bool {
    Host::parse(host).is_ok_and(|host| host == *named)
}

pub(super) fn plain(host: &str) -> &str {
    bare(host.strip_suffix('.').unwrap_or(host))
}

/// `[::1]` as `::1`.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_means_any_depth_but_not_the_apex() {
        let below = HostPattern::parse("*.example.com").unwrap();
        for host in ["a.example.com", "a.b.example.com", "A.Example.COM", "a.example.com."] {
            assert!(below.matches(host), "{host}");
        }
        for host in [
            "example.com",
            "badexample.com",
            ".example.com",
            "example.com.evil.org",
            "",
        ] {
            assert!(!below.matches(host), "{host}");
        }
        let exact = HostPattern::parse("Example.com").unwrap();
        assert!(exact.matches("example.com") && exact.matches("example.com."));
        assert!(!exact.matches("a.example.com"));
        assert_eq!(exact.to_string(), "example.com");
        assert_eq!(below.to_string(), "*.example.com");
    }

    #[test]
    fn addresses_are_hosts() {
        assert!(is(&named_host("127.0.0.1").unwrap(), "127.0.0.1"));
        assert_eq!(named_host("0:0:0:0:0:0:0:1").unwrap().as_str(), "::1");
        assert!(is(&named_host("[::1]").unwrap(), "[0::1]"));
        assert!(!is(&named_host("::1").unwrap(), "[::2]"));
        assert!(!is(&named_host("::1").unwrap(), "example.com"));
        assert!(HostPattern::parse("localhost").unwrap().matches("localhost"));
    }

    #[test]
    fn errors_say_what_to_write_instead() {
        for (text, why) in [
            ("", HostError::Empty),
            ("https://example.com", HostError::Address),
            ("example.com/a", HostError::Address),
            ("example.com:443", HostError::Port),
            ("münchen.example", HostError::NotAscii),
            ("example.com.", HostError::TrailingDot),
            ("*", HostError::Star),
            ("*.", HostError::Star),
            ("*.*.com", HostError::Star),
            ("api*.example.com", HostError::Star),
            ("*.127.0.0.1", HostError::Star),
            ("a..b", HostError::NotHost),
            ("-a.com", HostError::NotHost),
            ("10.0.0.256", HostError::NotHost),
            ("127.1", HostError::NotHost),
            ("a b", HostError::NotHost),
        ] {
            assert_eq!(HostPattern::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(named_host("*.example.com"), Err(HostError::StarNotHere));
    }
}
