//! Who is asked about payments, as bursar.toml names them, opened: the operator, an identity server, KEYRA.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use thiserror::Error;

use super::callbacks::Caller;
use crate::approval::token::Alg;
use crate::approve::ciba::Ciba;
use crate::approve::ciba::assertion::{AssertionKey, BadKey};
use crate::approve::ciba::bkey::{BkeyAgent, BkeyError, ProfilesFile};
use crate::approve::ciba::discovery::{Issuer, PlainHttp, UrlError};
use crate::approve::ciba::settings::{AuthMethod, CibaSettings, ClientAuth, Secret};
use crate::approve::keyra::{ApiKey, Keyra, KeyraSettings, SettingsError, Webhooks};
use crate::approve::operator::Operator;
use crate::approve::tokens::Tokens;
use crate::clock::SharedClock;
use crate::config::approval::ciba::{self, Client, ClientId};
use crate::config::approval::{Backend, keyra};
use crate::config::operator::Store;
use crate::config::{Config, SecretError, SecretSource};
use crate::home::{self, Home, HomeError};
use crate::ledger::{ApprovalStep, Ledger, LedgerError, Outcome};
use crate::questions::{Asks, Questions, Surroundings};
use crate::tls::upstream::UpstreamTls;

/// Who is asked about payments.
pub(super) struct Opened {
    pub questions: Questions,
    /// Who may say that there is an answer.
    pub caller: Option<Caller>,
}

/// Who is asked about payments, if bursar.toml names somebody; with what an earlier run has asked.
pub(super) async fn open_questions(
    config: &Config,
    home: &Home,
    tls: &Arc<UpstreamTls>,
    around: Surroundings,
) -> Result<Option<Opened>, OpenQuestionsError> {
    let is_shared = matches!(config.store, Store::Shared(_));
    let (asks, caller) = match &config.approval.backend {
        Backend::None => {
            if !abandon(&*around.ledger).await && is_shared {
                let tasks = around.tasks.clone();
                tasks.spawn(abandon_later(around));
            }
            return Ok(None);
        }
        Backend::Operator => {
            tracing::warn!(
                "the operator approves payments over the admin socket: agents must run under another uid than bursar, or nothing \
                 stops them from approving their own"
            );
            let operator = Operator::new(around.clock.clone());
            (Asks::Operator(Arc::new(operator)), None)
        }
        Backend::Ciba(written) => {
            let (settings, approver) = ciba_settings(written, home, &around.clock)?;
            tracing::info!(
                issuer = settings.issuer.as_str(),
                client_id = settings.client_id,
                "payments are approved over CIBA"
            );
            let backend = Arc::new(Ciba::new(settings, Tokens, tls.clone(), around.clock.clone()));
            let caller = Caller::Ciba(backend.clone());
            (Asks::Service { backend, approver }, Some(caller))
        }
        Backend::Keyra(written) => {
            let settings = keyra_settings(written, home)?;
            tracing::info!(service = %written.base_url, "payments are approved over KEYRA");
            let backend = Arc::new(Keyra::new(settings, tls.clone(), around.clock.clone()));
            let (caller, approver) = (Caller::Keyra(backend.clone()), written.approver.clone());
            (Asks::Service { backend, approver }, Some(caller))
        }
    };
    home::create_folder(&around.folder)?;
    let questions = Questions::new(asks, config.approval.clone(), around);
    match questions.resume().await {
        Ok(()) => {}
        // A database that is away refuses payments, and tells this when it is back.
        Err(error) if is_shared => {
            tracing::warn!(%error, "what was asked before is not known yet");
            questions.resume_later();
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Some(Opened { questions, caller }))
}

/// With who is asked where limits.toml names nobody.
fn ciba_settings(
    written: &ciba::Ciba,
    home: &Home,
    clock: &SharedClock,
) -> Result<(CibaSettings, Option<String>), OpenQuestionsError> {
    let client = client(written, home, clock)?;
    let issuer = match (&written.issuer, client.issuer) {
        (Some(issuer), _) => issuer.clone(),
        (None, url) => {
            let url = url.unwrap_or_else(|| BKEY.to_owned());
            Issuer::parse(&url, PlainHttp::ToThisMachine).map_err(OpenQuestionsError::BkeyUrl)?
        }
    };
    let settings = CibaSettings {
        issuer,
        style: written.style,
        delivery: written.delivery,
        client_id: client.id,
        client_auth: client.auth,
        scope: written.scope.clone(),
        audience: written.audience.clone(),
        evidence: written.evidence,
        algs: written.algs.iter().copied().map(Alg::name).map(str::to_owned).collect(),
        leeway: written.leeway,
        binding_style: written.binding_style,
        amount_unit: written.amount_unit,
        details_type: written.details_type.clone(),
        require_bound_details: written.require_bound_details,
        hosts: written.hosts.clone(),
    };
    Ok((settings, written.approver.clone().or(client.approver)))
}

const BKEY: &str = "https://api.bkey.id";

/// As whom we ask.
struct Known {
    id: String,
    auth: ClientAuth,
    /// Where BKey's tools say that BKey is.
    issuer: Option<String>,
    approver: Option<String>,
}

fn client(written: &ciba::Ciba, home: &Home, clock: &SharedClock) -> Result<Known, OpenQuestionsError> {
    let read = |source: &SecretSource| source.read(home.root()).map_err(OpenQuestionsError::CibaSecret);
    let id_of = |id: &ClientId| match id {
        ClientId::Text(id) => Ok(id.clone()),
        ClientId::Kept(source) => read(source).map(|id| id.expose_secret().to_owned()),
    };
    let by_secret = |secret| match written.client_auth {
        AuthMethod::Basic => ClientAuth::Basic(secret),
        // With a key the client is `Keyed`.
        AuthMethod::Post | AuthMethod::PrivateKeyJwt => ClientAuth::Post(secret),
    };
    match &written.client {
        Client::Named { id, secret } => Ok(Known {
            id: id_of(id)?,
            auth: by_secret(Secret::new(read(secret)?.expose_secret())),
            issuer: None,
            approver: None,
        }),
        Client::Keyed { id, key, key_id } => {
            let pem = read(key)?;
            let key = AssertionKey::from_pem(pem.expose_secret(), key_id.clone(), clock.clone())?;
            Ok(Known {
                id: id_of(id)?,
                auth: ClientAuth::PrivateKeyJwt(Box::new(key)),
                issuer: None,
                approver: None,
            })
        }
        Client::Bkey { profile } => {
            let file = match std::env::var_os("HOME") {
                Some(home) => ProfilesFile::read(&PathBuf::from(home).join(".bkey/profiles.json"))?,
                None => None,
            };
            let agent = BkeyAgent::find(|name| std::env::var(name).ok(), profile.as_deref(), file.as_ref())?;
            Ok(Known {
                id: agent.client_id,
                auth: by_secret(agent.client_secret),
                issuer: Some(agent.api_url),
                approver: agent.approver,
            })
        }
    }
}

fn keyra_settings(written: &keyra::Keyra, home: &Home) -> Result<KeyraSettings, OpenQuestionsError> {
    let read = |source: &SecretSource| source.read(home.root()).map_err(OpenQuestionsError::KeyraSecret);
    let key = ApiKey::parse(read(&written.api_key)?.expose_secret(), written.env)?;
    let webhooks = match &written.webhook_secret {
        Some(source) => Some(Webhooks::new(read(source)?.expose_secret(), written.signature_format)?),
        None => None,
    };
    Ok(KeyraSettings {
        action: written.action.clone(),
        trust: written.trust,
        echo: written.echo,
        webhooks,
        interval: written.interval,
        ..KeyraSettings::new(written.base_url.clone(), key)
    })
}

/// Questions of an earlier run, when nobody can be asked any more: the money is given back. `false`: the books cannot be read.
async fn abandon(ledger: &dyn Ledger) -> bool {
    let Ok(known) = ledger.approvals().await else {
        return false;
    };
    for row in known.live {
        let why = "error:no_backend".to_owned();
        let ended = ledger.approval(ApprovalStep::Expired { id: row.id, why }).await;
        let outcome = Outcome::Released { why: "approval-failed" };
        if let Err(error) = ended.and(ledger.finish(row.rid, outcome).await) {
            tracing::error!(payment = %row.rid, %error, "a payment that waits for nobody stays held");
        }
    }
    true
}

/// Once the database is back.
async fn abandon_later(around: Surroundings) {
    loop {
        tokio::select! {
            () = around.stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        if abandon(&*around.ledger).await {
            return;
        }
    }
}

/// Between two looks at books that could not be read.
const PAUSE: Duration = Duration::from_secs(5);

/// Why nobody can be asked about payments. Never quotes a secret.
#[derive(Debug, Error)]
pub enum OpenQuestionsError {
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("[approval]: what was asked before cannot be read: {0}")]
    Books(#[from] LedgerError),
    #[error("[approval.ciba]: {0}")]
    CibaSecret(SecretError),
    #[error("[approval.ciba]: client_key: {0}")]
    CibaKey(#[from] BadKey),
    #[error("[approval.ciba]: {0}; or write client_id and client_secret there")]
    Bkey(#[from] BkeyError),
    #[error("[approval.ciba]: where BKey is by its own tools: {0}; or write issuer there")]
    BkeyUrl(UrlError),
    #[error("[approval.keyra]: {0}")]
    KeyraSecret(SecretError),
    #[error("[approval.keyra]: {0}")]
    Keyra(#[from] SettingsError),
}
