//! Opens what bursar.toml names: the wallet, roots of trust, nodes, the listener's certificate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use secrecy::ExposeSecret;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use super::bkey;
use super::clients::{NotKnown, Proof, known};
use crate::config::operator::{RpcUrl, SiteTls, TokenIssuer, WalletKey};
use crate::config::{Config, SecretError, secret};
use bursar_core::assets::{Mode, Network};
use bursar_home::{self as home, Home, HomeError};
use bursar_net::corporate::{CorporateProxy, LoginError, ProxyLogin};
use bursar_net::tls::AlpnOffer;
use bursar_net::tls::leaf::{ListenerTlsError, listener_config};
use bursar_net::tls::site::{Identity, SiteTrust};
use bursar_net::tls::upstream::{TrustError, UpstreamTls};
use bursar_rails::bkey::Bkey;
use bursar_rails::pay::{BkeyIssuer, BkeySigner, CardPayer, EvmPayer, Issuer, NoSigner, Tokens, Wallet, WalletError};
use bursar_rails::rpc::Node;
use bursar_rails::stripe::{KeyError, SecretKey, Stripe};

/// The signer for EVM networks, if bursar.toml names one.
pub(crate) async fn open_wallet(
    config: &Config,
    home: &Home,
    tls: &Arc<UpstreamTls>,
) -> Result<Option<EvmPayer>, OpenWalletError> {
    Ok(match &config.wallet {
        None => None,
        Some(WalletKey::Bkey) => {
            let bkey = Arc::new(open_bkey(config, home, tls)?);
            let history = bkey::wallet(&bkey, home).await?;
            let signer = BkeySigner::new(bkey, &history).map_err(OpenWalletError::Signer)?;
            let network = signer.token().network();
            if !config.networks.contains_key(&network) {
                return Err(OpenWalletError::OtherNetwork(network));
            }
            Some(EvmPayer::Bkey(signer))
        }
        Some(key) => Some(EvmPayer::Ours(own_wallet(key, home)?)),
    })
}

/// BKey, with our client registration.
fn open_bkey(config: &Config, home: &Home, tls: &Arc<UpstreamTls>) -> Result<Bkey, NotKnown> {
    let written = config.bkey_client();
    let known = known(written.api_url.as_ref(), &written.client, home)?;
    match known.proof {
        Proof::Secret(secret) => Ok(Bkey::new(known.issuer, known.id, secret, tls.clone())),
        Proof::Key { .. } => Err(NotKnown::Key),
    }
}

/// Reads the key from the source that bursar.toml names.
fn own_wallet(key: &WalletKey, home: &Home) -> Result<Wallet, OpenWalletError> {
    match key {
        WalletKey::Bkey => Err(OpenWalletError::NoKey),
        WalletKey::Hex(source) => {
            let key = secret::read(source, home.root())?;
            Wallet::from_hex(key.expose_secret()).map_err(|error| OpenWalletError::Key {
                source_name: source.to_string(),
                error,
            })
        }
        WalletKey::Keystore { path, password } => {
            let json = home::read_secret(path)?;
            let password = secret::read(password, home.root())?;
            Wallet::from_keystore(&json, password.expose_secret()).map_err(|error| OpenWalletError::Key {
                source_name: format!("keystore:{}", path.display()),
                error,
            })
        }
    }
}

/// Why the key is missing or unusable; never quotes the key.
#[derive(Debug, Error)]
pub enum OpenWalletError {
    #[error(transparent)]
    Source(#[from] SecretError),
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("{source_name}: {error}")]
    Key { source_name: String, error: WalletError },
    #[error("the wallet's key is at BKey")]
    NoKey,
    #[error("BKey client: {0}")]
    Client(#[from] NotKnown),
    #[error(transparent)]
    WalletUnknown(#[from] bkey::WalletUnknown),
    #[error(transparent)]
    Signer(NoSigner),
    #[error(
        "BKey's wallet is on {0}, which [networks] in bursar.toml does not name; add [networks.\"{0}\"], or use a key of your own \
         under [wallet.evm]"
    )]
    OtherNetwork(Network),
}

impl OpenWalletError {
    /// The section of bursar.toml that the error is about.
    pub const fn section(&self) -> &'static str {
        match self {
            Self::Source(_) | Self::File(_) | Self::Key { .. } => "[wallet.evm]",
            _ => "[wallet]",
        }
    }
}

/// The issuer of card tokens, if bursar.toml names one.
pub(crate) fn open_issuer(
    config: &Config,
    home: &Home,
    tls: &Arc<UpstreamTls>,
) -> Result<Option<CardPayer>, OpenIssuerError> {
    let Some(stripe) = &config.stripe else {
        return Ok(None);
    };
    let (payment_method, tokens) = (stripe.payment_method.clone(), Tokens::open(home.tokens())?);
    let account = match &stripe.issued_by {
        TokenIssuer::Account(account) => account,
        TokenIssuer::Bkey => {
            let bkey = Arc::new(open_bkey(config, home, tls)?);
            return Ok(Some(CardPayer::Bkey(BkeyIssuer::new(bkey, payment_method, tokens))));
        }
    };
    let key = secret::read(&account.key, home.root())?;
    let key = SecretKey::parse(key.expose_secret())?;
    if key.mode() == Mode::Live && !account.live {
        return Err(OpenIssuerError::Live);
    }
    let service = Stripe::new(key, account.settings.clone(), tls.clone())?;
    let issuer = Issuer::new(service, payment_method, tokens);
    Ok(Some(CardPayer::Stripe(Arc::new(issuer))))
}

/// Why Stripe cannot be used; never quotes the key.
#[derive(Debug, Error)]
pub enum OpenIssuerError {
    #[error(transparent)]
    Source(#[from] SecretError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("BKey client: {0}")]
    Client(#[from] NotKnown),
    #[error("the secret key is a live one, which moves real money; set live = true under [stripe] if that is intended")]
    Live,
}

/// How sites are verified, and the proxy behind which sites and services are reached.
pub(crate) fn upstream_tls(config: &Config, dir: &Path) -> Result<UpstreamTls, OpenUpstreamError> {
    let tls = UpstreamTls::new(&config.trust(), config.timeouts.tls)?;
    let Some(corporate) = &config.upstream.proxy else {
        return Ok(tls);
    };
    let login = match &corporate.login {
        None => None,
        Some(login) => Some(ProxyLogin::new(
            login.user.clone(),
            secret::read(&login.password, dir)?,
        )?),
    };
    let (address, no_proxy) = (corporate.address.clone(), corporate.no_proxy.clone());
    let proxy = CorporateProxy::new(address, login, no_proxy, tls.config(AlpnOffer::Http1));
    Ok(tls.through(Some(Arc::new(proxy))))
}

/// Why sites and services cannot be reached as bursar.toml says.
#[derive(Debug, Error)]
pub enum OpenUpstreamError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("upstream.proxy_password: {0}")]
    Password(#[from] SecretError),
    #[error("upstream.proxy_user, upstream.proxy_password: {0}")]
    Login(#[from] LoginError),
}

#[derive(Debug, Error)]
pub enum OpenSitesError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("upstream.site.client_key: {0}")]
    Key(#[from] SecretError),
}

/// How the sites that agents reach are verified, and what they are shown: `tls`, and the sections for single sites.
pub(crate) fn agents_tls(config: &Config, home: &Home, tls: &UpstreamTls) -> Result<UpstreamTls, OpenSitesError> {
    let mut sections = Vec::new();
    for site in &config.upstream.sites {
        let SiteTls::Intercepted { ca, client } = &site.tls else {
            continue;
        };
        let identity = match client {
            Some(client) => {
                let key = secret::read(&client.key, home.root())?;
                Some(Identity::read(&client.cert, key.expose_secret())?)
            }
            None => None,
        };
        sections.push(SiteTrust {
            hosts: site.hosts.clone(),
            ca: ca.clone(),
            identity,
        });
    }
    Ok(tls.with_sites(&config.trust(), &sections)?)
}

/// The nodes that bursar.toml names; a network may have none.
pub(crate) fn nodes(config: &Config) -> BTreeMap<Network, Vec<Node>> {
    let of = |urls: &Vec<RpcUrl>| urls.iter().map(|url| Node::new(url.uri().clone())).collect();
    config
        .networks
        .iter()
        .map(|(network, urls)| (*network, of(urls)))
        .collect()
}

/// The TLS of the listener, if bursar.toml enables it.
pub(super) fn tls_acceptor(config: &Config) -> Result<Option<TlsAcceptor>, ListenerTlsError> {
    let Some(files) = &config.proxy.tls else {
        return Ok(None);
    };
    Ok(Some(TlsAcceptor::from(listener_config(&files.cert, &files.key)?)))
}
