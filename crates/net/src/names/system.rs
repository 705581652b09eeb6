//! The machine's own resolver, asked for one family of addresses at a time: if one of the two answers does not come
//! (many firewalls drop AAAA), the other is used without it (RFC 8305 §3). `getaddrinfo` keeps what the machine is set
//! up for: its hosts file, nsswitch, search list, name servers and their time limits.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use dns_lookup::{AddrFamily, AddrInfoHints, LookupError, LookupErrorKind, SockType};

use crate::fault::in_words;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

pub type Looking = Pin<Box<dyn Future<Output = Result<Vec<IpAddr>, NameFault>> + Send>>;

/// Resolves host names. A trait, so that tests can give answers that change, stay away or lie.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of one family, in the order in which they should be tried.
    fn lookup(&self, host: String, family: Family) -> Looking;
}

pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn lookup(&self, host: String, family: Family) -> Looking {
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || ask(&host, family));
            asked
                .await
                .unwrap_or_else(|died| Err(NameFault::System(died.to_string())))
        })
    }
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// NXDOMAIN.
    Unknown,
    /// The name exists, but has no address.
    NoAddress,
    /// No name server answered in time.
    Silent(Duration),
    /// SERVFAIL, or no name server could be reached.
    Failed,
    /// The name servers refuse to answer.
    Refused,
    /// This machine failed.
    System(String),
}

impl NameFault {
    /// Whether the name servers have said that there is nothing, so that older answers are void.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Unknown | Self::NoAddress)
    }

    /// The one that says more about a name without any address.
    pub(super) fn of_both(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::NoAddress, other) => other,
            (fault, _) => fault,
        }
    }

    fn of(error: LookupError, took: Duration) -> Self {
        /// A failure that took this long was a name server's silence; resolv.conf(5) knows whole seconds.
        const SILENCE: Duration = Duration::from_millis(900);
        match error.kind() {
            LookupErrorKind::NoName => Self::Unknown,
            LookupErrorKind::NoData | LookupErrorKind::Family => Self::NoAddress,
            LookupErrorKind::Again if took >= SILENCE => Self::Silent(took),
            LookupErrorKind::Again => Self::Failed,
            LookupErrorKind::Fail => Self::Refused,
            _ => Self::System(in_words(&io::Error::from(error))),
        }
    }
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the host name does not exist"),
            Self::NoAddress => f.write_str("the host name has no address"),
            Self::Silent(took) => write!(
                f,
                "the host name could not be resolved: the name servers did not answer in {} s",
                took.as_secs().max(1)
            ),
            Self::Failed => f.write_str(
                "the host name could not be resolved: the name servers reported a failure or cannot be reached",
            ),
            Self::Refused => f.write_str("the host name could not be resolved: the name servers refuse to answer"),
            Self::System(why) => write!(f, "the host name could not be resolved: {why}"),
        }
    }
}

impl std::error::Error for NameFault {}

fn ask(host: &str, family: Family) -> Result<Vec<IpAddr>, NameFault> {
    let hints = AddrInfoHints {
        address: match family {
            Family::V4 => AddrFamily::Inet.into(),
            Family::V6 => AddrFamily::Inet6.into(),
        },
        // Each address once, not once for each kind of socket.
        socktype: SockType::Stream.into(),
        ..AddrInfoHints::default()
    };
    let began = Instant::now();
    let found = dns_lookup::getaddrinfo(Some(host), None, Some(hints))
        .map_err(|error| NameFault::of(error, began.elapsed()))?;
    let addresses: Vec<IpAddr> = found.flatten().map(|found| found.sockaddr.ip()).collect();
    match addresses.is_empty() {
        true => Err(NameFault::NoAddress),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_machines_own_names_are_found_by_family() {
        let found = SystemResolver.lookup("localhost".to_owned(), Family::V4).await.unwrap();
        assert!(
            found.iter().all(|address| address.is_ipv4() && address.is_loopback()),
            "{found:?}"
        );
        assert_eq!(found.len(), 1, "each address once");
    }

    #[test]
    fn each_cause_has_a_sentence_of_its_own() {
        let faults = [
            NameFault::Unknown,
            NameFault::NoAddress,
            NameFault::Silent(Duration::from_secs(10)),
            NameFault::Failed,
            NameFault::Refused,
            NameFault::System("this machine has no memory left".to_owned()),
        ];
        let texts: std::collections::BTreeSet<String> = faults.iter().map(NameFault::to_string).collect();
        assert_eq!(texts.len(), faults.len());
        assert!(
            texts.iter().any(|text| text.ends_with("did not answer in 10 s")),
            "{texts:?}"
        );
    }

    #[test]
    fn what_getaddrinfo_says_is_told_apart() {
        // The numbers of netdb.h (Linux).
        let of = |number, took| NameFault::of(LookupError::new(number), Duration::from_millis(took));
        assert_eq!(of(-2, 1), NameFault::Unknown);
        assert_eq!(of(-5, 1), NameFault::NoAddress);
        assert_eq!(of(-3, 3), NameFault::Failed);
        assert_eq!(of(-3, 10_000), NameFault::Silent(Duration::from_secs(10)));
        assert_eq!(of(-4, 1), NameFault::Refused);
        assert!(matches!(of(-10, 1), NameFault::System(why) if !why.contains("os error")));
    }

    #[test]
    fn of_two_faults_the_telling_one_is_reported() {
        use NameFault::*;
        assert_eq!(NoAddress.of_both(Failed), Failed);
        assert_eq!(Failed.of_both(NoAddress), Failed);
        assert_eq!(Failed.of_both(Unknown), Unknown);
        assert_eq!(NoAddress.of_both(NoAddress), NoAddress);
    }
}
