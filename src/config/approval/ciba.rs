//! `[approval.ciba]`: an identity server that asks people on their own devices (approvals §4, §12).

use std::time::Duration;

use bursar_approvals::ciba::settings::{AmountUnit, AuthMethod, BindingStyle, Delivery, EvidenceToken, Style};
use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use bursar_core::approval::token::Alg;
use bursar_core::host::Host;
use bursar_net::oauth::issuer::{Issuer, PlainHttp};

/// The identity server, and ourselves as its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ciba {
    /// `None`: where BKey's own tools say that BKey is.
    pub issuer: Option<Issuer>,
    pub client: Client,
    /// What stands beside it for another method: agents do not get that either.
    unused: Option<SecretSource>,
    pub style: Style,
    pub delivery: Delivery,
    pub client_auth: AuthMethod,
    pub scope: String,
    pub audience: Option<String>,
    pub evidence: EvidenceToken,
    pub algs: Vec<Alg>,
    pub leeway: Duration,
    pub binding_style: BindingStyle,
    pub amount_unit: AmountUnit,
    pub details_type: Option<String>,
    pub require_bound_details: bool,
    pub hosts: Vec<String>,
    /// Who is asked, where limits.toml names nobody.
    pub approver: Option<String>,
}

/// As whom we ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    Named {
        id: ClientId,
        secret: SecretSource,
    },
    /// With a key of our own, of which the server has the public half.
    Keyed {
        id: ClientId,
        key: SecretSource,
        /// By which the server knows it.
        key_id: Option<String>,
    },
    /// As BKey's own tools know us: their variables, or a profile of theirs.
    Bkey {
        profile: Option<String>,
    },
}

/// No secret, so it may be written as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientId {
    Text(String),
    Kept(SecretSource),
}

impl Default for Ciba {
    fn default() -> Self {
        Self {
            issuer: None,
            client: Client::Bkey { profile: None },
            unused: None,
            style: Style::Bkey,
            delivery: Delivery::Poll,
            client_auth: AuthMethod::Post,
            scope: "approve:payment".to_owned(),
            audience: None,
            evidence: EvidenceToken::AccessTokenJwt,
            algs: vec![Alg::EdDsa],
            leeway: Duration::from_secs(30),
            binding_style: BindingStyle::Sentence,
            amount_unit: AmountUnit::Minor,
            details_type: None,
            require_bound_details: false,
            hosts: Vec::new(),
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
            // Whoever has them can ask, and fetch answers, in the proxy's name.
            Self::Bkey { .. } => ["BKEY_CLIENT_ID", "BKEY_CLIENT_SECRET", "BKEY_ACCESS_TOKEN"]
                .map(|name| SecretSource::Env(name.to_owned()))
                .into(),
        }
    }
}

/// `entry` holds secrets: its lines are not shown in messages.
pub(super) fn ciba(entry: &Entry<'_>) -> Option<Ciba> {
    let mut section = entry.section()?;
    let default = Ciba::default();
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
                "approval.ciba.delivery: BKey calls nobody, it documents polling only".to_owned(),
                "Leave `delivery` out, or write style = \"standard\" for another server.".to_owned(),
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
    // Far below the hour for which the books keep what was used beyond its end (approvals §10).
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
        (
            "client_id_env",
            "The key is `client_id`, and its value says where it is: client_id = \"env:NAME\".",
        ),
        (
            "client_secret_env",
            "The key is `client_secret`, and its value says where it is: client_secret = \"env:NAME\".",
        ),
        ("approvers", "The key is `approver`; limits.toml may name others."),
        ("url", "The key is `issuer`."),
    ]);
    if let Some(entry) = &bound
        && require_bound_details
        && style == Style::Standard
        && details_type.is_none()
    {
        entry.reject::<()>(
            "approval.ciba.require_bound_details: without `details_type` no details are sent, so none can come back"
                .to_owned(),
            "Write details_type = \"…\", as the server names the type of its authorization_details.".to_owned(),
        );
    }
    if style == Style::Standard && issuer_entry.is_none() {
        entry.reject_key::<()>(
            "[approval.ciba] has no `issuer`".to_owned(),
            "Write issuer = \"https://login.example.com\", or leave `style` out for BKey.".to_owned(),
        );
    }
    Some(Ciba {
        issuer,
        client: client?,
        unused,
        style,
        delivery: delivery.unwrap_or(default.delivery),
        client_auth: client_auth.unwrap_or(match style {
            Style::Bkey => AuthMethod::Post,
            // What OpenID Connect has servers assume.
            Style::Standard => AuthMethod::Basic,
        }),
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
                    "Write {} = \"https://login.example.com\", as the server names itself in its metadata.",
                    entry.key()
                ),
            )
        },
        Some,
    )
}

/// What is said of the client, whichever way counts.
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

/// As whom we are known to BKey, in a section of that name.
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
            "approval.ciba.client_key stands without its method".to_owned(),
            "Write client_auth = \"private_key_jwt\" as well; the other methods take `client_secret`.".to_owned(),
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
            format!("{} stands alone", alone.path()),
            "Write client_secret = \"env:NAME\" or client_secret = \"file:PATH\" as well.".to_owned(),
        ),
        (None, Some(alone)) => alone.reject_key(
            format!("{} stands alone", alone.path()),
            "Write client_id = \"…\" as well.".to_owned(),
        ),
        (None, None) if style == Style::Standard => around.reject_key(
            "[approval.ciba] has no `client_id` and `client_secret`".to_owned(),
            "Write client_id = \"…\" and client_secret = \"env:NAME\", as the server has registered bursar.".to_owned(),
        ),
        (None, None) => Some(Client::Bkey { profile }),
    }
}

fn client_auth(entry: &Entry<'_>, style: Style) -> Option<AuthMethod> {
    let method = entry.word(AuthMethod::parse, &["post", "basic", "private_key_jwt"])?;
    match (method, style) {
        (AuthMethod::PrivateKeyJwt, Style::Bkey) => entry.reject(
            "approval.ciba.client_auth: BKey takes a secret, not a key".to_owned(),
            "Leave `client_auth` out, or write style = \"standard\" for another server.".to_owned(),
        ),
        _ => Some(method),
    }
}

/// By a key of ours. A secret beside it is for another method, as a key beside a secret is: `client_auth` says which one counts.
fn keyed(written: Written<'_>, around: &Entry<'_>) -> Option<Client> {
    let (Some(id), Some(key)) = (written.id, written.key) else {
        return around.reject_key(
            "[approval.ciba] has no `client_id` and `client_key`".to_owned(),
            "Write client_id = \"…\" and client_key = \"file:PATH\", a PEM file with the key whose public half the server has."
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

/// What goes into requests and is compared byte by byte.
fn one_word(entry: &Entry<'_>, what: &str) -> Option<String> {
    let text = entry.text()?;
    let is_word = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match is_word {
        true => Some(text.to_owned()),
        false => entry.reject(
            format!("{}: this is no {what}", entry.path()),
            "Write one word of ASCII without blanks, up to 255 characters.".to_owned(),
        ),
    }
}

fn algs(entry: &Entry<'_>) -> Option<Vec<Alg>> {
    let items = entry.list("Leave `algs` out for [\"EdDSA\"].")?;
    let one = |item: &Entry<'_>| {
        Alg::parse(item.text()?).or_else(|| {
            item.reject(
                "approval.ciba.algs: bursar verifies Ed25519 signatures alone".to_owned(),
                "Write \"EdDSA\", or \"Ed25519\" for servers that name it so (RFC 9864).".to_owned(),
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
            "Write hosts without scheme and port: hosts = [\"keys.example.com\"].".to_owned(),
        ),
    };
    entry.one_or_more()?.iter().map(one).collect()
}
