//! The single spelling of a host that policy, dialling, certificates and comparisons share.
//!
//! A host name arrives in CONNECT, in SNI, in `Host` or `:authority`, and in absolute URIs. Each is parsed once, here.
//! Two of them are the same host exactly if the values are equal (threat 2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A DNS name (lower case, A-labels, no trailing dot, at most 253 bytes) or an IP address in canonical form. An IPv4
/// address that is written as an IPv6 one (`::ffff:192.0.2.1`) is that IPv4 address: the dialer reaches the same host
/// by both, so limits and ledger must not know two.
///
/// Numeric spellings that C resolvers read as an IPv4 address (`127.1`, `0x7f.1`, `2130706433`) stay names here. So
/// they never equal the address, and the dialer uses [`Host::is_disguised_ipv4`] to refuse them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    text: Box<str>,
    ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("the host is empty")]
    Empty,
    #[error("the host is longer than 253 characters, or one of its labels is empty or longer than 63")]
    Length,
    #[error("the host is not ASCII; write its xn-- form")]
    NotAscii,
    #[error("the host contains a character that is not allowed in host names")]
    Character,
    #[error("a label of the host begins or ends with a hyphen")]
    Hyphen,
    #[error("the text in brackets is not an IPv6 address")]
    Ipv6,
    #[error("the port is missing")]
    PortMissing,
    #[error("the port is not a number from 1 to 65535")]
    Port,
    #[error("user information before the host is not allowed")]
    UserInformation,
    #[error("the URL has no scheme, or one other than http and https")]
    Scheme,
}

impl Host {
    /// Parses a host from a URI, SNI or a file: IPv6 with or without brackets, in any case, with or without one
    /// trailing dot.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostError::Ipv6)?;
            return inner.parse::<Ipv6Addr>().map(Self::from).map_err(|_| HostError::Ipv6);
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(address.into());
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(address.into());
        }
        check_name(name)?;
        Ok(Self {
            text: name.to_ascii_lowercase().into(),
            ip: None,
        })
    }

    /// The canonical text; IPv6 without brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// Whether the name ends in a number as the WHATWG URL standard defines it ("ends in a number checker").
    /// `inet_aton` and browsers read such names as IPv4 addresses, so they must never reach a resolver.
    pub fn is_disguised_ipv4(&self) -> bool {
        if self.ip.is_some() {
            return false;
        }
        let last = self.text.rsplit('.').next().unwrap_or_default();
        last.bytes().all(|b| b.is_ascii_digit())
            || last
                .strip_prefix("0x")
                .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
    }
}

/// The label rules of TLS server names. Underscores occur in real names and are accepted.
fn check_name(name: &str) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if !name.is_ascii() {
        return Err(HostError::NotAscii);
    }
    if name.len() > 253 {
        return Err(HostError::Length);
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err(HostError::Length);
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Err(HostError::Character);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Hyphen);
        }
    }
    Ok(())
}

impl From<Ipv4Addr> for Host {
    fn from(address: Ipv4Addr) -> Self {
        IpAddr::V4(address).into()
    }
}

impl From<Ipv6Addr> for Host {
    fn from(address: Ipv6Addr) -> Self {
        IpAddr::V6(address).into()
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            text: address.to_string().into(),
            ip: Some(address),
        }
    }
}

impl std::str::FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse(text)
    }
}

impl AsRef<str> for Host {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.text)
    }
}

/// A host and the port to dial (never 0).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    pub host: Host,
    pub port: u16,
}

impl Authority {
    /// The target of CONNECT: `host:port`. The port has no default there (RFC 9110 §9.3.6).
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let (host, port) = split_port(text)?;
        let port = port.ok_or(HostError::PortMissing)?;
        Ok(Self {
            host: Host::parse(host)?,
            port: parse_port(port)?,
        })
    }

    /// A `Host` or `:authority` value; a missing or empty port (RFC 3986 §3.2.3) means `default_port`.
    pub fn parse_or_default(text: &str, default_port: u16) -> Result<Self, HostError> {
        let (host, port) = split_port(text)?;
        let port = match port {
            None | Some("") => default_port,
            Some(digits) => parse_port(digits)?,
        };
        Ok(Self {
            host: Host::parse(host)?,
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.ip {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Splits off the port. IPv6 must be in brackets here, because `::1:443` is ambiguous.
fn split_port(text: &str) -> Result<(&str, Option<&str>), HostError> {
    if text.contains('@') {
        return Err(HostError::UserInformation);
    }
    if text.starts_with('[') {
        let end = text.find(']').ok_or(HostError::Ipv6)?;
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(HostError::Character),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, rest)) if rest.contains(':') => Err(HostError::Ipv6),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

/// Digits only: `u16::from_str` would accept `+443`.
fn parse_port(digits: &str) -> Result<u16, HostError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(HostError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(HostError::Port),
        Ok(port) => Ok(port),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn one_spelling_per_host() {
        for (text, canonical) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1.", "192.0.2.1"),
            ("[2001:DB8:0:0::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[::ffff:1.2.3.4]", "1.2.3.4"),
            ("::FFFF:102:304", "1.2.3.4"),
            ("[0:0:0:0:0:ffff:1.2.3.4]", "1.2.3.4"),
            // Deprecated, and not what a dialer connects to.
            ("[::1.2.3.4]", "::102:304"),
            ("[64:ff9b::1.2.3.4]", "64:ff9b::102:304"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(
                Host::parse(text).map(|h| h.to_string()).as_deref(),
                Ok(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn no_host() {
        use HostError::*;
        let long_label = "a".repeat(64);
        let long_name = "a.".repeat(127) + "b";
        for (text, error) in [
            ("", Empty),
            (".", Empty),
            ("a..b", Length),
            ("example.com..", Length),
            (&long_label, Length),
            (&long_name, Length),
            ("bücher.example", NotAscii),
            ("a b", Character),
            ("a%2eb", Character),
            ("a/b", Character),
            ("a\r\nb", Character),
            ("fe80::1%eth0", Character),
            ("-a.example", Hyphen),
            ("a-.example", Hyphen),
            ("[fe80::1%eth0]", Ipv6),
            ("[::1", Ipv6),
            ("[127.0.0.1]", Ipv6),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn numeric_spellings_are_not_addresses() {
        for text in [
            "127.1",
            "0x7f.1",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.01",
            "0x7f000001",
            "1.2.3.4.5",
            "256.1.1.1",
            "0x",
            "foo.0x1F",
            "127.0.0.1.0",
            "0",
        ] {
            let host = Host::parse(text).unwrap();
            assert!(host.ip().is_none() && host.is_disguised_ipv4(), "{text}");
        }
        for text in [
            "127.0.0.1",
            "1.example",
            "0x7f.example",
            "1e100.net",
            "0xg",
            "a1",
            "::1",
        ] {
            assert!(!Host::parse(text).unwrap().is_disguised_ipv4(), "{text}");
        }
    }

    #[test]
    fn authorities() {
        for (text, shown) in [
            ("Example.com:443", "example.com:443"),
            ("[::1]:8443", "[::1]:8443"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("example.com.:0443", "example.com:443"),
        ] {
            assert_eq!(Authority::parse(text).unwrap().to_string(), shown);
        }
        for (text, error) in [
            ("example.com", HostError::PortMissing),
            ("[::1]", HostError::PortMissing),
            ("example.com:", HostError::Port),
            ("example.com:0", HostError::Port),
            ("example.com:65536", HostError::Port),
            ("example.com:+443", HostError::Port),
            ("example.com:443x", HostError::Port),
            ("::1:443", HostError::Ipv6),
            ("[::1]443", HostError::Character),
            ("u@example.com:443", HostError::UserInformation),
            (":443", HostError::Empty),
        ] {
            assert_eq!(Authority::parse(text), Err(error), "{text}");
        }
        assert_eq!(Authority::parse_or_default("a.example", 443).unwrap().port, 443);
        assert_eq!(Authority::parse_or_default("a.example:", 443).unwrap().port, 443);
        assert_eq!(Authority::parse_or_default("a.example:8443", 443).unwrap().port, 8443);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_idempotent(text in "\\PC{0,80}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert!(!host.as_str().is_empty());
                prop_assert_eq!(Host::parse(host.as_str()), Ok(host));
            }
            if let Ok(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
            }
        }

        #[test]
        fn names_are_what_tls_accepts(text in "[a-zA-Z0-9_.-]{1,24}") {
            if let Ok(host) = Host::parse(&text) && !host.is_disguised_ipv4() {
                prop_assert!(ServerName::try_from(host.as_str()).is_ok(), "{}", host);
            }
        }

        #[test]
        fn case_and_trailing_dot_do_not_matter(labels in proptest::collection::vec("[a-z][a-z0-9]{0,8}", 1..5)) {
            let name = labels.join(".");
            let host = Host::parse(&name).unwrap();
            prop_assert_eq!(&Host::parse(&(name.to_uppercase() + ".")).unwrap(), &host);
        }

        #[test]
        fn addresses_round_trip(bits: u128, port in 1u16..) {
            let host = Host::from(Ipv6Addr::from(bits));
            let authority = Authority { host, port };
            prop_assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
        }
    }
}
