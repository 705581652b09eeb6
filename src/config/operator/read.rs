//! Reads the file into [`Config`], section by section.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;

use super::capacity::capacity;
use super::corporate::corporate;
use super::intercept::{Intercept, intercept};
use super::path::path;
use super::site::{SiteSection, SiteTls, sites};
use super::{
    AgentPayments, Bkey, Config, DEFAULT_LISTEN, DatabaseUrl, ListenerTls, Log, Proxy, RpcUrl, SharedStore, Store,
    Stripe, StripeAccount, Timeouts, TokenIssuer, Upstream, WalletKey,
};
use crate::config::people::people;
use crate::config::{LimitsFile, alerts, approval};
use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Hints, Section};
use bursar_core::assets::{self, Network, Token};
use bursar_core::policy::named_host;
use bursar_rails::stripe::{ApiBase, ApiVersion, Endpoint, PaymentMethod, Settings};

pub(super) fn config(mut top: Section<'_>, dir: &Path) -> Config {
    let bkey = top.take("bkey").and_then(|e| bkey(&e.holding_secrets()));
    let (upstream, intercept) = upstream_and_intercept(&mut top, dir);
    let config = Config {
        proxy: top.section("proxy").map_or_else(Proxy::default, |s| proxy(s, dir)),
        upstream,
        intercept,
        wallet: top
            .take("wallet")
            .and_then(|e| wallet(e.holding_secrets().section()?, dir)),
        networks: top.section("networks").map(networks).unwrap_or_default(),
        stripe: top.take("stripe").and_then(|e| stripe(&e.holding_secrets())),
        bkey_secrets: bkey.iter().flat_map(|bkey| bkey.client.secrets()).collect(),
        bkey,
        approval: top.section("approval").map(approval::approval).unwrap_or_default(),
        limits: top
            .section("limits")
            .and_then(|section| limits(section, dir))
            .unwrap_or_else(|| LimitsFile::in_data(dir.join("limits.toml"), dir)),
        // People put the password into the URL of a database.
        store: top
            .take("store")
            .and_then(|e| e.holding_secrets().section())
            .map(|s| store(s, dir))
            .unwrap_or_default(),
        // Many services put keys into the URL of a webhook.
        alerts: top
            .take("alerts")
            .and_then(|e| e.holding_secrets().section())
            .map(alerts::alerts)
            .unwrap_or_default(),
        log: top.section("log").map(log).unwrap_or_default(),
        people: top
            .section("people")
            .and_then(|section| people(section, dir))
            .map(Arc::new),
        timeouts: top.section("timeouts").map(timeouts).unwrap_or_default(),
        capacity: top.section("capacity").map(capacity).unwrap_or_default(),
    };
    top.close(TOP_HINTS);
    config
}

fn proxy(mut section: Section<'_>, dir: &Path) -> Proxy {
    let listen_entry = section.take("listen");
    let listen = listen_entry.as_ref().and_then(listen).unwrap_or(DEFAULT_LISTEN);
    let (cert, key) = (section.take("tls_cert"), section.take("tls_key"));
    let tls = match (&cert, &key) {
        (Some(cert), Some(key)) => path(cert, dir)
            .zip(path(key, dir))
            .map(|(cert, key)| ListenerTls { cert, key }),
        (Some(alone), None) => alone.reject_key(
            "proxy.tls_cert is set, but proxy.tls_key is not".to_owned(),
            "Add tls_key = \"key.pem\".".to_owned(),
        ),
        (None, Some(alone)) => alone.reject_key(
            "proxy.tls_key is set, but proxy.tls_cert is not".to_owned(),
            "Add tls_cert = \"cert.pem\".".to_owned(),
        ),
        (None, None) => None,
    };
    let allow_plain = section.take("allow_plain").and_then(|e| e.boolean()).unwrap_or(false);
    let speaks_tls = cert.is_some() || key.is_some();
    if let Some(entry) = listen_entry
        && !listen.ip().is_loopback()
        && !speaks_tls
        && !allow_plain
    {
        // R56: agents send their tokens to this address.
        entry.reject::<()>(
            format!("proxy.listen: {listen} can be reached from other machines without TLS"),
            "Add tls_cert and tls_key, or write allow_plain = true if you control the whole network in between."
                .to_owned(),
        );
    }
    let agent_payments = section.take("agent_payments").and_then(|entry| match entry.text()? {
        "refuse" => Some(AgentPayments::Refuse),
        "pass" => Some(AgentPayments::Pass),
        other => entry.reject(
            format!("proxy.agent_payments: \"{other}\" is not a known value"),
            "Write \"refuse\" or \"pass\".".to_owned(),
        ),
    });
    let via = section.take("via").and_then(|e| e.boolean()).unwrap_or(false);
    section.close(&[]);
    Proxy {
        listen,
        tls,
        via,
        agent_payments: agent_payments.unwrap_or_default(),
    }
}

fn listen(entry: &Entry<'_>) -> Option<SocketAddr> {
    let text = entry.text()?;
    text.parse().ok().or_else(|| {
        entry.reject(
            format!("proxy.listen: \"{text}\" is not an address to listen on"),
            "Write an IP address and a port, such as \"127.0.0.1:8402\" or \"[::1]:8402\"; port 0 picks a free one."
                .to_owned(),
        )
    })
}

/// A section of a site may say that its TLS is not opened.
fn upstream_and_intercept(top: &mut Section<'_>, dir: &Path) -> (Upstream, Intercept) {
    let mut intercept = top.section("intercept").map(intercept).unwrap_or_default();
    let section = top.section("upstream");
    let upstream = section.map(|s| upstream(s, &mut intercept, dir)).unwrap_or_default();
    (upstream, intercept)
}

fn upstream(mut section: Section<'_>, intercept: &mut Intercept, dir: &Path) -> Upstream {
    let extra_ca = section
        .take("extra_ca")
        .and_then(|entry| entry.one_or_more())
        .unwrap_or_default();
    let private = section
        .take("allow_private")
        .and_then(|entry| entry.items())
        .unwrap_or_default();
    let http = section
        .take("allow_http_payments")
        .and_then(|entry| entry.items())
        .unwrap_or_default();
    let entry = section.take("site");
    let sites = entry.as_ref().map(|entry| sites(entry, dir)).unwrap_or_default();
    let passthrough = sites.iter().filter(|site| site.tls == SiteTls::Passthrough);
    intercept.never.extend(passthrough.map(|site| site.hosts.clone()));
    let unread = |site: &&SiteSection| site.tls != SiteTls::Passthrough && !intercept.reads_some_of(&site.hosts);
    for (entry, site) in entry
        .iter()
        .flat_map(|entry| sites.iter().filter(unread).map(move |site| (entry, site)))
    {
        entry.reject_key::<()>(
            format!(
                "upstream.site: \"{}\" is not intercepted, so its section is never used",
                site.hosts
            ),
            "Remove the section, or change `never` and `only` under [intercept] and sections with `passthrough`."
                .to_owned(),
        );
    }
    let host = |item: &Entry<'_>| {
        let text = item.text()?;
        match named_host(text) {
            Ok(host) if intercept.reads(&host) => Some(host),
            Ok(host) => item.reject(
                format!("upstream.allow_http_payments: \"{host}\" is not intercepted, so it is never paid"),
                "Remove it, or change `never` and `only` under [intercept].".to_owned(),
            ),
            Err(why) => item.reject(
                format!("upstream.allow_http_payments: \"{text}\" is not a valid host: {why}"),
                "Write host names or addresses only, such as [\"127.0.0.1\"].".to_owned(),
            ),
        }
    };
    let upstream = Upstream {
        extra_ca: extra_ca.iter().filter_map(|item| path(item, dir)).collect(),
        system_roots: section.take("system_roots").and_then(|e| e.boolean()).unwrap_or(false),
        allow_private: private.iter().filter_map(addresses).collect(),
        allow_http_payments: http.iter().filter_map(host).collect(),
        proxy: corporate(&mut section),
        sites,
    };
    section.close(&[("allow_http_hosts", "The key is `allow_http_payments`.")]);
    upstream
}

/// A CIDR block, or one address.
fn addresses(item: &Entry<'_>) -> Option<IpNet> {
    let text = item.text()?;
    let net = text.parse::<IpNet>().ok();
    let Some(net) = net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) else {
        return item.reject(
            format!("upstream.allow_private: \"{text}\" is not a range of addresses"),
            "Write it in CIDR notation, such as \"10.1.0.0/16\" or \"127.0.0.1/32\".".to_owned(),
        );
    };
    if net != net.trunc() {
        return item.reject(
            format!("upstream.allow_private: \"{text}\" has address bits set beyond its prefix"),
            format!(
                "Write \"{}\" for the whole range, or \"{}\" for one address.",
                net.trunc(),
                net.addr()
            ),
        );
    }
    Some(net)
}

fn wallet(mut section: Section<'_>, dir: &Path) -> Option<WalletKey> {
    let evm = section.take("evm");
    section.close(&[
        ("key", "Put it under [wallet.evm]."),
        ("bkey", "Write evm = \"bkey\"."),
        (
            "stripe",
            "Write key = \"bkey\" and payment_method = \"pm_…\" under [stripe].",
        ),
    ]);
    let evm = evm?;
    match evm.if_text() {
        Some("bkey") => return Some(WalletKey::Bkey),
        Some(_) => {
            return evm.reject(
                "wallet.evm: the only string allowed here is \"bkey\"".to_owned(),
                "Write evm = \"bkey\" if BKey signs. For a key of your own, add [wallet.evm] with key = \"env:NAME\", \
                 key = \"file:PATH\" or key = \"keystore:PATH\"."
                    .to_owned(),
            );
        }
        None => {}
    }
    let mut section = evm.section()?;
    let (key, password) = (section.take("key"), section.take("password"));
    section.close(&[(
        "private_key",
        "The key is `key`, and its value is where the secret is kept: key = \"env:NAME\".",
    )]);
    let Some(key) = key else {
        return evm.reject_key(
            "[wallet.evm] has no `key`".to_owned(),
            "Add key = \"env:NAME\", key = \"file:PATH\" or key = \"keystore:PATH\".".to_owned(),
        );
    };
    let text = key.text()?;
    if text == "bkey" {
        return key.reject(
            "wallet.evm.key: this section is for a key of your own".to_owned(),
            "If BKey signs, remove this section and write evm = \"bkey\" under [wallet].".to_owned(),
        );
    }
    let Some(keystore) = text.strip_prefix("keystore:").filter(|path| !path.is_empty()) else {
        if let Some(password) = password {
            return password.reject_key(
                "[wallet.evm] has a `password`, but its `key` is not a keystore".to_owned(),
                "Remove `password`, or write key = \"keystore:PATH\".".to_owned(),
            );
        }
        return secret(&key, text, "\"env:NAME\", \"file:PATH\" or \"keystore:PATH\"").map(WalletKey::Hex);
    };
    let Some(password) = password else {
        return key.reject_key(
            "[wallet.evm] has a keystore, but no `password`".to_owned(),
            "Add password = \"env:NAME\" or password = \"file:PATH\".".to_owned(),
        );
    };
    let source = secret(&password, password.text()?, "\"env:NAME\" or \"file:PATH\"")?;
    Some(WalletKey::Keystore {
        path: dir.join(keystore),
        password: source,
    })
}

fn secret(entry: &Entry<'_>, text: &str, forms: &str) -> Option<SecretSource> {
    SecretSource::parse(text).or_else(|| {
        entry.reject(
            format!("{} does not say where the secret is kept", entry.path()),
            format!("Write {forms}. If this was the secret itself, consider it exposed and replace it."),
        )
    })
}

fn stripe(entry: &Entry<'_>) -> Option<Stripe> {
    let mut section = entry.section()?;
    let [key, method, base, version, endpoint, live] =
        ["key", "payment_method", "api_base", "api_version", "endpoint", "live"].map(|name| section.take(name));
    section.close(&[
        (
            "secret_key",
            "The key is `key`, and its value is where the secret is kept: key = \"env:NAME\".",
        ),
        ("api_url", "The key is `api_base`."),
    ]);
    let (Some(key), Some(method)) = (key, method) else {
        return entry.reject_key(
            "[stripe] needs `key` and `payment_method`".to_owned(),
            "Add key = \"env:STRIPE_SECRET_KEY\" and payment_method = \"pm_…\".".to_owned(),
        );
    };
    let by_bkey = key.text()? == "bkey";
    let alone = [&base, &version, &endpoint, &live].into_iter().flatten().next();
    if let (true, Some(entry)) = (by_bkey, alone) {
        return entry.reject_key(
            format!(
                "stripe.{} is for a Stripe account of your own, but here BKey issues the tokens",
                entry.key()
            ),
            "Remove it, or write key = \"env:NAME\" to use your own account.".to_owned(),
        );
    }
    let key = match by_bkey {
        true => None,
        false => secret(&key, key.text()?, "\"env:NAME\", \"file:PATH\" or \"bkey\""),
    };
    let payment_method = PaymentMethod::parse(method.text()?).map_or_else(
        // The value is not shown: it may be a key.
        |why| {
            method.reject(
                format!("stripe.payment_method: {why}"),
                "Write the id of a saved payment method.".to_owned(),
            )
        },
        Some,
    );
    if by_bkey {
        return Some(Stripe {
            payment_method: payment_method?,
            issued_by: TokenIssuer::Bkey,
        });
    }
    let default = Settings::default();
    let base = base.map_or(Some(default.base), |entry| {
        let text = entry.text()?;
        ApiBase::parse(text).map_or_else(
            |why| {
                entry.reject(
                    format!("stripe.api_base: {why}"),
                    "Remove it to use Stripe itself.".to_owned(),
                )
            },
            Some,
        )
    });
    let version = version.map_or(Some(default.version), |entry| {
        let text = entry.text()?;
        ApiVersion::parse(text).map_or_else(
            |why| {
                entry.reject(
                    format!("stripe.api_version: {why}"),
                    "Remove it to use the version that bursar is tested with.".to_owned(),
                )
            },
            Some,
        )
    });
    let endpoint = endpoint.map_or(Some(default.endpoint), |entry| {
        let text = entry.text()?;
        Endpoint::parse(text).or_else(|| {
            entry.reject(
                format!("stripe.endpoint: \"{text}\" is not a known value"),
                "Write \"issued\", or \"test_helper\" with a test key.".to_owned(),
            )
        })
    });
    let account = StripeAccount {
        key: key?,
        live: live.and_then(|entry| entry.boolean()).unwrap_or(false),
        settings: Settings {
            base: base?,
            version: version?,
            endpoint: endpoint?,
            patience: default.patience,
        },
    };
    Some(Stripe {
        payment_method: payment_method?,
        issued_by: TokenIssuer::Account(account),
    })
}

/// `entry` holds secrets: its lines are not shown in messages.
fn bkey(entry: &Entry<'_>) -> Option<Bkey> {
    let mut section = entry.section()?;
    let api_url = section.take("api_url").and_then(|entry| approval::ciba::server(&entry));
    let client = approval::ciba::client_in(&mut section, entry);
    section.close(&[
        ("url", "The key is `api_url`."),
        ("issuer", "The key is `api_url`."),
        ("base_url", "The key is `api_url`."),
    ]);
    Some(Bkey {
        api_url,
        client: client?,
    })
}

fn networks(section: Section<'_>) -> BTreeMap<Network, Vec<RpcUrl>> {
    let one = |entry: Entry<'_>| {
        let network = network(&entry);
        let mut section = entry.holding_secrets().section()?;
        let rpc = section
            .take("rpc")
            .and_then(|entry| entry.one_or_more())
            .unwrap_or_default();
        section.close(&[("rpc_url", "The key is `rpc`."), ("url", "The key is `rpc`.")]);
        Some((network?, rpc.iter().filter_map(rpc_url).collect()))
    };
    section.named().into_iter().filter_map(one).collect()
}

fn network(entry: &Entry<'_>) -> Option<Network> {
    let name = entry.key();
    let known: BTreeSet<Network> = assets::tokens().map(Token::network).collect();
    let Some(network) = Network::parse(name) else {
        return entry.reject_key(
            format!("[networks] \"{name}\" is not a network that bursar supports"),
            match Network::from_v1_name(name) {
                Some(network) => format!("Write [networks.\"{network}\"]."),
                None => format!("Supported networks: {}.", list(&known)),
            },
        );
    };
    if !known.contains(&network) {
        return entry.reject_key(
            format!("[networks] \"{name}\": bursar knows no asset to pay with on this network"),
            format!("Supported networks: {}.", list(&known)),
        );
    }
    Some(network)
}

fn list(networks: &BTreeSet<Network>) -> String {
    let names: Vec<String> = networks.iter().map(Network::to_string).collect();
    names.join(", ")
}

fn rpc_url(item: &Entry<'_>) -> Option<RpcUrl> {
    let text = item.text()?;
    let uri = text.parse::<Uri>().ok();
    let uri = uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    uri.map(RpcUrl).or_else(|| {
        item.reject(
            format!("{}: not an http or https URL", item.path()),
            "Write rpc = [\"https://rpc.example.com\"], or rpc = [] to do without on-chain proofs.".to_owned(),
        )
    })
}

fn limits(mut section: Section<'_>, dir: &Path) -> Option<LimitsFile> {
    let (file, owner) = (section.take("file"), section.take("owner"));
    section.close(&[
        ("path", "The key is `file`."),
        ("uid", "The key is `owner`."),
        ("user", "The key is `owner`, and its value a number."),
    ]);
    let named = file.as_ref().and_then(|entry| path(entry, dir));
    let climbs = |path: &Path| path.components().any(|part| part == Component::ParentDir);
    let is_outside = named
        .as_ref()
        .is_some_and(|path| climbs(path) || !path.starts_with(dir));
    if let Some(owner) = owner.as_ref().filter(|_| !is_outside) {
        return owner.reject_key(
            "limits.owner is for a file outside the data directory, in which everything belongs to bursar or root"
                .to_owned(),
            "Add file = \"/etc/bursar/limits.toml\", or remove it.".to_owned(),
        );
    }
    if !is_outside {
        return named.map(|path| LimitsFile::in_data(path, dir));
    }
    // The highest number means "no user".
    let owner = match &owner {
        Some(entry) => Some(u32::try_from(entry.integer(0..=u64::from(u32::MAX - 1))?).ok()?),
        None => None,
    };
    Some(LimitsFile::elsewhere(named?, owner))
}

fn store(mut section: Section<'_>, dir: &Path) -> Store {
    let (url, password, ca) = (section.take("url"), section.take("password"), section.take("ca"));
    section.close(&[(
        "tls",
        "TLS is set in `url`: ?sslmode=verify-full, which is also the default.",
    )]);
    let of_a_database = [&password, &ca].into_iter().flatten().next();
    let Some(url) = url.filter(|url| url.text() != Some("embedded")) else {
        if let Some(entry) = of_a_database {
            entry.reject_key::<()>(
                format!("{} is for a database, but `url` names none", entry.path()),
                "Remove it, or write url = \"postgres://user@host/database\".".to_owned(),
            );
        }
        return Store::Embedded;
    };
    let password = password
        .as_ref()
        .and_then(|entry| secret(entry, entry.text()?, "\"env:NAME\" or \"file:PATH\""));
    let ca = ca.as_ref().and_then(|entry| path(entry, dir));
    match url.text().map(DatabaseUrl::parse) {
        Some(Ok(database)) => Store::Shared(Box::new(SharedStore { database, password, ca })),
        // The value is not shown: it may contain a password.
        Some(Err(why)) => {
            url.reject::<()>(format!("store.url: {}", why.what), why.help.to_owned());
            Store::Embedded
        }
        None => Store::Embedded,
    }
}

fn log(mut section: Section<'_>) -> Log {
    let unsigned_max = section
        .take("unsigned_max_s")
        .and_then(|entry| entry.integer(1..=86_400))
        .map(Duration::from_secs);
    section.close(&[("unsigned_max", "The key is `unsigned_max_s`.")]);
    unsigned_max.map_or_else(Log::default, |unsigned_max| Log { unsigned_max })
}

fn timeouts(mut section: Section<'_>) -> Timeouts {
    let default = Timeouts::default();
    let mut seconds = |key, default| {
        let entry = section.take(key);
        entry
            .and_then(|e: Entry<'_>| e.integer(1..=86_400))
            .map_or(default, Duration::from_secs)
    };
    let timeouts = Timeouts {
        hello: seconds("hello_s", default.hello),
        head: seconds("head_s", default.head),
        dns: seconds("dns_s", default.dns),
        dial: seconds("dial_s", default.dial),
        tls: seconds("tls_s", default.tls),
        response_head: seconds("response_head_s", default.response_head),
        idle: seconds("idle_s", default.idle),
        settle_wait: seconds("settle_wait_s", default.settle_wait),
        drain: seconds("drain_s", default.drain),
    };
    section.close(&[]);
    timeouts
}

const TOP_HINTS: Hints = &[
    (
        "admin",
        "There is no admin listener; the commands use a socket in the directory run/.",
    ),
    ("account", LIMITS_KEY),
    ("groups", LIMITS_KEY),
    ("agents", LIMITS_KEY),
    ("timezone", LIMITS_KEY),
    ("listen", "Put it under [proxy]."),
];
const LIMITS_KEY: &str = "Put it in limits.toml.";
