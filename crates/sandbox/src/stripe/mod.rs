//! An in-memory Stripe that issues shared payment tokens and lets sellers charge them, without real money.
//!
//! It reads requests as strictly as the typed API of the npm package `stripe` 22.7.0-beta.1 describes them, and answers
//! in Stripe's shapes; `crates/rails/tests/stripe_shapes.rs` checks both against that package. It shares no code with
//! the client in `bursar_rails::stripe`. Where Stripe documents nothing, the choice is marked "assumed".
//!
//! * `form`: request forms. `faults`: errors. `idempotency`: stored responses. `currencies`: the supported ones.
//! * `token`: one token and its rules. `issuing`: the agent's calls. `charging`: the seller's call. `http`: serving.

mod charging;
mod currencies;
mod faults;
mod form;
mod http;
mod idempotency;
mod issuing;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use bursar_core::clock::{self, SharedClock};
use faults::Fault;
use form::Form;
use idempotency::{Memory, Recall};
use token::Token;

pub use self::http::{Listening, takes};

/// The default key of the account that issues tokens.
pub const AGENT_KEY: &str = "sk_test_sandbox_agent";
/// The key of the sandbox shop's account.
pub const SHOP_KEY: &str = "sk_test_sandbox_shop";
/// The business profile to which tokens for the sandbox shop are issued.
pub(crate) const SHOP_PROFILE: &str = "profile_test_sandboxshop";

/// The sandbox: its accounts and their tokens.
pub struct StripeSandbox {
    clock: SharedClock,
    accounts: Vec<Account>,
    state: Mutex<State>,
}

/// The response to a call.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub json: Value,
}

/// What has happened so far, for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub tokens_issued: u64,
    pub intents_succeeded: u64,
    pub revocations: u64,
    /// Captured amount by token, in minor units; only tokens that were charged.
    pub captured: BTreeMap<String, u64>,
}

struct Account {
    key: SecretString,
    /// The business profile by which tokens are issued to it.
    profile: Option<String>,
}

#[derive(Default)]
struct State {
    tokens: BTreeMap<String, Token>,
    answered: Memory,
    counters: Counters,
}

/// An account's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AccountId(usize);

/// Whether the requested API version has shared payment tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Api {
    Preview,
    Released,
}

/// One call of an authenticated account.
struct Call<'a> {
    account: AccountId,
    now: u64,
    form: &'a Form,
}

type Outcome = Result<Value, Fault>;

impl StripeSandbox {
    /// With one account, which issues tokens and has no business profile.
    pub fn new(clock: SharedClock, agent_key: &str) -> Self {
        let agent = Account {
            key: SecretString::from(agent_key),
            profile: None,
        };
        Self {
            clock,
            accounts: vec![agent],
            state: Mutex::default(),
        }
    }

    /// The Stripe of a sandbox shop: an account that issues tokens, and the shop's account.
    pub fn of_shop(clock: SharedClock, agent_key: &str) -> Self {
        Self::new(clock, agent_key).with_seller(SHOP_KEY, SHOP_PROFILE)
    }

    /// Adds a seller. With the agent's own key, both are one account, to which the test helper grants its tokens.
    #[must_use]
    pub fn with_seller(mut self, key: &str, profile: &str) -> Self {
        match self.accounts.iter_mut().find(|known| known.key.expose_secret() == key) {
            Some(known) => known.profile = Some(profile.to_owned()),
            None => self.accounts.push(Account {
                key: SecretString::from(key),
                profile: Some(profile.to_owned()),
            }),
        }
        self
    }

    /// Answers one call. `path` includes the query; unknown paths get Stripe's 404.
    pub fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let mut answer = match self.dispatch(method, path, headers, body) {
            Ok(answer) => answer,
            Err(fault) => fault.answer(),
        };
        // Stripe's libraries show the request id in their errors.
        let request_id = self::random_id("req_")
            .ok()
            .and_then(|id| HeaderValue::try_from(id).ok());
        if let Some(request_id) = request_id {
            answer.headers.insert(HeaderName::from_static("request-id"), request_id);
        }
        answer
    }

    pub fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Does what the card's holder would do on the page of `next_action`. Returns whether an action was pending.
    pub fn authenticate(&self, token: &str) -> bool {
        self.lock().tokens.get_mut(token).is_some_and(Token::authenticate)
    }

    fn dispatch(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Fault> {
        let account = self.authenticated(headers)?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let api = api(headers);
        let unrecognized = || Fault::unrecognized(method, path);
        let route = Route::of(method, path).ok_or_else(unrecognized)?;
        if api == Api::Released && !matches!(route, Route::Charge) {
            return Err(unrecognized());
        }
        let form = match *method {
            Method::POST => Form::parse(form_text(headers, body)?)?,
            _ => Form::parse(query.as_bytes())?,
        };
        let now = clock::unix_second(self.clock.now());
        let call = Call {
            account,
            now,
            form: &form,
        };
        let mut state = self.lock();
        let Some(key) = idempotency_key(method, headers)? else {
            return Ok(Answer::ok(self.perform(&mut state, &route, api, &call)?));
        };
        match state.answered.recall(account, &key, path, &form, now) {
            Recall::New => {}
            Recall::Same(answer) => return Ok(answer),
            Recall::Other => return Err(Fault::idempotency(&key)),
        }
        let answer = match self.perform(&mut state, &route, api, &call) {
            Ok(json) => Answer::ok(json),
            Err(fault) if fault.is_remembered() => fault.answer(),
            Err(fault) => return Err(fault),
        };
        state.answered.keep(account, key, path, form, now, answer.clone());
        Ok(answer)
    }

    fn perform(&self, state: &mut State, route: &Route<'_>, api: Api, call: &Call<'_>) -> Outcome {
        match route {
            Route::Issue => self.issue(state, call),
            Route::Issued(id) => issuing::retrieve(state, call, id),
            Route::Revoke(id) => issuing::revoke(state, call, id),
            Route::Grant => self.grant(state, call),
            Route::Granted(id) => issuing::granted(state, call, id),
            Route::RevokeGranted(id) => issuing::revoke_granted(state, call, id),
            Route::Charge => charging::charge(state, call, api),
        }
    }

    /// `Basic` with the key as the user name, or `Bearer`.
    fn authenticated(&self, headers: &HeaderMap) -> Result<AccountId, Fault> {
        let field = headers
            .get(AUTHORIZATION)
            .and_then(|field| field.to_str().ok())
            .ok_or_else(Fault::no_key)?;
        let key = match field.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.to_owned(),
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(pair).ok().and_then(|pair| String::from_utf8(pair).ok());
                let pair = pair.ok_or_else(Fault::no_key)?;
                pair.strip_suffix(':').unwrap_or(&pair).to_owned()
            }
            _ => return Err(Fault::no_key()),
        };
        self.accounts
            .iter()
            .position(|account| account.key.expose_secret() == key)
            .map(AccountId)
            .ok_or_else(Fault::wrong_key)
    }

    fn profile_of(&self, account: AccountId) -> Option<&str> {
        self.accounts.get(account.0)?.profile.as_deref()
    }

    fn seller(&self, profile: &str) -> Option<AccountId> {
        self.accounts
            .iter()
            .position(|account| account.profile.as_deref() == Some(profile))
            .map(AccountId)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every call changes the state completely or not at all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn ok(json: Value) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            json,
        }
    }
}

/// The supported calls.
enum Route<'p> {
    Issue,
    Issued(&'p str),
    Revoke(&'p str),
    Grant,
    Granted(&'p str),
    RevokeGranted(&'p str),
    Charge,
}

impl<'p> Route<'p> {
    fn of(method: &Method, path: &'p str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("POST", ["payment_intents"]) => Some(Self::Charge),
            ("POST", ["shared_payment", "issued_tokens"]) => Some(Self::Issue),
            ("GET", ["shared_payment", "issued_tokens", id]) => Some(Self::Issued(id)),
            ("POST", ["shared_payment", "issued_tokens", id, "revoke"]) => Some(Self::Revoke(id)),
            ("GET", ["shared_payment", "granted_tokens", id]) => Some(Self::Granted(id)),
            ("POST", ["test_helpers", "shared_payment", "granted_tokens"]) => Some(Self::Grant),
            ("POST", ["test_helpers", "shared_payment", "granted_tokens", id, "revoke"]) => {
                Some(Self::RevokeGranted(id))
            }
            _ => None,
        }
    }
}

/// Shared payment tokens need a version of the form `YYYY-MM-DD.preview`.
fn api(headers: &HeaderMap) -> Api {
    let date = headers
        .get("stripe-version")
        .and_then(|version| version.to_str().ok()?.strip_suffix(".preview"));
    let is_date = |date: &str| {
        let parts: Vec<&str> = date.split('-').collect();
        let digits = |part: &&str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
        matches!(parts.as_slice(), [year, month, day] if digits(year, 4) && digits(month, 2) && digits(day, 2))
    };
    match date.is_some_and(is_date) {
        true => Api::Preview,
        false => Api::Released,
    }
}

/// The body, if its content type is a form.
fn form_text<'b>(headers: &HeaderMap, body: &'b [u8]) -> Result<&'b [u8], Fault> {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok()?.split(';').next())
        .map(str::trim);
    match media_type {
        Some(kind) if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") => Ok(body),
        None if body.is_empty() => Ok(body),
        _ => Err(Fault::not_a_form()),
    }
}

fn idempotency_key(method: &Method, headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let Some(key) = headers.get("idempotency-key").filter(|_| method == Method::POST) else {
        return Ok(None);
    };
    match key.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Fault::bad_idempotency_key()),
    }
}

/// `prefix` followed by 24 letters and digits.
fn random_id(prefix: &str) -> Result<String, Fault> {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let bytes = clock::random::<24>().map_err(|_| Fault::ours())?;
    // Not uniformly distributed, which ids do not need.
    let letters = bytes
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    Ok(prefix.chars().chain(letters).collect())
}
