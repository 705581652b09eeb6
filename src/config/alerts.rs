//! `[alerts]` of bursar.toml: the channels for alerts.

use http::Uri;

use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use bursar_core::money::MicroUsd;
use bursar_net::post::is_this_machine;

/// Without a channel, alerts are only in the log and in the ledger.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Alerts {
    /// Program and arguments. It gets the alert on its standard input.
    pub command: Option<Vec<String>>,
    pub webhook: Option<Webhook>,
    /// The minimum that the wallet should hold on each network, all assets together.
    pub low_wallet: Option<MicroUsd>,
}

#[derive(PartialEq, Eq)]
pub struct Webhook {
    /// https, or http to this machine.
    pub url: Uri,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<SecretSource>,
}

/// Many services put keys into the path, so only the host is shown.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Webhook({})", self.url.host().unwrap_or_default())
    }
}

/// `section` holds secrets: messages do not quote its values.
pub(super) fn alerts(mut section: Section<'_>) -> Alerts {
    let command = section.take("command").and_then(|entry| command(&entry));
    let (url, token) = (section.take("webhook"), section.take("webhook_token"));
    let low_wallet = section.take("low_wallet").and_then(|entry| entry.usd());
    section.close(&[
        ("url", "The key is `webhook`."),
        (
            "email",
            "Use a `command` that sends mail; it gets the alert on its standard input.",
        ),
    ]);
    let webhook = match (&url, &token) {
        (None, Some(alone)) => alone.reject_key(
            "alerts.webhook_token is set, but alerts.webhook is not".to_owned(),
            "Add webhook = \"https://…\", or remove webhook_token.".to_owned(),
        ),
        (None, None) => None,
        (Some(entry), token) => {
            let source = token.as_ref().map(token_source);
            match (webhook_url(entry), source) {
                (Some(url), None) => Some(Webhook { url, token: None }),
                (Some(url), Some(Some(source))) => Some(Webhook {
                    url,
                    token: Some(source),
                }),
                _ => None,
            }
        }
    };
    Alerts {
        command,
        webhook,
        low_wallet,
    }
}

fn command(entry: &Entry<'_>) -> Option<Vec<String>> {
    let items = entry.list("Write the program and its arguments: command = [\"/usr/local/bin/notify\", \"ops\"].")?;
    let words: Option<Vec<String>> = items.iter().map(|item| item.text().map(str::to_owned)).collect();
    let words = words?;
    if words.first().is_some_and(String::is_empty) || words.iter().any(|word| word.contains('\0')) {
        return entry.reject(
            "alerts.command is not a program with its arguments".to_owned(),
            "Write the program and its arguments: command = [\"/usr/local/bin/notify\", \"ops\"].".to_owned(),
        );
    }
    Some(words)
}

fn webhook_url(entry: &Entry<'_>) -> Option<Uri> {
    let uri = entry.text()?.parse::<Uri>().ok();
    let is_good = |uri: &Uri| match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => true,
        // `LOCALHOST` is rejected, unlike in other URLs.
        (Some("http"), Some(host)) => is_this_machine(host) && !host.contains(|c: char| c.is_ascii_uppercase()),
        _ => false,
    };
    uri.filter(is_good).or_else(|| {
        entry.reject(
            "alerts.webhook: not an https URL".to_owned(),
            "Write webhook = \"https://alerts.example.com/…\"; plain http is allowed only to this machine, \
             such as \"http://127.0.0.1:9000/\"."
                .to_owned(),
        )
    })
}

fn token_source(entry: &Entry<'_>) -> Option<SecretSource> {
    SecretSource::parse(entry.text()?).or_else(|| {
        entry.reject(
            "alerts.webhook_token does not say where the secret is kept".to_owned(),
            "Write \"env:NAME\" or \"file:PATH\". If this was the secret itself, consider it exposed and replace it."
                .to_owned(),
        )
    })
}
