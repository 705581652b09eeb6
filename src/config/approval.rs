//! `[approval]` of bursar.toml: who is asked to approve payments, and the waiting times.

pub(crate) mod ciba;
pub(crate) mod keyra;

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;

use bursar_approvals::ciba::settings::Delivery;
use bursar_approvals::questions::Settings;
use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use ciba::Ciba;
use keyra::Keyra;

/// How a person is asked (approvals §7, §9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Approval {
    pub backend: Backend,
    /// Waiting times, and limits on the number of questions.
    pub questions: Settings,
    /// The status of the answer to the agent while the payment is undecided: 503, 402 or 202 (R39).
    pub pending_status: StatusCode,
    /// Where backends may call to announce an answer (approvals §2.7).
    pub callbacks: Option<SocketAddr>,
    /// The secrets of every configured backend, chosen or not: agents must get none of them.
    pub secrets: Vec<SecretSource>,
}

/// Who is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Nobody: what needs approval is refused.
    #[default]
    None,
    /// The person who runs `bursar approve` on this machine.
    Operator,
    /// A person, over an identity server.
    Ciba(Box<Ciba>),
    /// A person, over KEYRA.
    Keyra(Box<Keyra>),
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            backend: Backend::None,
            questions: Settings::default(),
            pending_status: StatusCode::SERVICE_UNAVAILABLE,
            callbacks: None,
            secrets: Vec::new(),
        }
    }
}

pub(super) fn approval(mut section: Section<'_>) -> Approval {
    let default = Approval::default();
    let chosen = section.take("backend");
    let ciba_entry = section.take("ciba").map(Entry::holding_secrets);
    let keyra_entry = section.take("keyra").map(Entry::holding_secrets);
    let ciba = ciba_entry.as_ref().map(ciba::ciba);
    let keyra = keyra_entry.as_ref().map(keyra::keyra);
    let callbacks = callbacks(&mut section);
    let mut seconds = |key, range, default| {
        let entry = section.take(key);
        let seconds = entry.and_then(|entry: Entry<'_>| entry.integer(range));
        seconds.map_or(default, Duration::from_secs)
    };
    let hold = seconds("hold_s", 0..=300, default.questions.hold);
    let ttl = seconds("ttl_s", 30..=600, default.questions.ttl);
    let deny_cooldown = seconds("deny_cooldown_s", 0..=86_400, default.questions.deny_cooldown);
    let mut count = |key, default| {
        let entry = section.take(key);
        let count = entry.and_then(|entry: Entry<'_>| entry.integer(1..=1000));
        count.map_or(default, |count| usize::try_from(count).unwrap_or(default))
    };
    let max_pending_per_agent = count("max_pending_per_agent", default.questions.max_pending_per_agent);
    let max_pending_per_approver = count("max_pending_per_approver", default.questions.max_pending_per_approver);
    let prompts_per_hour = count("prompts_per_hour", default.questions.prompts_per_hour);
    let pending_status = section
        .take("pending_status")
        .and_then(|entry| pending_status(&entry))
        .unwrap_or(default.pending_status);
    section.close(&[
        ("hold", "The key is `hold_s`."),
        ("ttl", "The key is `ttl_s`."),
        ("approver", "Put it under [approval.ciba] or [approval.keyra]."),
        ("issuer", "Put it under [approval.ciba]."),
    ]);
    let described = Described { ciba, keyra };
    let backend = chosen.and_then(|entry| backend(&entry, &described, callbacks));
    let mut secrets = described.secrets();
    if let (None, Some(Backend::Ciba(ciba))) = (&described.ciba, &backend) {
        secrets.extend(ciba.secrets());
    }
    Approval {
        callbacks,
        secrets,
        backend: backend.unwrap_or_default(),
        questions: Settings {
            hold,
            ttl,
            deny_cooldown,
            max_pending_per_agent,
            max_pending_per_approver,
            prompts_per_hour,
        },
        pending_status,
    }
}

/// The sections of the backends. `Some(None)`: the section has mistakes, which are reported.
struct Described {
    ciba: Option<Option<Ciba>>,
    keyra: Option<Option<Keyra>>,
}

impl Described {
    fn secrets(&self) -> Vec<SecretSource> {
        let ciba = self.ciba.iter().flatten().flat_map(Ciba::secrets);
        let keyra = self.keyra.iter().flatten().flat_map(Keyra::secrets);
        ciba.chain(keyra).collect()
    }
}

fn backend(entry: &Entry<'_>, described: &Described, callbacks: Option<SocketAddr>) -> Option<Backend> {
    match entry.text()? {
        "none" => Some(Backend::None),
        "operator" => Some(Backend::Operator),
        // Everything has a default: BKey, as its own tools are set up.
        "ciba" => {
            let ciba = described.ciba.clone().unwrap_or_else(|| Some(Ciba::default()))?;
            match (ciba.options.delivery, callbacks) {
                (Delivery::Ping, None) => {
                    no_callbacks(entry, "approval.ciba.delivery is \"ping\"", "write delivery = \"poll\"")
                }
                _ => Some(Backend::Ciba(Box::new(ciba))),
            }
        }
        "keyra" => match &described.keyra {
            None => entry.reject(
                "approval.backend is \"keyra\", but there is no section [approval.keyra]".to_owned(),
                "Add [approval.keyra] with base_url = \"https://…\" and api_key = \"env:KEYRA_API_KEY\".".to_owned(),
            ),
            Some(keyra) => {
                let keyra = keyra.clone()?;
                match (&keyra.webhook_secret, callbacks) {
                    (Some(_), None) => {
                        no_callbacks(entry, "approval.keyra.webhook_secret is set", "remove webhook_secret")
                    }
                    _ => Some(Backend::Keyra(Box::new(keyra))),
                }
            }
        },
        other => entry.reject(
            format!("approval.backend: \"{other}\" is not a known backend"),
            "Write \"operator\" to approve with `bursar approve`, \"ciba\" or \"keyra\" to ask people on their own \
             devices, or \"none\" to refuse payments that need approval."
                .to_owned(),
        ),
    }
}

fn no_callbacks(entry: &Entry<'_>, what: &str, instead: &str) -> Option<Backend> {
    entry.reject(
        format!("{what}, but nothing listens for calls"),
        format!("Add callbacks = \"127.0.0.1:8403\" under [approval], or {instead}: polling finds answers too."),
    )
}

/// Plain HTTP: each call carries its own authentication, and no call decides anything. A reverse proxy adds TLS.
fn callbacks(section: &mut Section<'_>) -> Option<SocketAddr> {
    let (entry, allow_plain) = (section.take("callbacks"), section.take("allow_plain"));
    let allow_plain = allow_plain.and_then(|entry| entry.boolean()).unwrap_or(false);
    let entry = entry?;
    let text = entry.text()?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() || allow_plain => Some(address),
        Ok(address) => entry.reject(
            format!("approval.callbacks: {address} can be reached from other machines without TLS"),
            "Listen on a loopback address behind a TLS reverse proxy, or write allow_plain = true.".to_owned(),
        ),
        Err(_) => entry.reject(
            format!("approval.callbacks: \"{text}\" is not an address to listen on"),
            "Write an IP address and a port, such as \"127.0.0.1:8403\"; port 0 picks a free one.".to_owned(),
        ),
    }
}

fn pending_status(entry: &Entry<'_>) -> Option<StatusCode> {
    match entry.integer(100..=599)? {
        503 => Some(StatusCode::SERVICE_UNAVAILABLE),
        402 => Some(StatusCode::PAYMENT_REQUIRED),
        202 => Some(StatusCode::ACCEPTED),
        other => entry.reject(
            format!("approval.pending_status: {other} is not a status for an undecided payment"),
            "Write 503, after which many clients retry by themselves, 402 or 202.".to_owned(),
        ),
    }
}
