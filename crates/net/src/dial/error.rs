//! Why there is no connection, in words that an agent may read: they name the class of an address, never the address.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bursar_core::host::HostError;

use super::AddressClass;
use crate::corporate::{CorporateProxy, ProxyFault};
use crate::fault::in_words;
use crate::names::NameFault;
use crate::shares::Full;

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{0}")]
    Host(#[from] HostError),
    #[error("the host is {class}, which this proxy does not connect to")]
    Guard {
        class: AddressClass,
        address: Option<IpAddr>,
    },
    #[error("the request would loop back to this proxy")]
    Loop { address: SocketAddr },
    #[error("{why}")]
    Dns { why: NameFault },
    #[error("the host refused the connection")]
    Refused,
    #[error("the host could not be reached: {}", in_words(source))]
    Unreachable { source: io::Error },
    #[error("{0}")]
    Timeout(Stage),
    #[error(transparent)]
    Full(#[from] Full),
    #[error(transparent)]
    Corporate(#[from] ProxyFault),
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Resolve(Duration),
    Connect(Duration),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(after) => write!(
                f,
                "the host name could not be resolved: the name servers did not answer in {} s",
                after.as_secs_f32()
            ),
            Self::Connect(after) => write!(f, "the host did not accept a connection in {} s", after.as_secs_f32()),
        }
    }
}

impl DialError {
    /// Of an attempt that lasted for `after`.
    pub(super) fn of_connect(source: io::Error, after: Duration) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout(Stage::Connect(Duration::from_secs(after.as_secs()))),
            _ => Self::Unreachable { source },
        }
    }

    /// The same, if what was dialled is the proxy itself.
    pub(super) fn at_proxy(self, proxy: &CorporateProxy) -> Self {
        match self {
            Self::Refused => proxy.unreachable("the connection was refused".to_owned()).into(),
            Self::Unreachable { source } => proxy.unreachable(in_words(&source)).into(),
            Self::Timeout(Stage::Connect(after)) => proxy.too_slow(after).into(),
            other => other,
        }
    }

    /// Of two addresses of one host, the fault that says more: that this machine cannot use a whole family says least.
    pub(super) fn or(self, later: Self) -> Self {
        match (&self, &later) {
            (Self::Refused | Self::Timeout(_), Self::Unreachable { .. }) => self,
            _ => later,
        }
    }
}
