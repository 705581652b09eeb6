//! `[approval.keyra]` (approvals §6, §12). KEYRA documents no URL of its API, so `base_url` has no default.

use std::time::Duration;

use bursar_approvals::keyra::{Action, BaseUrl, Echo, Environment, SignatureFormat, Trust};
use bursar_config::secret::SecretSource;
use bursar_config::section::Entry;

/// The KEYRA account and how it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyra {
    pub base_url: BaseUrl,
    pub api_key: SecretSource,
    pub env: Environment,
    /// Without it webhooks are ignored, and polling finds answers a little later.
    pub webhook_secret: Option<SecretSource>,
    pub signature_format: SignatureFormat,
    pub action: Action,
    pub trust: Trust,
    pub echo: Echo,
    /// Polling interval.
    pub interval: Duration,
    /// Who is asked if limits.toml names no approver.
    pub approver: Option<String>,
}

impl Keyra {
    /// Where its secrets are, whatever backend is chosen.
    pub(super) fn secrets(&self) -> Vec<SecretSource> {
        [Some(&self.api_key), self.webhook_secret.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// `entry` holds secrets: its lines are not shown in messages.
pub(super) fn keyra(entry: &Entry<'_>) -> Option<Keyra> {
    let mut section = entry.section()?;
    let (base, key) = (section.take("base_url"), section.take("api_key"));
    let env = section
        .take("env")
        .and_then(|entry| entry.word(Environment::parse, &["sandbox", "production"]));
    let webhook_secret = section.take("webhook_secret").and_then(|entry| entry.secret_source());
    let signature_format = section
        .take("signature_format")
        .and_then(|entry| entry.word(SignatureFormat::parse, &["hex", "prefixed", "base64", "timestamped"]));
    let action = section.take("action").and_then(|entry| action(&entry));
    let trust = section
        .take("trust")
        .and_then(|entry| entry.word(Trust::parse, &["verify", "status"]));
    let require_echo = section.take("require_echo").and_then(|entry| entry.boolean());
    let interval = section.take("interval_s").and_then(|entry| entry.integer(1..=60));
    let approver = section.take("approver").and_then(|entry| entry.person());
    section.close(&[
        ("api_key_env", "Write api_key = \"env:KEYRA_API_KEY\" instead."),
        ("webhook_secret_env", "Write webhook_secret = \"env:NAME\" instead."),
        ("url", "The key is `base_url`."),
        (
            "approvers",
            "The key is `approver`; limits.toml can name several people.",
        ),
    ]);
    let (Some(base), Some(key)) = (base, key) else {
        return entry.reject_key(
            "[approval.keyra] needs `base_url` and `api_key`".to_owned(),
            "Add base_url = \"https://…\", which KEYRA gives you, and api_key = \"env:KEYRA_API_KEY\".".to_owned(),
        );
    };
    let (base_url, api_key) = (base_url(&base), key.secret_source());
    Some(Keyra {
        base_url: base_url?,
        api_key: api_key?,
        env: env.unwrap_or_default(),
        webhook_secret,
        signature_format: signature_format.unwrap_or_default(),
        action: action.unwrap_or_default(),
        trust: trust.unwrap_or_default(),
        echo: match require_echo {
            Some(true) => Echo::Required,
            Some(false) | None => Echo::IfGiven,
        },
        interval: Duration::from_secs(interval.unwrap_or(3)),
        approver,
    })
}

fn base_url(entry: &Entry<'_>) -> Option<BaseUrl> {
    BaseUrl::parse(entry.text()?).map_or_else(
        |why| {
            entry.reject(
                format!("approval.keyra.base_url: {why}"),
                "Write the part of the URL before /v1: base_url = \"https://keyra.example.com\".".to_owned(),
            )
        },
        Some,
    )
}

fn action(entry: &Entry<'_>) -> Option<Action> {
    Action::parse(entry.text()?).map_or_else(
        |why| {
            entry.reject(
                format!("approval.keyra.action: {why}"),
                "Remove it to use \"payment.approve\".".to_owned(),
            )
        },
        Some,
    )
}
