//! Opens the approval backend that bursar.toml names: the operator, an identity server, or KEYRA.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use thiserror::Error;

use super::callbacks::Caller;
use super::clients::{NotKnown, Proof, known};
use crate::config::approval::ciba;
use crate::config::approval::{Backend, keyra};
use crate::config::operator::Store;
use crate::config::{Config, SecretError, SecretSource, secret};
use bursar_approvals::ciba::Ciba;
use bursar_approvals::ciba::assertion::{AssertionKey, BadKey};
use bursar_approvals::ciba::settings::{AuthMethod, CibaSettings, ClientAuth};
use bursar_approvals::keyra::{ApiKey, Keyra, KeyraSettings, SettingsError, Webhooks};
use bursar_approvals::operator::Operator;
use bursar_approvals::questions::{Asks, Questions, Services};
use bursar_approvals::tokens::Tokens;
use bursar_core::clock::SharedClock;
use bursar_home::{self as home, Home, HomeError};
use bursar_ledger::{ApprovalStep, Ledger, LedgerError, Outcome, Reason};
use bursar_net::tls::upstream::UpstreamTls;

/// Who is asked about payments.
pub(super) struct Opened {
    pub questions: Questions,
    /// Which backend may call to report an answer.
    pub caller: Option<Caller>,
}

/// Opens the questions, if bursar.toml names a backend, with those of an earlier run.
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
        // An unreachable database refuses payments; the questions follow when it is back.
        Err(error) if is_shared => {
            tracing::warn!(%error, "the open questions of an earlier run could not be read yet");
            questions.resume_later();
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Some(Opened { questions, caller }))
}

/// Also returns the approver for payments for which limits.toml names none.
fn ciba_settings(
    written: &ciba::Ciba,
    home: &Home,
    clock: &SharedClock,
) -> Result<(CibaSettings, Option<String>), OpenQuestionsError> {
    let client = known(written.issuer.as_ref(), &written.client, home).map_err(OpenQuestionsError::Ciba)?;
    let client_auth = match (client.proof, written.client_auth) {
        (Proof::Secret(secret), AuthMethod::Basic) => ClientAuth::Basic(secret),
        // The configuration pairs `private_key_jwt` with a key, so a secret never meets it here.
        (Proof::Secret(secret), AuthMethod::Post | AuthMethod::PrivateKeyJwt) => ClientAuth::Post(secret),
        (Proof::Key { pem, id }, _) => {
            let key = AssertionKey::from_pem(pem.expose_secret(), id, clock.clone())?;
            ClientAuth::PrivateKeyJwt(Box::new(key))
        }
    };
    let settings = CibaSettings {
        issuer: client.issuer,
        client_id: client.id,
        client_auth,
        options: written.options.clone(),
    };
    Ok((settings, written.approver.clone().or(client.approver)))
}

fn keyra_settings(written: &keyra::Keyra, home: &Home) -> Result<KeyraSettings, OpenQuestionsError> {
    let read = |source: &SecretSource| secret::read(source, home.root()).map_err(OpenQuestionsError::KeyraSecret);
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

/// Releases the money of an earlier run's questions when no backend is configured any more. `false`: the ledger cannot
/// be read.
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
            tracing::error!(payment = %row.rid, %error, "its approval has no backend; its money stays held");
        }
    }
    true
}

/// Releases it once the database is back.
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

/// The pause between two attempts to read the ledger.
const PAUSE: Duration = Duration::from_secs(5);

/// Why the approval backend cannot be opened. Never quotes a secret.
#[derive(Debug, Error)]
pub enum OpenQuestionsError {
    #[error(transparent)]
    File(#[from] HomeError),
    #[error("[approval]: cannot read the questions of an earlier run: {0}")]
    Unreadable(#[from] LedgerError),
    #[error("[approval.ciba]: {0}")]
    Ciba(NotKnown),
    #[error("[approval.ciba]: client_key: {0}")]
    CibaKey(#[from] BadKey),
    #[error("[approval.keyra]: {0}")]
    KeyraSecret(SecretError),
    #[error("[approval.keyra]: {0}")]
    Keyra(#[from] SettingsError),
}
