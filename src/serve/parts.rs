//! What bursar.toml names, opened: the wallet, roots of trust, nodes, the listener's certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::assets::{Mode, Network};
use crate::config::operator::{RpcUrl, WalletKey};
use crate::config::{Config, SecretError};
use crate::home::{self, Home, HomeError};
use crate::pay::{Issuer, Tokens, Wallet, WalletError};
use crate::rpc::Node;
use crate::stripe::{KeyError, SecretKey, Stripe};
use crate::tls::leaf::{ListenerTlsError, listener_config};
use crate::tls::upstream::{PublicRoots, Trust, TrustError, UpstreamTls};

/// Reads the key from where bursar.toml says it is.
pub fn open_wallet(key: &WalletKey, home: &Home) -> Result<Wallet, OpenWalletError> {
    match key {
        WalletKey::Hex(source) => {
            let key = source.read(home.root())?;
            Wallet::from_hex(key.expose_secret()).map_err(|error| OpenWalletError::Key {
                source_name: source.to_string(),
                error,
            })
        }
        WalletKey::Keystore { path, password } => {
            let json = home::read_secret(path)?;
            let password = password.read(home.root())?;
            Wallet::from_keystore(&json, password.expose_secret()).map_err(|error| OpenWalletError::Key {
                source_name: format!("keystore:{}", path.display()),
                error,
            })
        }
    }
}

/// Why the key is not there or not usable; says nothing of the key itself.
#[derive(Debug, Error)]
pub enum OpenWalletError {
    #[error(transparent)]
    Source(#[from] SecretError),
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("{source_name}: {error}")]
    Key { source_name: String, error: WalletError },
}

/// The account at Stripe, if bursar.toml names one.
pub fn open_issuer(
    config: &Config,
    home: &Home,
    tls: &Arc<UpstreamTls>,
) -> Result<Option<Arc<Issuer>>, OpenIssuerError> {
    let Some(stripe) = &config.stripe else {
        return Ok(None);
    };
    let key = stripe.key.read(home.root())?;
    let key = SecretKey::parse(key.expose_secret())?;
    if key.mode() == Mode::Live && !stripe.live {
        return Err(OpenIssuerError::Live);
    }
    let service = Stripe::new(key, stripe.settings.clone(), tls.clone())?;
    let tokens = Tokens::open(home.tokens())?;
    let issuer = Issuer::new(service, stripe.payment_method.clone(), tokens);
    Ok(Some(Arc::new(issuer)))
}

/// Why Stripe cannot be used; says nothing of the key itself.
#[derive(Debug, Error)]
pub enum OpenIssuerError {
    #[error(transparent)]
    Source(#[from] SecretError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("the key is a live one, which moves money; write live = true under [stripe] if that is meant")]
    Live,
}

/// Whose certificates sellers may have.
pub fn trust(config: &Config) -> Trust {
    let roots = if config.upstream.system_roots {
        PublicRoots::Machine
    } else {
        PublicRoots::Bundled
    };
    Trust {
        extra_ca: config.upstream.extra_ca.clone(),
        roots,
    }
}

/// How sites are verified.
pub fn upstream_tls(config: &Config) -> Result<UpstreamTls, TrustError> {
    UpstreamTls::new(&trust(config), config.timeouts.tls)
}

/// The nodes that bursar.toml names; a network may have none.
pub fn nodes(config: &Config) -> BTreeMap<Network, Vec<Node>> {
    let of = |urls: &Vec<RpcUrl>| urls.iter().map(|url| Node::new(url.uri().clone())).collect();
    config
        .networks
        .iter()
        .map(|(network, urls)| (*network, of(urls)))
        .collect()
}

/// What agents' connections are wrapped in, if bursar.toml wants that.
pub(super) fn tls_acceptor(config: &Config) -> Result<Option<TlsAcceptor>, ListenerTlsError> {
    let Some(files) = &config.proxy.tls else {
        return Ok(None);
    };
    Ok(Some(TlsAcceptor::from(listener_config(&files.cert, &files.key)?)))
}
