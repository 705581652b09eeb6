//! bursar.toml, which the operator owns. Every key has a default, and the file may be absent.
//!
//! `bursar.example.toml` documents every key; a test keeps the two in step. The file contains no secrets, only where
//! they are kept. Because people put secrets into such files anyway, messages show no more of a line than necessary.

mod capacity;
mod corporate;
mod intercept;
mod path;
mod read;
mod site;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;

use super::alerts::Alerts;
use super::approval::ciba::Client;
use super::approval::{Approval, Backend};
use super::limits_file::{LimitsFile, deciding};
use super::people::People;
use bursar_approvals::ciba::settings::Style;
use bursar_config::diagnose::{Confidence, ConfigError, Document};
use bursar_config::secret::SecretSource;
use bursar_config::section::Section;
use bursar_core::assets::Network;
use bursar_core::host::Host;
use bursar_home::Owners;
use bursar_ledger::UNSIGNED_MAX;
use bursar_ledger::database_url::DatabaseUrl;
use bursar_net::oauth::issuer::Issuer;
use bursar_net::timeouts::Timeouts;
use bursar_net::tls::upstream::{PublicRoots, Trust};
use bursar_rails::stripe::{PaymentMethod, Settings};
pub(crate) use capacity::Capacity;
pub(crate) use corporate::Corporate;
pub(crate) use intercept::Intercept;
pub(crate) use site::{SiteSection, SiteTls};

/// bursar.toml, resolved.
#[derive(Debug)]
pub(crate) struct Config {
    pub proxy: Proxy,
    pub upstream: Upstream,
    pub intercept: Intercept,
    pub wallet: Option<WalletKey>,
    /// The networks to pay on, with the RPC nodes that prove what happened there; without nodes there are no proofs
    /// (R21).
    pub networks: BTreeMap<Network, Vec<RpcUrl>>,
    pub stripe: Option<Stripe>,
    /// Our identity at BKey when it pays, if it differs from `approval.ciba` and from BKey's own tools.
    pub bkey: Option<Bkey>,
    pub approval: Approval,
    pub limits: LimitsFile,
    pub store: Store,
    pub log: Log,
    pub alerts: Alerts,
    /// Where the secrets of the BKey client are kept, whether it pays or not.
    pub bkey_secrets: Vec<SecretSource>,
    /// The second socket, for finance.
    pub people: Option<Arc<People>>,
    pub timeouts: Timeouts,
    pub capacity: Capacity,
}

/// `[proxy]`: the side that agents see.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Port 0 picks a free one.
    pub listen: SocketAddr,
    /// The listener itself speaks TLS.
    pub tls: Option<ListenerTls>,
    /// Adds `Via` (R32).
    pub via: bool,
    pub agent_payments: AgentPayments,
}

/// PEM files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListenerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What happens to a request with a payment made by the agent itself (R31).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AgentPayments {
    #[default]
    Refuse,
    Pass,
}

/// `[upstream]`: the side that sellers see.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    /// PEM files with additional roots.
    pub extra_ca: Vec<PathBuf>,
    /// Use the machine's roots instead of the built-in ones.
    pub system_roots: bool,
    /// Exceptions to the guard against requests to private addresses.
    pub allow_private: Vec<IpNet>,
    /// Hosts that may be paid without TLS (R26).
    pub allow_http_payments: BTreeSet<Host>,
    /// The proxy of the operator's own network.
    pub proxy: Option<Corporate>,
    pub sites: Vec<SiteSection>,
}

/// `[wallet]`: where the signing key for EVM networks is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WalletKey {
    /// On a phone, through BKey.
    Bkey,
    /// 64 hex digits.
    Hex(SecretSource),
    /// Web3 secret storage, version 3.
    Keystore { path: PathBuf, password: SecretSource },
}

/// `[stripe]`: payments with shared payment tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stripe {
    pub payment_method: PaymentMethod,
    pub issued_by: TokenIssuer,
}

/// Who issues the tokens that pay sellers that take cards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenIssuer {
    /// Our own Stripe account.
    Account(StripeAccount),
    Bkey,
}

/// An account at Stripe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StripeAccount {
    pub key: SecretSource,
    /// A live key is used only if this is set.
    pub live: bool,
    pub settings: Settings,
}

/// `[bkey]`: our identity at BKey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bkey {
    /// `None`: the URL that BKey's own tools are configured for.
    pub api_url: Option<Issuer>,
    pub client: Client,
}

/// An http or https URL. Providers put their keys into its path, so only its host is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RpcUrl(Uri);

/// `[log]`: the signed journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// How long payments go on while the journal cannot be signed (R224).
    pub unsigned_max: Duration,
}

/// Where the ledger is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Store {
    /// In the data directory.
    #[default]
    Embedded,
    /// In a database, shared with other proxies.
    Shared(Box<SharedStore>),
}

/// Where the shared ledger is, and how to connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SharedStore {
    pub database: DatabaseUrl,
    pub password: Option<SecretSource>,
    /// PEM file with the roots trusted for the database; by default the roots trusted for sellers.
    pub ca: Option<PathBuf>,
}

impl Config {
    /// Reads `DIR/bursar.toml`; if it does not exist, returns the defaults.
    pub(crate) fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("bursar.toml");
        let file = path.display().to_string();
        if let Err(error) = path.symlink_metadata()
            && error.kind() == ErrorKind::NotFound
        {
            return Self::parse(&file, "", dir);
        }
        Self::parse(&file, &deciding(&path, Owners::of_data(dir))?, dir)
    }

    /// `file` is the name used in messages; relative paths start at `dir`.
    pub(crate) fn parse(file: &str, text: &str, dir: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(file, text, Confidence::Guarded);
        let table = document.table()?;
        let config = read::config(Section::top(&document, table.get_ref()), dir);
        drop(table);
        document.finish(config)
    }
}

impl Config {
    /// The sources of all secrets that the file names, except the keystore's file.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
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
        let proxy = self.upstream.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        let proxy = proxy.map(|login| &login.password);
        let sites = self.upstream.clients().map(|client| &client.key);
        let own = [wallet, stripe, webhook, store, proxy]
            .into_iter()
            .flatten()
            .chain(sites);
        own.chain(&self.approval.secrets).chain(&self.bkey_secrets)
    }
}

impl Config {
    /// The files that say whom bursar believes to be a seller, a node or the database, and whom agents believe to be bursar.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = &PathBuf> {
        let listener = self.proxy.tls.iter().flat_map(|tls| [&tls.cert, &tls.key]);
        let database = match &self.store {
            Store::Shared(shared) => shared.ca.as_ref(),
            Store::Embedded => None,
        };
        let of_sites = self.upstream.sites.iter().filter_map(|site| match &site.tls {
            SiteTls::Intercepted { ca, .. } => ca.as_ref(),
            SiteTls::Passthrough => None,
        });
        let clients = self.upstream.clients().map(|client| &client.cert);
        self.upstream
            .extra_ca
            .iter()
            .chain(of_sites)
            .chain(clients)
            .chain(listener)
            .chain(database)
    }

    /// By which roots sites are verified.
    pub(crate) fn trust(&self) -> Trust {
        let roots = match self.upstream.system_roots {
            true => PublicRoots::Machine,
            false => PublicRoots::Bundled,
        };
        Trust {
            extra_ca: self.upstream.extra_ca.clone(),
            roots,
        }
    }

    /// Our identity when BKey pays: `[bkey]`, else a BKey approval backend's, else that of BKey's own tools.
    pub(crate) fn bkey_client(&self) -> Bkey {
        let asking = match &self.approval.backend {
            Backend::Ciba(ciba) if ciba.options.style == Style::Bkey => Some(Bkey {
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

impl Upstream {
    /// Our certificates for sites.
    fn clients(&self) -> impl Iterator<Item = &site::ClientCertificate> {
        self.sites.iter().filter_map(|site| match &site.tls {
            SiteTls::Intercepted { client, .. } => client.as_ref(),
            SiteTls::Passthrough => None,
        })
    }
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8402);

impl Default for Log {
    fn default() -> Self {
        Self {
            unsigned_max: UNSIGNED_MAX,
        }
    }
}

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
    pub(crate) const fn uri(&self) -> &Uri {
        &self.0
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcUrl({})", self.0.host().unwrap_or_default())
    }
}
