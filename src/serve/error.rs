//! Why a proxy does not start, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::approvals::OpenQuestionsError;
use super::parts::OpenUpstreamError;
use super::room::TooFewDescriptors;
use super::{OpenIssuerError, OpenSitesError, OpenWalletError};
use crate::admin::PeopleError;
use crate::agents::AgentsError;
use crate::backup::restore::NotAccepted;
use crate::config::{ConfigError, SecretError};
use crate::store::StoreError;
use bursar_home::HomeError;
use bursar_net::tls::authority::AuthorityError;
use bursar_net::tls::leaf::ListenerTlsError;

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Agents(#[from] AgentsError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Upstream(#[from] OpenUpstreamError),
    #[error("upstream.proxy leads to bursar itself ({0}): write the address of your network's proxy, or remove it")]
    OwnProxy(SocketAddr),
    #[error(transparent)]
    Sites(#[from] OpenSitesError),
    #[error("{section}: {0}", section = .0.section())]
    Wallet(#[from] OpenWalletError),
    #[error("[stripe]: {0}")]
    Stripe(#[from] OpenIssuerError),
    #[error("[alerts]: {0}")]
    Alerts(SecretError),
    #[error(transparent)]
    Questions(#[from] OpenQuestionsError),
    #[error("the TLS listener: {0}")]
    Listener(#[from] ListenerTlsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{path} is missing, and with it the record of all spending: restore it, or create an empty folder there to \
         start a new ledger",
        path = .0.display()
    )]
    NoLedger(PathBuf),
    #[error(transparent)]
    NotAccepted(#[from] NotAccepted),
    #[error("cannot listen on {address}: {source}{}", way_out(source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Room(#[from] TooFewDescriptors),
    #[error("cannot listen on {address} (`callbacks` under [approval]): {source}")]
    Callbacks { address: SocketAddr, source: io::Error },
    #[error("the operating system gave no random bytes: {0}")]
    Random(io::Error),
    #[error("no file descriptors could be set aside for the ledger: {0}; raise the limit (ulimit -n, LimitNOFILE)")]
    Descriptors(io::Error),
    #[error("cannot open the admin socket {path}: {source}{}", shorter(path), path = path.display())]
    Admin { path: PathBuf, source: io::Error },
    #[error(transparent)]
    People(#[from] PeopleError),
}

fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program uses this port: stop it, or set another `listen` under [proxy] in bursar.toml"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: correct `listen` under [proxy] in bursar.toml"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 are for root: set another `listen` under [proxy] in bursar.toml"
        }
        _ => "",
    }
}

/// The kernel limits the length of a socket's path (unix(7)).
fn shorter(path: &Path) -> &'static str {
    const LONGEST: usize = 107;
    if path.as_os_str().len() > LONGEST {
        "; such paths have at most 107 bytes: use a data directory with a shorter path"
    } else {
        ""
    }
}
