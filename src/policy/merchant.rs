//! Hosts as limits name them: exact ones, and `*.example.com` for everything below a name.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// A host without scheme, port or path: lower-case A-labels, or an address (IPv6 without brackets).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

/// One entry of a `merchants` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPattern {
    Exact(Host),
    /// `*.example.com`: any depth below, not `example.com` itself (Ruling 51).
    Below(Host),
}

/// Why a text is no host. The messages say what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("write the host alone, without scheme or path, such as api.example.com")]
    Address,
    #[error("write the host without a port: limits hold for every port of it")]
    Port,
    #[error("write the host in its ASCII form, which starts with xn--")]
    NotAscii,
    #[error("write the host without the dot at its end")]
    TrailingDot,
    #[error("`*` may only be the whole first label, as in *.example.com")]
    Star,
    #[error("no wildcard here: name each host")]
    StarNotHere,
    #[error("this is neither a DNS name nor an IP address")]
    NotHost,
}

impl Host {
    pub fn parse(text: &str) -> Result<Self, HostError> {
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
        if let Ok(address) = bare(text).parse::<Ipv6Addr>() {
            return Ok(Self(address.to_string()));
        }
        if text.contains(':') {
            return Err(HostError::Port);
        }
        if text.ends_with('.') {
            return Err(HostError::TrailingDot);
        }
        let name = text.to_ascii_lowercase();
        let numeric = name.rsplit('.').next().is_some_and(is_number);
        let sound = name.len() <= 253 && name.split('.').all(is_label);
        if !sound || (numeric && name.parse::<Ipv4Addr>().is_err()) {
            return Err(HostError::NotHost);
        }
        Ok(Self(name))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `host`, taken from a request, is this one. Forgiving in spelling, so that no other spelling of a denied
    /// host gets past its entry.
    pub fn is(&self, host: &str) -> bool {
        let host = plain(host);
        if self.0.contains(':') {
            return host.parse() == self.0.parse::<Ipv6Addr>();
        }
        self.0.eq_ignore_ascii_case(host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        let Some(below) = text.strip_prefix("*.") else {
            return match Host::parse(text) {
                Err(HostError::StarNotHere) => Err(HostError::Star),
                host => host.map(Self::Exact),
            };
        };
        let host = Host::parse(below).map_err(|e| match e {
            HostError::Empty | HostError::StarNotHere => HostError::Star,
            other => other,
        })?;
        let is_address = host.0.contains(':') || host.0.parse::<Ipv4Addr>().is_ok();
        if is_address {
            return Err(HostError::Star);
        }
        Ok(Self::Below(host))
    }

    pub(crate) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.is(host),
            Self::Below(apex) => {
                let host = plain(host);
                let Some(dot) = host.len().checked_sub(apex.0.len() + 1) else {
                    return false;
                };
                dot > 0
                    && host.as_bytes()[dot] == b'.'
                    && host.as_bytes()[dot + 1..].eq_ignore_ascii_case(apex.0.as_bytes())
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

fn plain(host: &str) -> &str {
    bare(host.strip_suffix('.').unwrap_or(host))
}

/// `[::1]` as `::1`.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
}

fn is_number(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit())
}

/// Letters, digits, hyphen (RFC 1123 §2.1), and the underscore that real host names use.
fn is_label(label: &str) -> bool {
    let body = label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    body && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_means_any_depth_but_not_the_apex() {
        let below = HostPattern::parse("*.example.com").unwrap();
        for host in [
            "a.example.com",
            "a.b.example.com",
            "A.Example.COM",
            "a.example.com.",
        ] {
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
        assert!(Host::parse("127.0.0.1").unwrap().is("127.0.0.1"));
        assert_eq!(Host::parse("0:0:0:0:0:0:0:1").unwrap().as_str(), "::1");
        assert!(Host::parse("[::1]").unwrap().is("[0::1]"));
        assert!(!Host::parse("::1").unwrap().is("[::2]"));
        assert!(!Host::parse("::1").unwrap().is("example.com"));
        assert!(
            HostPattern::parse("localhost")
                .unwrap()
                .matches("localhost")
        );
    }

    #[test]
    fn what_is_no_host_says_what_to_write() {
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
        assert_eq!(Host::parse("*.example.com"), Err(HostError::StarNotHere));
    }
}
