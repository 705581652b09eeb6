//! BKey, which keeps keys on a phone: which agent bursar acts as there (`agent`), and what BKey makes for us (approvals
//! §4.6), either an EIP-3009 authorization or a Shared Payment Token.
//!
//! `answer` is pure: it reads what an answer says, and whether BKey can have made anything. Whether a credential
//! matches the ledger record is for `pay` to judge.

mod agent;
mod answer;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod order;

use std::time::Duration;

use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::{Request, Uri};
use hyper::body::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use thiserror::Error;

use bursar_core::account::AccountMark;
use bursar_net::oauth::exchange::{self, ServerAnswer, Silence};
use bursar_net::oauth::failure::{self, Code};
use bursar_net::oauth::form::bearer;
use bursar_net::oauth::issuer::Issuer;
use bursar_net::oauth::login::{self, AgentTokens, TokenOrigin};
use bursar_net::oauth::{Outgoing, Secret};
use bursar_net::tls::upstream::UpstreamTls;

pub use agent::{BkeyAgent, BkeyError, ProfilesFile};
pub use answer::{Authorization, Created, Looked, Pending, Token, Unreadable, WalletAnswer};
pub use order::{AuthorizationOrder, Purpose, TokenOrder};

/// BKey's own tools wait this long for an answer (approvals §4.1).
const PATIENCE: Duration = Duration::from_secs(30);

/// What BKey makes for an order.
pub(crate) trait Product: Sized {
    /// Where it is ordered.
    const PATH: &'static str;
    /// Finds it in an answer.
    const READ: answer::Read<Self>;
}

impl Product for Authorization {
    const PATH: &'static str = "/v1/x402/authorize";
    const READ: answer::Read<Self> = Self::in_answer;
}

impl Product for Token {
    const PATH: &'static str = "/v1/mpp/authorize";
    const READ: answer::Read<Self> = Self::in_answer;
}

/// The BKey service, and the client that bursar uses it as.
pub struct Bkey {
    api: Issuer,
    client_id: String,
    secret: Secret,
    tls: Arc<UpstreamTls>,
    tokens: AgentTokens,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Unanswered {
    #[error("could not log in to BKey: {}", .0.text())]
    NotLoggedIn(Code),
    #[error("could not reach BKey")]
    Unsent,
    /// BKey may have acted.
    #[error("BKey sent no answer, or an incomplete one")]
    Unanswered,
}

/// Why the wallet is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoWalletAnswer {
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    #[error(
        "BKey refused to return its wallet (status {0}); the client needs the scopes payment:address and \
         payment:authorize"
    )]
    Refused(u16),
    #[error("BKey's answer about its wallet has no valid {0}")]
    Unreadable(&'static str),
}

impl Bkey {
    pub fn new(api: Issuer, client_id: String, secret: Secret, tls: Arc<UpstreamTls>) -> Self {
        Self {
            api,
            client_id,
            secret,
            tls,
            tokens: AgentTokens::default(),
        }
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        self.api.as_str()
    }

    /// Identifies the client that orders, without naming it.
    pub fn mark(&self) -> AccountMark {
        let mut hash = Sha256::new();
        hash.update(b"bursar/bkey-client/v1\n");
        hash.update(self.api.as_str().to_ascii_lowercase());
        // A URL has no line break, so two different pairs never hash the same text.
        hash.update(b"\n");
        hash.update(self.client_id.as_bytes());
        let whole: [u8; 32] = hash.finalize().into();
        let (half, _) = whole.split_first_chunk().unwrap_or((&[0; 16], &[]));
        AccountMark(*half)
    }

    pub async fn wallet(&self) -> Result<WalletAnswer, NoWalletAnswer> {
        let answer = self.get("/v1/x402/wallet").await?;
        match answer.status.as_u16() {
            200 => answer::wallet(&answer.body).map_err(NoWalletAnswer::Unreadable),
            status => Err(NoWalletAnswer::Refused(status)),
        }
    }

    pub async fn order_authorization(
        &self,
        order: &AuthorizationOrder<'_>,
    ) -> Result<Created<Authorization>, Unanswered> {
        self.create(order.json()).await
    }

    pub async fn order_token(&self, order: &TokenOrder<'_>) -> Result<Created<Token>, Unanswered> {
        self.create(order.json()).await
    }

    /// Polls for what a person must confirm.
    pub(crate) async fn look<T: Product>(&self, pending: &Pending) -> Looked<T> {
        match self.get(&format!("{}/{}", T::PATH, pending.id())).await {
            Ok(answer) => answer::looked(answer.status, &answer.body, retry_after(&answer), T::READ),
            // A poll changes nothing at BKey, and the next one may succeed.
            Err(_) => Looked::Wait(None),
        }
    }

    /// Not repeated if it may have arrived (approvals §2.5): each order would make another authorization.
    async fn create<T: Product>(&self, json: Option<Vec<u8>>) -> Result<Created<T>, Unanswered> {
        let json = json.ok_or(Unanswered::NotLoggedIn(failure::INTERNAL))?;
        let (url, token) = (self.at(T::PATH)?, self.token().await?.0);
        let order = || {
            let bearer = bearer(&token).ok_or(Unanswered::NotLoggedIn(failure::BAD_RESPONSE))?;
            let outgoing = Outgoing::json(json.clone(), bearer);
            outgoing.to(&url).ok_or(Unanswered::NotLoggedIn(failure::INTERNAL))
        };
        let sent = match exchange::send(&url, &self.tls, order()?, PATIENCE).await {
            // Nothing was sent, so try once more.
            Err(Silence::Unsent) => exchange::send(&url, &self.tls, order()?, PATIENCE).await,
            sent => sent,
        };
        let answer = sent.map_err(unanswered)?;
        self.was_taken(&answer).await;
        Ok(answer::created(answer.status, &answer.body, T::READ))
    }

    async fn get(&self, path: &str) -> Result<ServerAnswer, Unanswered> {
        let (mut token, mut origin) = self.token().await?;
        loop {
            let url = self.at(path)?;
            let target = url.path_and_query().map_or("/", |path| path.as_str());
            let bearer = bearer(&token).ok_or(Unanswered::NotLoggedIn(failure::BAD_RESPONSE))?;
            let request = Request::get(target)
                .header("accept", "application/json")
                .header(AUTHORIZATION, bearer)
                .body(Bytes::new())
                .map_err(|_| Unanswered::NotLoggedIn(failure::INTERNAL))?;
            let answer = exchange::send(&url, &self.tls, request, PATIENCE).await;
            let answer = answer.map_err(unanswered)?;
            self.was_taken(&answer).await;
            if answer.status != http::StatusCode::UNAUTHORIZED || origin == TokenOrigin::New {
                return Ok(answer);
            }
            // The token was cached and may have been revoked since.
            (token, origin) = self.token().await?;
        }
    }

    /// Drops a token that was refused, so that it is not used again.
    async fn was_taken(&self, answer: &ServerAnswer) {
        if answer.status == http::StatusCode::UNAUTHORIZED {
            self.tokens.forget().await;
        }
    }

    async fn token(&self) -> Result<(Arc<Secret>, TokenOrigin), Unanswered> {
        let log_in = || async {
            let url = self.at("/oauth/token").map_err(|_| failure::INTERNAL)?;
            let fields = [
                ("grant_type", "client_credentials"),
                ("client_id", self.client_id.as_str()),
                ("client_secret", self.secret.expose()),
            ];
            let request = Outgoing::form(&fields, None).to(&url).ok_or(failure::INTERNAL)?;
            // A log-in creates nothing, so a failed one counts as unsent.
            let answer = exchange::send(&url, &self.tls, request, PATIENCE).await;
            let answer = answer.map_err(|_| failure::UNREACHABLE)?;
            login::read(answer.status, &answer.body)
        };
        self.tokens.lend(log_in).await.map_err(|code| match code {
            failure::UNREACHABLE => Unanswered::Unsent,
            code => Unanswered::NotLoggedIn(code),
        })
    }

    fn at(&self, path: &str) -> Result<Uri, Unanswered> {
        let url = format!("{}{path}", self.api.as_str());
        url.parse().map_err(|_| Unanswered::NotLoggedIn(failure::INTERNAL))
    }
}

fn unanswered(silence: Silence) -> Unanswered {
    match silence {
        Silence::Unsent => Unanswered::Unsent,
        Silence::Unanswered => Unanswered::Unanswered,
    }
}

fn retry_after(answer: &ServerAnswer) -> Option<Duration> {
    let seconds = answer.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
