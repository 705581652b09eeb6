//! The CIBA backend: an identity server asks the approver on their own device, and issues a token that proves the
//! approval (approvals §2 to §4).
//!
//! * `settings`: how the server is used.
//! * `discovery`: its endpoints. `request`, `asked`: sending a question and reading its handle. `poll`: what poll
//!   responses mean. `ping`: authenticating the server's notifications. `failure`: failure codes. All of these are
//!   pure.
//! * `store`: the cache of metadata, keys and the agent's own token. A single request is `oauth/exchange`.
//!
//! A token alone is not an approval: a [`Verifier`] checks it against the issuer's keys.

pub mod discovery;
pub mod failure;
pub mod ping;
pub mod poll;
pub mod request;
pub mod settings;

mod asked;
pub mod assertion;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod store;
#[cfg(test)]
mod vectors;
mod verifier;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use asked::{Accepted, NotAsked};
use discovery::Metadata;
use failure::Code;
use ping::KnownTokens;
use poll::{Grant, Look, Polling, Step};
use request::{Outgoing, SentDetails};
use settings::{BindingStyle, CibaSettings, Delivery, EvidenceToken, Secret, Style};
use store::{Renewal, ServerCache};
pub use verifier::{Presented, Rejected, Verifier};

use crate::{Asked, Backend, Denial, Failure, QuestionStatus, Reply};
use bursar_core::approval::Question;
use bursar_core::clock::SharedClock;
use bursar_net::oauth::exchange::{self, ServerAnswer, Silence};
use bursar_net::oauth::login::{self, TokenOrigin};
use bursar_net::tls::upstream::UpstreamTls;

/// Time limit for sending a question, from the DNS lookup to the last byte of the response (approvals §2.6).
const ASK_PATIENCE: Duration = Duration::from_secs(30);
/// Time limit for a poll. Longer than a server may hold a poll open.
const LOOK_PATIENCE: Duration = Duration::from_secs(40);
/// How long a question is still polled after the end that the server gave (approvals §7).
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// How long a token waits for the keys to verify it. The person has decided, and the token cannot be fetched a second
/// time.
const KEPT_GRANT: Duration = Duration::from_secs(120);
const KEYS_AGAIN: Duration = Duration::from_secs(5);
/// A larger difference from the identity server's clock is logged (approvals §10).
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(30);

/// One identity server.
pub struct Ciba<V: Verifier> {
    settings: CibaSettings,
    verifier: V,
    tls: Arc<UpstreamTls>,
    clock: SharedClock,
    cache: ServerCache<V::Keys>,
    running: Mutex<HashMap<String, Running>>,
    notifications: Mutex<KnownTokens>,
}

/// The state of a question between two polls. Lost if a poll is canceled, as is its response.
struct Running {
    polling: Polling,
    /// A token that was fetched but not verified yet, and when it arrived.
    grant: Option<(Box<Grant>, Instant)>,
    until: Timestamp,
}

impl<V: Verifier> Ciba<V> {
    pub fn new(settings: CibaSettings, verifier: V, tls: Arc<UpstreamTls>, clock: SharedClock) -> Self {
        Self {
            settings,
            verifier,
            tls,
            clock,
            cache: ServerCache::default(),
            running: Mutex::default(),
            notifications: Mutex::default(),
        }
    }

    pub fn settings(&self) -> &CibaSettings {
        &self.settings
    }

    /// The handle of the question that a server's ping is about: respond 204 and poll now. `None`: respond 401.
    pub fn ping(&self, authorization: Option<&str>, body: &[u8]) -> Option<String> {
        ping::ping(authorization, body, &locked(&self.notifications))
    }

    async fn ask(&self, question: &Question) -> Result<Asked, Failure> {
        let metadata = self.metadata().await.ok_or(failure::DISCOVERY)?;
        let style = self.settings.options.binding_style;
        match (self.ask_in(question, style, &metadata).await, style) {
            (Err(NotAsked::BindingMessage), BindingStyle::Sentence) => {
                // Nobody was asked. The message may have been too long for this server, or had characters that it does
                // not accept (approvals §2.2).
                let again = self.ask_in(question, BindingStyle::Compact20, &metadata).await;
                again.map_err(NotAsked::into_failure)
            }
            (result, _) => result.map_err(NotAsked::into_failure),
        }
    }

    async fn ask_in(&self, question: &Question, style: BindingStyle, metadata: &Metadata) -> Result<Asked, NotAsked> {
        let notification = match self.settings.delivery() {
            Delivery::Ping => Some(ping::notification_token().ok_or(failure::INTERNAL)?),
            Delivery::Poll => None,
        };
        let agent_token = match self.settings.options.style {
            Style::Bkey => Some(self.agent_token(metadata).await?),
            Style::Standard => None,
        };
        let outgoing = || match &agent_token {
            Some((token, _)) => request::ask_bkey(&self.settings, question, style, token),
            None => request::ask_standard(&self.settings, question, style, notification.as_ref()),
        };
        let sent = match self.send(&metadata.authentication, outgoing(), ASK_PATIENCE).await? {
            // Nothing was sent, so nobody can have been asked: retry once.
            Err(Silence::Unsent) => self.send(&metadata.authentication, outgoing(), ASK_PATIENCE).await?,
            sent => sent,
        };
        let answer = match sent {
            Ok(answer) => answer,
            Err(Silence::Unsent) => return Err(failure::UNREACHABLE.into()),
            Err(Silence::Unanswered) => return Err(failure::START_UNKNOWN.into()),
        };
        self.compare_clocks(&answer);
        if let (http::StatusCode::UNAUTHORIZED, Some((_, origin))) = (answer.status, &agent_token) {
            self.cache.agent_token.forget().await;
            if *origin == TokenOrigin::Stored {
                return Err(failure::AGENT_TOKEN.into());
            }
        }
        let accepted = asked::read(answer.status, &answer.body)?;
        Ok(self.accepted(accepted, notification))
    }

    fn accepted(&self, accepted: Accepted, notification: Option<Secret>) -> Asked {
        let polling = Polling::new(accepted.interval_s);
        let now = self.clock.now();
        let asked = Asked {
            expires_at: later(now, accepted.expires_in_s),
            interval: polling.interval(),
            failures: 0,
            handle: accepted.auth_req_id,
        };
        if let Some(token) = notification {
            locked(&self.notifications).insert(&asked.handle, &token);
        }
        self.keep_running(&asked, polling, None);
        asked
    }

    async fn look(&self, question: &Question, asked: &mut Asked) -> QuestionStatus {
        let sent_at = Instant::now();
        let running = locked(&self.running).remove(&asked.handle);
        let (mut polling, grant) = match running {
            Some(running) => (running.polling, running.grant),
            None => (Polling::resumed(asked.interval, asked.failures), None),
        };
        let (grant, received) = match grant {
            Some(cache) => cache,
            None => {
                if self.clock.now() > asked.expires_at.saturating_add(GRACE).unwrap_or(Timestamp::MAX) {
                    return self.ended(asked, QuestionStatus::Expired);
                }
                let step = self.look_there(&mut polling, asked).await;
                (asked.interval, asked.failures) = (polling.interval(), polling.failures());
                match step {
                    Step::Granted(grant) => (grant, Instant::now()),
                    Step::Pending(wait) => {
                        let wait = wait.min(self.left(asked));
                        self.keep_running(asked, polling, None);
                        return QuestionStatus::Pending { wait };
                    }
                    Step::Denied => return self.ended(asked, QuestionStatus::Denied(Denial::default())),
                    Step::Expired => return self.ended(asked, QuestionStatus::Expired),
                    Step::Failed(failure) => return self.ended(asked, QuestionStatus::Failed(failure)),
                }
            }
        };
        match self.judge(question, asked, &grant, received).await {
            Verdict::Done(question_status) => self.ended(asked, question_status),
            Verdict::Later(wait) if received.elapsed() < KEPT_GRANT => {
                self.keep_running(asked, polling, Some((grant, received)));
                // The wait counts from the start of the poll.
                let wait = wait.saturating_add(sent_at.elapsed());
                QuestionStatus::Pending { wait }
            }
            Verdict::Later(_) => self.ended(asked, QuestionStatus::Failed(failure::KEYS.into())),
        }
    }

    async fn look_there(&self, polling: &mut Polling, asked: &Asked) -> Step {
        let Some(metadata) = self.metadata().await else {
            return polling.step(&Look::Unsent);
        };
        let outgoing = request::look(&self.settings, &asked.handle);
        match self.send(&metadata.token, outgoing, LOOK_PATIENCE).await {
            Err(code) => poll::failed(code),
            Ok(Err(Silence::Unsent)) => polling.step(&Look::Unsent),
            Ok(Err(Silence::Unanswered)) => polling.step(&Look::Unanswered),
            Ok(Ok(answer)) => polling.step(&Look::Answered {
                status: answer.status,
                headers: &answer.headers,
                body: &answer.body,
                now: self.clock.now(),
            }),
        }
    }

    async fn judge(&self, question: &Question, asked: &Asked, grant: &Grant, received: Instant) -> Verdict {
        let token = match self.settings.options.evidence {
            EvidenceToken::AccessTokenJwt => &grant.access_token,
            EvidenceToken::IdToken => match &grant.id_token {
                Some(token) => token,
                None => return Verdict::failed(failure::BAD_RESPONSE.into()),
            },
        };
        let sent = request::sent_details(&self.settings, question);
        if let SentDetails::Authorization(sent) = &sent
            && grant.authorization_details.as_ref() != Some(sent)
        {
            return self.rejected(question, "binding_mismatch");
        }
        let Some(metadata) = self.metadata().await else {
            return Verdict::Later(KEYS_AGAIN);
        };
        let fetch = || self.fetch_keys(&metadata);
        let Some(keys) = self.cache.keys(fetch).await else {
            return Verdict::Later(KEYS_AGAIN);
        };
        let presented = Presented {
            settings: &self.settings,
            question,
            auth_req_id: &asked.handle,
            token,
            grant,
            sent: &sent,
            now: self.clock.now(),
        };
        let verified = match self.verifier.verify(&presented, &keys) {
            // The issuer may have rotated its keys (approvals §5, check 3).
            Err(Rejected::UnknownKid) => match self.cache.newer_keys(received, fetch).await {
                Renewal::Keys(keys) => self.verifier.verify(&presented, &keys),
                Renewal::NotBefore(wait) => return Verdict::Later(wait),
                Renewal::Unavailable => return Verdict::Later(KEYS_AGAIN),
            },
            verified => verified,
        };
        match verified {
            Ok(evidence) => Verdict::Done(QuestionStatus::Approved(Box::new(evidence))),
            Err(Rejected::UnknownKid) => self.rejected(question, "unknown_kid"),
            Err(Rejected::Because(reason)) => self.rejected(question, reason),
        }
    }

    /// Logs without the handle: with it and our credentials, anyone could fetch the token.
    fn rejected(&self, question: &Question, reason: &str) -> Verdict {
        let issuer = self.settings.issuer.as_str();
        tracing::error!(approval = %question.id, issuer, reason, "the approval token was rejected; nothing is paid");
        Verdict::failed(failure::token_rejected(reason))
    }

    async fn metadata(&self) -> Option<Arc<Metadata>> {
        self.cache.metadata(|| self.fetch_metadata()).await
    }

    async fn fetch_metadata(&self) -> Option<Metadata> {
        let issuer = &self.settings.issuer;
        let url = issuer.document().ok()?;
        let document = exchange::get(&url, &self.tls, discovery::LONGEST_DOCUMENT).await;
        let read = document.map_err(|why| why.to_owned()).and_then(|answer| {
            let (hosts, delivery) = (&self.settings.options.hosts, self.settings.delivery());
            Metadata::parse(
                &answer.body,
                issuer,
                hosts,
                delivery,
                self.settings.client_auth.method(),
            )
            .map_err(|why| why.to_string())
        });
        match read {
            Ok(metadata) => {
                if !metadata.takes_our_authentication {
                    tracing::warn!(
                        issuer = issuer.as_str(),
                        "the identity server does not list the configured client authentication"
                    );
                }
                Some(metadata)
            }
            Err(why) => {
                tracing::warn!(
                    issuer = issuer.as_str(),
                    why,
                    "cannot fetch the identity server's metadata"
                );
                None
            }
        }
    }

    async fn fetch_keys(&self, metadata: &Metadata) -> Option<(V::Keys, Option<Duration>)> {
        let answer = exchange::get(&metadata.jwks, &self.tls, discovery::LONGEST_DOCUMENT).await;
        let keys = answer.and_then(|answer| {
            let keys = self.verifier.keys(&answer.body).ok_or("no usable key set")?;
            Ok((keys, answer.max_age()))
        });
        if let Err(why) = &keys {
            tracing::warn!(
                issuer = self.settings.issuer.as_str(),
                why,
                "cannot fetch the identity server's keys"
            );
        }
        keys.ok()
    }

    async fn agent_token(&self, metadata: &Metadata) -> Result<(Arc<Secret>, TokenOrigin), Code> {
        let log_in = || async {
            let outgoing = request::client_credentials(&self.settings);
            let answer = match self.send(&metadata.token, outgoing, LOOK_PATIENCE).await? {
                Ok(answer) => answer,
                // Logging in asks no person, so retrying it is always safe.
                Err(Silence::Unsent | Silence::Unanswered) => return Err(failure::UNREACHABLE),
            };
            login::read(answer.status, &answer.body)
        };
        self.cache.agent_token.lend(log_in).await
    }

    async fn send(
        &self,
        url: &http::Uri,
        outgoing: Option<Outgoing>,
        patience: Duration,
    ) -> Result<Result<ServerAnswer, Silence>, Code> {
        let request = outgoing
            .and_then(|outgoing| outgoing.to(url))
            .ok_or(failure::INTERNAL)?;
        Ok(exchange::send(url, &self.tls, request, patience).await)
    }

    fn compare_clocks(&self, answer: &ServerAnswer) {
        let now = self.clock.now();
        if let Some(theirs) = answer.date()
            && theirs.duration_since(now).abs() > CLOCK_SKEW
        {
            let issuer = self.settings.issuer.as_str();
            tracing::warn!(issuer, ours = %now, %theirs, "the identity server's clock differs from ours by over 30 s");
        }
    }

    fn left(&self, asked: &Asked) -> Duration {
        let end = asked.expires_at.saturating_add(GRACE).unwrap_or(Timestamp::MAX);
        let left = end.duration_since(self.clock.now()) + SignedDuration::from_secs(1);
        Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1))
    }

    fn keep_running(&self, asked: &Asked, polling: Polling, grant: Option<(Box<Grant>, Instant)>) {
        let until = later(asked.expires_at, 2 * KEPT_GRANT.as_secs());
        let now = self.clock.now();
        let mut running = locked(&self.running);
        // Drops questions that were never polled again.
        running.retain(|handle, running| {
            let live = running.until > now;
            if !live {
                locked(&self.notifications).remove(handle);
            }
            live
        });
        running.insert(asked.handle.clone(), Running { polling, grant, until });
    }

    fn ended(&self, asked: &Asked, question_status: QuestionStatus) -> QuestionStatus {
        locked(&self.notifications).remove(&asked.handle);
        question_status
    }
}

enum Verdict {
    Done(QuestionStatus),
    /// The keys are not available yet: try again after this long.
    Later(Duration),
}

impl Verdict {
    fn failed(failure: Failure) -> Self {
        Self::Done(QuestionStatus::Failed(failure))
    }
}

impl<V: Verifier> Backend for Ciba<V> {
    fn name(&self) -> &'static str {
        "ciba"
    }

    fn start<'a>(&'a self, question: &'a Question) -> Reply<'a, Result<Asked, Failure>> {
        Box::pin(self.ask(question))
    }

    fn poll<'a>(&'a self, question: &'a Question, asked: &'a mut Asked) -> Reply<'a, QuestionStatus> {
        Box::pin(self.look(question, asked))
    }
}

fn later(from: Timestamp, seconds: u64) -> Timestamp {
    let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    from.saturating_add(seconds).unwrap_or(Timestamp::MAX)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
