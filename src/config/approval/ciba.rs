//! `[approval.ciba]`: an identity server that asks people on their own devices (approvals §4, §12).

use std::time::Duration;

use bursar_approvals::ciba::settings::{
    AmountUnit, AuthMethod, BindingStyle, CibaOptions, Delivery, EvidenceToken, Style,
};
use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use bursar_core::approval::token::Alg;
use bursar_core::host::Host;
use bursar_net::oauth::issuer::{Issuer, PlainHttp};

/// The identity server, and our registration as its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ciba {
    /// `None`: the issuer that BKey's own tools are configured for.
    pub issuer: Option<Issuer>,
    pub client: Client,
    /// A credential configured for a method that is not in use: agents must not get it either.
    unused: Option<SecretSource>,
    pub client_auth: AuthMethod,
    pub options: CibaOptions,
    /// Who is asked if limits.toml names no approver.
    pub approver: Option<String>,
}

/// Our identity as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    Named {
        id: ClientId,
        secret: SecretSource,
    },
    /// With our own key, whose public half the server has.
    Keyed {
        id: ClientId,
        key: SecretSource,
        /// The server's name for the key.
        key_id: Option<String>,
    },
    /// The identity that BKey's own tools use: their environment variables, or one of their profiles.
    Bkey {
        profile: Option<String>,
    },
}

/// Not a secret, so it may be written in the file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientId {
    Text(String),
    Kept(SecretSource),
}

impl Default for Ciba {
    fn default() -> Self {
        Self {
            issuer: None,
            client: Client::Bkey { profile: None },
            unused: None,
            client_auth: AuthMethod::Post,
            options: CibaOptions::default(),
            approver: None,
        }
    }
}

impl Ciba {
    /// Where its secrets are, whatever backend is chosen.
    pub(super) fn secrets(&self) -> Vec<SecretSource> {
        self.client.secrets().into_iter().chain(self.unused.clone()).collect()
    }
}

impl Client {
    pub(in crate::config) fn secrets(&self) -> Vec<SecretSource> {
        match self {
            Self::Named { id, secret } | Self::Keyed { id, key: secret, .. } => {
                let id = match id {
                    ClientId::Kept(source) => Some(source.clone()),
                    ClientId::Text(_) => None,
                };
                id.into_iter().chain([secret.clone()]).collect()
            }
            // Anyone who has them can ask, and fetch answers, in the proxy's name.
            Self::Bkey { .. } => ["BKEY_CLIENT_ID", "BKEY_CLIENT_SECRET", "BKEY_ACCESS_TOKEN"]
                .map(|name| SecretSource::Env(name.to_owned()))
                .into(),
        }
    }
}

/// `entry` holds secrets: its lines are not shown in messages.
pub(super) fn ciba(entry: &Entry<'_>) -> Option<Ciba> {
    let mut section = entry.section()?;
    let default = CibaOptions::default();
    let style = section.take("style");
    let style = style.and_then(|entry| entry.word(Style::parse, &["bkey", "standard"]));
    let style = style.unwrap_or(default.style);
    let issuer_entry = section.take("issuer");
    let issuer = issuer_entry.as_ref().and_then(server);
    let client_auth = section.take("client_auth").and_then(|entry| client_auth(&entry, style));
    let written = Written::take(&mut section);
    let unused = match client_auth {
        Some(AuthMethod::PrivateKeyJwt) => &written.secret,
        Some(AuthMethod::Basic | AuthMethod::Post) | None => &written.key,
    };
    let unused = unused.as_ref().and_then(Entry::secret_source);
    let client = match client_auth {
        Some(AuthMethod::PrivateKeyJwt) => keyed(written, entry),
        Some(AuthMethod::Basic | AuthMethod::Post) | None => client(written, entry, style),
    };
    let delivery = section.take("delivery").and_then(|entry| {
        let delivery = entry.word(Delivery::parse, &["poll", "ping"])?;
        match (delivery, style) {
            (Delivery::Ping, Style::Bkey) => entry.reject(
                "approval.ciba.delivery: BKey supports only \"poll\"".to_owned(),
                "Remove `delivery`, or write style = \"standard\" for another server.".to_owned(),
            ),
            _ => Some(delivery),
        }
    });
    let scope = section.take("scope").and_then(|entry| one_word(&entry, "scope"));
    let audience = section.take("audience").and_then(|entry| one_word(&entry, "audience"));
    let evidence = section
        .take("evidence")
        .and_then(|entry| entry.word(EvidenceToken::parse, &["access_token_jwt", "id_token"]));
    let algs = section.take("algs").and_then(|entry| algs(&entry));
    // Far below the hour for which the ledger remembers used evidence after it expires (approvals §10).
    let leeway = section.take("leeway_s").and_then(|entry| entry.integer(0..=300));
    let binding_style = section
        .take("binding_style")
        .and_then(|entry| entry.word(BindingStyle::parse, &["sentence", "compact20"]));
    let amount_unit = section
        .take("amount_unit")
        .and_then(|entry| entry.word(AmountUnit::parse, &["minor", "major", "omit"]));
    let details_type = section
        .take("details_type")
        .and_then(|entry| one_word(&entry, "details_type"));
    let bound = section.take("require_bound_details");
    let require_bound_details = bound.as_ref().and_then(Entry::boolean).unwrap_or(false);
    let hosts = section.take("hosts").and_then(|entry| hosts(&entry));
    let approver = section.take("approver").and_then(|entry| entry.person());
    section.close(&[
        ("client_id_env", "Write client_id = \"env:NAME\" instead."),
        ("client_secret_env", "Write client_secret = \"env:NAME\" instead."),
        (
            "approvers",
            "The key is `approver`; limits.toml can name several people.",
        ),
        ("url", "The key is `issuer`."),
    ]);
    if let Some(entry) = &bound
        && require_bound_details
        && style == Style::Standard
        && details_type.is_none()
    {
        entry.reject::<()>(
            "approval.ciba.require_bound_details needs `details_type`: without it no details are sent".to_owned(),
            "Add details_type = \"…\", the server's name for the type of its authorization_details.".to_owned(),
        );
    }
    if style == Style::Standard && issuer_entry.is_none() {
        entry.reject_key::<()>(
            "[approval.ciba] has no `issuer`".to_owned(),
            "Add issuer = \"https://login.example.com\", or remove `style` to use BKey.".to_owned(),
        );
    }
    Some(Ciba {
        issuer,
        client: client?,
        unused,
        client_auth: client_auth.unwrap_or(match style {
            Style::Bkey => AuthMethod::Post,
            // The default of OpenID Connect.
            Style::Standard => AuthMethod::Basic,
        }),
        options: CibaOptions {
            style,
            delivery: delivery.unwrap_or(default.delivery),
            scope: scope.unwrap_or(default.scope),
            audience,
            evidence: evidence.unwrap_or(default.evidence),
            algs: algs.unwrap_or(default.algs),
            leeway: leeway.map_or(default.leeway, Duration::from_secs),
            binding_style: binding_style.unwrap_or(default.binding_style),
            amount_unit: amount_unit.unwrap_or(default.amount_unit),
            details_type,
            require_bound_details,
            hosts: hosts.unwrap_or_default(),
        },
        approver,
    })
}

/// The URL of an identity server.
pub(in crate::config) fn server(entry: &Entry<'_>) -> Option<Issuer> {
    Issuer::parse(entry.text()?, PlainHttp::ToThisMachine).map_or_else(
        |why| {
            entry.reject(
                format!("{}: {why}", entry.path()),
                format!(
                    "Write {} = \"https://login.example.com\", exactly as `issuer` in the server's metadata.",
                    entry.key()
                ),
            )
        },
        Some,
    )
}

/// Everything configured for the client, whichever method is in use.
struct Written<'a> {
    id: Option<Entry<'a>>,
    secret: Option<Entry<'a>>,
    key: Option<Entry<'a>>,
    key_id: Option<String>,
    profile: Option<String>,
}

impl<'a> Written<'a> {
    fn take(section: &mut Section<'a>) -> Self {
        let key_id = section.take("client_key_id");
        let profile = section.take("profile");
        Self {
            id: section.take("client_id"),
            secret: section.take("client_secret"),
            key: section.take("client_key"),
            key_id: key_id.and_then(|entry| one_word(&entry, "key id")),
            profile: profile.and_then(|entry| one_word(&entry, "profile")),
        }
    }
}

/// Our identity at BKey, from the section `[bkey]`.
pub(in crate::config) fn client_in(section: &mut Section<'_>, around: &Entry<'_>) -> Option<Client> {
    let profile = section.take("profile");
    let written = Written {
        id: section.take("client_id"),
        secret: section.take("client_secret"),
        key: None,
        key_id: None,
        profile: profile.and_then(|entry| one_word(&entry, "profile")),
    };
    client(written, around, Style::Bkey)
}

fn client(written: Written<'_>, around: &Entry<'_>, style: Style) -> Option<Client> {
    let profile = written.profile;
    if let (Some(key), None) = (&written.key, &written.secret) {
        return key.reject_key(
            "approval.ciba.client_key needs client_auth = \"private_key_jwt\"".to_owned(),
            "Add client_auth = \"private_key_jwt\", or use `client_secret`, which the other methods need.".to_owned(),
        );
    }
    match (written.id, written.secret) {
        (Some(id), Some(secret)) => {
            let (id, secret) = (client_id(&id), secret.secret_source());
            Some(Client::Named {
                id: id?,
                secret: secret?,
            })
        }
        (Some(alone), None) => alone.reject_key(
            format!("{} is set without a client_secret", alone.path()),
            "Add client_secret = \"env:NAME\" or client_secret = \"file:PATH\".".to_owned(),
        ),
        (None, Some(alone)) => alone.reject_key(
            format!("{} is set without a client_id", alone.path()),
            "Add client_id = \"…\".".to_owned(),
        ),
        (None, None) if style == Style::Standard => around.reject_key(
            "[approval.ciba] has no `client_id` and `client_secret`".to_owned(),
            "Add client_id = \"…\" and client_secret = \"env:NAME\", as registered with the server.".to_owned(),
        ),
        (None, None) => Some(Client::Bkey { profile }),
    }
}

fn client_auth(entry: &Entry<'_>, style: Style) -> Option<AuthMethod> {
    let method = entry.word(AuthMethod::parse, &["post", "basic", "private_key_jwt"])?;
    match (method, style) {
        (AuthMethod::PrivateKeyJwt, Style::Bkey) => entry.reject(
            "approval.ciba.client_auth: BKey takes a client secret, not a key".to_owned(),
            "Remove `client_auth`, or write style = \"standard\" for another server.".to_owned(),
        ),
        _ => Some(method),
    }
}

/// With our own key. If a secret is configured too, `client_auth` decides which one is used.
fn keyed(written: Written<'_>, around: &Entry<'_>) -> Option<Client> {
    let (Some(id), Some(key)) = (written.id, written.key) else {
        return around.reject_key(
            "[approval.ciba] has no `client_id` and `client_key`".to_owned(),
            "Add client_id = \"…\" and client_key = \"file:PATH\", a PEM file with the key registered at the server."
                .to_owned(),
        );
    };
    let (id, key) = (client_id(&id), key.secret_source());
    Some(Client::Keyed {
        id: id?,
        key: key?,
        key_id: written.key_id,
    })
}

fn client_id(entry: &Entry<'_>) -> Option<ClientId> {
    match SecretSource::parse(entry.text()?) {
        Some(source) => Some(ClientId::Kept(source)),
        None => one_word(entry, "client id").map(ClientId::Text),
    }
}

/// A value that goes into requests and is compared byte by byte.
fn one_word(entry: &Entry<'_>, what: &str) -> Option<String> {
    let text = entry.text()?;
    let is_word = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_word {
        true => Some(text.to_owned()),
        false => entry.reject(
            format!("{}: not a valid {what}", entry.path()),
            "Write one word of ASCII characters without spaces, at most 255 of them.".to_owned(),
        ),
    }
}

fn algs(entry: &Entry<'_>) -> Option<Vec<Alg>> {
    let items = entry.list("Remove `algs` to use [\"EdDSA\"].")?;
    let one = |item: &Entry<'_>| {
        Alg::parse(item.text()?).or_else(|| {
            item.reject(
                "approval.ciba.algs: bursar verifies only Ed25519 signatures".to_owned(),
                "Write \"EdDSA\", or \"Ed25519\" for servers that use this name (RFC 9864).".to_owned(),
            )
        })
    };
    items.iter().map(one).collect()
}

fn hosts(entry: &Entry<'_>) -> Option<Vec<String>> {
    let one = |item: &Entry<'_>| match Host::parse(item.text()?) {
        Ok(host) => Some(host.as_str().to_owned()),
        Err(why) => item.reject(
            format!("approval.ciba.hosts: {why}"),
            "Write host names without scheme and port: hosts = [\"keys.example.com\"].".to_owned(),
        ),
    };
    entry.one_or_more()?.iter().map(one).collect()
}
