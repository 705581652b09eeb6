//! Who is asked about payments, as bursar.toml names them, opened: the operator, an identity server, KEYRA.

use bursar_ledger::Reason;
use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use thiserror::Error;

use super::callbacks::Caller;
use super::clients::{NotKnown, Proof, known};
use crate::config::approval::ciba;
use crate::config::approval::{Backend, keyra};
use crate::config::operator::Store;
use crate::config::{Config, SecretError, SecretSource};
use bursar_approvals::ciba::Ciba;
use bursar_approvals::ciba::assertion::{AssertionKey, BadKey};
use bursar_approvals::ciba::settings::{AuthMethod, CibaSettings, ClientAuth};
use bursar_approvals::keyra::{ApiKey, Keyra, KeyraSettings, SettingsError, Webhooks};
use bursar_approvals::operator::Operator;
use bursar_approvals::questions::{Asks, Questions, Services};
use bursar_approvals::tokens::Tokens;
use bursar_core::approval::token::Alg;
use bursar_core::clock::SharedClock;
use bursar_home::{self as home, Home, HomeError};
use bursar_ledger::{ApprovalStep, Ledger, LedgerError, Outcome};
use bursar_net::tls::upstream::UpstreamTls;

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
    around: Services,
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
    let questions = Questions::new(asks, config.approval.questions.clone(), around);
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
    let client = known(written.issuer.as_ref(), &written.client, home).map_err(OpenQuestionsError::Ciba)?;
    let client_auth = match (client.proof, written.client_auth) {
        (Proof::Secret(secret), AuthMethod::Basic) => ClientAuth::Basic(secret),
        // With a key the proof is one.
        (Proof::Secret(secret), AuthMethod::Post | AuthMethod::PrivateKeyJwt) => ClientAuth::Post(secret),
        (Proof::Key { pem, id }, _) => {
            let key = AssertionKey::from_pem(pem.expose_secret(), id, clock.clone())?;
            ClientAuth::PrivateKeyJwt(Box::new(key))
        }
    };
    let settings = CibaSettings {
        issuer: client.issuer,
        style: written.style,
        delivery: written.delivery,
        client_id: client.id,
        client_auth,
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
        let outcome = Outcome::Released {
            why: Reason::ApprovalFailed,
        };
        if let Err(error) = ended.and(ledger.finish(row.rid, outcome).await) {
            tracing::error!(payment = %row.rid, %error, "a payment that waits for nobody stays held");
        }
    }
    true
}

/// Once the database is back.
async fn abandon_later(around: Services) {
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
    Ciba(NotKnown),
    #[error("[approval.ciba]: client_key: {0}")]
    CibaKey(#[from] BadKey),
    #[error("[approval.keyra]: {0}")]
    KeyraSecret(SecretError),
    #[error("[approval.keyra]: {0}")]
    Keyra(#[from] SettingsError),
}
