//! bursar.toml, which the operator owns. Every key has a default, and the file may be absent.
//!
//! `bursar.example.toml` documents every key; a test holds the two together. The file holds no secret, only where one is
//! kept; as people write secrets into such files all the same, messages about it show no more of a line than they must.

mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use http::Uri;
use ipnet::IpNet;

use super::alerts::Alerts;
use super::approval::ciba::Client;
use super::approval::{Approval, Backend};
use bursar_approvals::ciba::settings::Style;
use bursar_config::diagnose::{Confidence, ConfigError, Document};
use bursar_config::secret::SecretSource;
use bursar_config::section::Section;
use bursar_core::assets::Network;
use bursar_core::host::Host;
use bursar_ledger::database_url::DatabaseUrl;
use bursar_net::oauth::issuer::Issuer;
use bursar_net::timeouts::Timeouts;
use bursar_rails::stripe::{PaymentMethod, Settings};

/// bursar.toml, resolved.
#[derive(Debug)]
pub struct Config {
    pub proxy: Proxy,
    pub upstream: Upstream,
    pub wallet: Option<WalletKey>,
    /// The payable networks with the RPC servers that prove what happened there; without servers there are no proofs
    /// (R21).
    pub networks: BTreeMap<Network, Vec<RpcUrl>>,
    pub stripe: Option<Stripe>,
    /// BKey, where it pays: as whom it knows us, if that is not as `approval.ciba` or its own tools say.
    pub bkey: Option<Bkey>,
    pub approval: Approval,
    pub store: Store,
    pub alerts: Alerts,
    /// Where those of BKey's client are, whether it pays or not.
    pub bkey_secrets: Vec<SecretSource>,
    pub timeouts: Timeouts,
}

/// `[proxy]`: the side that agents see.
#[derive(Debug)]
pub struct Proxy {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The listener itself speaks TLS.
    pub tls: Option<ListenerTls>,
    /// Adds `Via` (R32).
    pub via: bool,
    pub agent_payments: AgentPayments,
}

/// PEM files.
#[derive(Debug, PartialEq, Eq)]
pub struct ListenerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What happens to a request that carries a payment of the agent's own (R31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentPayments {
    #[default]
    Refuse,
    Pass,
}

/// `[upstream]`: the side that sellers see.
#[derive(Debug, Default)]
pub struct Upstream {
    /// PEM files with further roots.
    pub extra_ca: Vec<PathBuf>,
    /// The machine's roots instead of the built-in ones.
    pub system_roots: bool,
    /// Exceptions to the guard against requests to private addresses.
    pub allow_private: Vec<IpNet>,
    /// Hosts that may be paid without TLS (R26).
    pub allow_http_payments: BTreeSet<Host>,
}

/// `[wallet]`: where the signing key of EVM networks is.
#[derive(Debug, PartialEq, Eq)]
pub enum WalletKey {
    /// On a phone, at BKey.
    Bkey,
    /// 64 hex digits.
    Hex(SecretSource),
    /// Web3 secret storage, version 3.
    Keystore { path: PathBuf, password: SecretSource },
}

/// `[stripe]`: who issues shared payment tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct Stripe {
    pub payment_method: PaymentMethod,
    pub issued_by: TokenIssuer,
}

/// Whose tokens pay sellers that take cards.
#[derive(Debug, PartialEq, Eq)]
pub enum TokenIssuer {
    /// Those of an account of ours.
    Account(StripeAccount),
    Bkey,
}

/// An account at Stripe.
#[derive(Debug, PartialEq, Eq)]
pub struct StripeAccount {
    pub key: SecretSource,
    /// A key that moves money is used only where the file says so.
    pub live: bool,
    pub settings: Settings,
}

/// `[bkey]`: as whom BKey knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bkey {
    /// `None`: where BKey's own tools say that it is.
    pub api_url: Option<Issuer>,
    pub client: Client,
}

/// An http or https URL. Providers put their keys into its path, so only its host is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RpcUrl(Uri);

/// Where the books are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// In the data directory.
    #[default]
    Embedded,
    /// In a database, with other proxies.
    Shared(Box<SharedStore>),
}

/// Where the shared books are, and how to get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedStore {
    pub database: DatabaseUrl,
    pub password: Option<SecretSource>,
    /// PEM file with the roots that may vouch for the database; otherwise the roots that sellers are checked by.
    pub ca: Option<PathBuf>,
}

impl Config {
    /// Reads `DIR/bursar.toml`; the defaults when there is none.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("bursar.toml");
        let file = path.display().to_string();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&file, &text, dir),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::parse(&file, "", dir),
            Err(error) => Err(ConfigError::Unreadable {
                file,
                reason: error.to_string(),
            }),
        }
    }

    /// `file` is the name that messages use; relative paths start at `dir`.
    pub fn parse(file: &str, text: &str, dir: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text, Confidence::Guarded);
        let table = document.table()?;
        let config = read::config(Section::top(&document, table.get_ref()), dir);
        drop(table);
        document.finish(config)
    }
}

impl Config {
    /// Where every secret is kept that the file names, the keystore's file aside.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        let wallet = self.wallet.as_ref().and_then(|wallet| match wallet {
            WalletKey::Hex(source) | WalletKey::Keystore { password: source, .. } => Some(source),
            WalletKey::Bkey => None,
        });
        let stripe = self.stripe.as_ref().and_then(|stripe| match &stripe.issued_by {
            TokenIssuer::Account(account) => Some(&account.key),
            TokenIssuer::Bkey => None,
        });
        let webhook = self.alerts.webhook.as_ref().and_then(|webhook| webhook.token.as_ref());
        let store = match &self.store {
            Store::Shared(shared) => shared.password.as_ref(),
            Store::Embedded => None,
        };
        let kept = [wallet, stripe, webhook, store].into_iter().flatten();
        kept.chain(&self.approval.secrets).chain(&self.bkey_secrets)
    }
}

impl Config {
    /// Whether anything is paid by BKey.
    pub fn pays_by_bkey(&self) -> bool {
        let tokens = self.stripe.as_ref().map(|stripe| &stripe.issued_by);
        self.wallet == Some(WalletKey::Bkey) || tokens == Some(&TokenIssuer::Bkey)
    }

    /// As whom BKey is asked to pay: as `[bkey]` says, else as an approval backend of BKey's does, else as BKey's own tools do.
    pub fn bkey_client(&self) -> Bkey {
        let asking = match &self.approval.backend {
            Backend::Ciba(ciba) if ciba.style == Style::Bkey => Some(Bkey {
                api_url: ciba.issuer.clone(),
                client: ciba.client.clone(),
            }),
            _ => None,
        };
        let tools = Bkey {
            api_url: None,
            client: Client::Bkey { profile: None },
        };
        self.bkey.clone().or(asking).unwrap_or(tools)
    }
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8402);

impl Default for Proxy {
    fn default() -> Self {
        Self {
            listen: DEFAULT_LISTEN,
            tls: None,
            via: false,
            agent_payments: AgentPayments::Refuse,
        }
    }
}

impl RpcUrl {
    pub const fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcUrl({})", self.0.host().unwrap_or_default())
    }
}
