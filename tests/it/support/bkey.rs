//! A fake BKey on loopback: endpoints as in its OpenAPI and SDKs, its own keys, and faults on the way to it. `bkey-sdk`
//! works with it, which shows that it resembles BKey (tests/ciba.rs).

// Two test programs use it, each a part of it.
#![allow(dead_code)]

#[path = "bkey_payments.rs"]
pub(crate) mod payments;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use payments::Payments;

pub(crate) const CLIENT_ID: &str = "bkey_client_of_the_tests";
pub(crate) const CLIENT_SECRET: &str = "bkey_secret_of+the/tests";
pub(crate) const APPROVER: &str = "did:bkey:zApproverOne";

/// How a poll is answered (approvals §4.5): it is not publicly known which of these BKey uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// 400 and `error`: the OpenAPI, and the TypeScript SDK.
    Oauth,
    /// 200 and `status`: the Python SDK.
    Status,
    /// 200 and both.
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Discovery,
    Keys,
    LogIn,
    Ask,
    Look,
    Wallet,
    OrderAuthorization,
    LookAuthorization,
    OrderToken,
    LookToken,
    Other,
}

/// What happens to a call on its way.
#[derive(Clone, Debug)]
pub(crate) enum Mishap {
    None,
    /// The connection ends before BKey has acted on it.
    CutBefore,
    /// BKey acts on it, but its answer is lost.
    CutAfter,
    /// An answer from a proxy in front of BKey, which never sees the call.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// For a poll: too fast.
    SlowDown,
    /// For a question: this message cannot be shown.
    BindingMessage,
    /// For a question: the token is no longer valid.
    TokenRefused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Approved,
    Denied,
    Expired,
}

/// A call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Arrived {
    pub call: Call,
    pub headers: HeaderMap,
    pub body: String,
}

struct Asked {
    question: Value,
    decision: Option<Decision>,
    spent: bool,
}

struct Key {
    kid: String,
    pair: Ed25519KeyPair,
}

struct State {
    base: String,
    dialect: Dialect,
    /// Seconds; an hour by default, as at BKey.
    agent_token_lives: u64,
    keys_max_age: Option<u64>,
    issuer: Option<String>,
    /// The subject of its tokens; `None`: the person who was asked.
    subject: Option<String>,
    /// The interval it requires between two polls.
    interval: u64,
    /// Takes a question as a form, and offers ping mode.
    standard: bool,
    /// Additional claims of its tokens.
    claims: Value,
    keys: Vec<Key>,
    /// Whether the newest key is published.
    hidden: bool,
    agent_tokens: Vec<String>,
    asked: BTreeMap<String, Asked>,
    /// The immediate answers to the next questions.
    decided: VecDeque<Decision>,
    mishaps: BTreeMap<Call, VecDeque<Mishap>>,
    arrived: Vec<Arrived>,
    tokens: Vec<String>,
    payments: Payments,
}

pub(crate) struct FakeBkey {
    pub base: String,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

type Answer = (u16, Vec<(&'static str, String)>, String);

impl FakeBkey {
    pub(crate) fn start(dialect: Dialect) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State {
            base: base.clone(),
            dialect,
            agent_token_lives: 3600,
            keys_max_age: None,
            issuer: None,
            subject: None,
            interval: 5,
            standard: false,
            claims: json!({}),
            keys: vec![key("k1")],
            hidden: false,
            agent_tokens: Vec::new(),
            asked: BTreeMap::new(),
            decided: VecDeque::new(),
            mishaps: BTreeMap::new(),
            arrived: Vec::new(),
            tokens: Vec::new(),
            payments: Payments::default(),
        }));
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = state.clone();
        let serving = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let service = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { served(&shared, request).await }
                });
                tokio::spawn(async move {
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        };
        // Its own thread, because a test may block its own while it waits for an SDK.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serving => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            base,
            state,
            _stop: stop,
        }
    }

    /// Applies to the next calls of this kind, in this order.
    pub(crate) fn mishaps(&self, call: Call, mishaps: &[Mishap]) {
        let mut state = self.state.lock().unwrap();
        state.mishaps.entry(call).or_default().extend(mishaps.iter().cloned());
    }

    /// Until [`FakeBkey::mend`].
    pub(crate) fn break_down(&self, call: Call) {
        self.mishaps(call, &vec![Mishap::Answer(503, Vec::new(), String::new()); 1000]);
    }

    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().mishaps.clear();
    }

    pub(crate) fn decide(&self, handle: &str, decision: Decision) {
        self.state.lock().unwrap().asked.get_mut(handle).unwrap().decision = Some(decision);
    }

    /// For a question that has not been asked yet.
    pub(crate) fn decide_next(&self, decision: Decision) {
        self.state.lock().unwrap().decided.push_back(decision);
    }

    /// A new key signs from now on, and is published.
    pub(crate) fn rotate(&self) {
        let mut state = self.state.lock().unwrap();
        let kid = format!("k{}", state.keys.len() + 1);
        state.keys.push(key(&kid));
        state.hidden = false;
    }

    /// A new key signs, but is not published.
    pub(crate) fn rotate_in_secret(&self) {
        self.rotate();
        self.state.lock().unwrap().hidden = true;
    }

    pub(crate) fn agent_tokens_live(&self, seconds: u64) {
        self.state.lock().unwrap().agent_token_lives = seconds;
    }

    pub(crate) fn keys_are_good_for(&self, seconds: u64) {
        self.state.lock().unwrap().keys_max_age = Some(seconds);
    }

    /// Sets the subject of tokens.
    pub(crate) fn answers_as(&self, subject: &str) {
        self.state.lock().unwrap().subject = Some(subject.to_owned());
    }

    /// As servers do that follow CIBA to the letter.
    pub(crate) fn is_standard(&self) {
        self.state.lock().unwrap().standard = true;
    }

    pub(crate) fn looks_are_every(&self, seconds: u64) {
        self.state.lock().unwrap().interval = seconds;
    }

    /// Adds claims to those that tokens always have.
    pub(crate) fn tokens_say(&self, claims: Value) {
        self.state.lock().unwrap().claims = claims;
    }

    /// The handle of each question, by the approver it was put to.
    pub(crate) fn handles_by_approver(&self) -> BTreeMap<String, String> {
        let state = self.state.lock().unwrap();
        let asked = state.asked.iter().map(|(handle, asked)| {
            let approver = asked.question["login_hint"].as_str().unwrap_or_default();
            (approver.to_owned(), handle.clone())
        });
        asked.collect()
    }

    /// Handles, oldest first.
    pub(crate) fn handles(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.keys().cloned().collect()
    }

    /// The issuer according to its metadata.
    pub(crate) fn calls_itself(&self, issuer: &str) {
        self.state.lock().unwrap().issuer = Some(issuer.to_owned());
    }

    pub(crate) fn arrived(&self, call: Call) -> Vec<Arrived> {
        let state = self.state.lock().unwrap();
        let arrived = state.arrived.iter().filter(|arrived| arrived.call == call);
        arrived.cloned().collect()
    }

    pub(crate) fn count(&self, call: Call) -> usize {
        self.arrived(call).len()
    }

    /// Questions as they appear on the person's phone.
    pub(crate) fn questions(&self) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.asked.values().map(|asked| asked.question.clone()).collect()
    }

    /// Its payment endpoints.
    pub(crate) fn payments<T>(&self, with: impl FnOnce(&mut Payments) -> T) -> T {
        with(&mut self.state.lock().unwrap().payments)
    }

    /// Every token that was ever issued.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.tokens.iter().chain(&state.agent_tokens).cloned().collect()
    }
}

async fn served(state: &Mutex<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "went away")?.to_bytes();
    let body = String::from_utf8(body.to_vec()).map_err(|_| "no text")?;
    let mut state = state.lock().unwrap();
    let form = fields(&body);
    let grant = form.get("grant_type").map(String::as_str);
    let call = match (&head.method, head.uri.path(), grant) {
        (&Method::GET, "/.well-known/openid-configuration", _) => Call::Discovery,
        (&Method::GET, "/oauth/jwks", _) => Call::Keys,
        (&Method::POST, "/oauth/token", Some("client_credentials")) => Call::LogIn,
        (&Method::POST, "/oauth/token", Some("urn:openid:params:grant-type:ciba")) => Call::Look,
        (&Method::POST, "/oauth/bc-authorize", _) => Call::Ask,
        (&Method::GET, "/v1/x402/wallet", _) => Call::Wallet,
        (&Method::POST, "/v1/x402/authorize", _) => Call::OrderAuthorization,
        (&Method::POST, "/v1/mpp/authorize", _) => Call::OrderToken,
        (&Method::GET, path, _) if path.starts_with("/v1/x402/authorize/") => Call::LookAuthorization,
        (&Method::GET, path, _) if path.starts_with("/v1/mpp/authorize/") => Call::LookToken,
        _ => Call::Other,
    };
    state.arrived.push(Arrived {
        call,
        headers: head.headers.clone(),
        body: body.clone(),
    });
    let mishap = state.mishaps.get_mut(&call).and_then(VecDeque::pop_front);
    let (status, headers, text) = match mishap.clone().unwrap_or(Mishap::None) {
        Mishap::CutBefore => return Err("cut off"),
        Mishap::Answer(status, headers, text) => (status, headers, text),
        Mishap::SlowDown => undecided(state.dialect, "slow_down"),
        Mishap::BindingMessage => error(400, "invalid_binding_message"),
        Mishap::TokenRefused => error(401, "invalid_client"),
        Mishap::None | Mishap::CutAfter => {
            let id = head.uri.path().rsplit('/').next().unwrap_or_default();
            state.answer(call, id, &head.headers, &form, &body)
        }
    };
    if matches!(mishap, Some(Mishap::CutAfter)) {
        return Err("cut off");
    }
    let mut response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(text)).unwrap())
}

impl State {
    fn answer(
        &mut self,
        call: Call,
        id: &str,
        headers: &HeaderMap,
        form: &BTreeMap<String, String>,
        body: &str,
    ) -> Answer {
        let kind = headers.get("content-type").map_or("", |value| value.to_str().unwrap());
        match call {
            Call::Discovery => self.metadata(),
            Call::Keys => self.jwks(),
            // The OpenAPI allows only a form.
            Call::LogIn | Call::Look if kind != "application/x-www-form-urlencoded" => error(400, "invalid_request"),
            Call::LogIn | Call::Look if !is_client(form) => error(401, "invalid_client"),
            Call::LogIn => self.log_in(),
            Call::Look => self.look(form),
            Call::Ask if self.standard && is_client(form) => self.ask_standard(form),
            Call::Ask if kind != "application/json" => error(400, "invalid_request"),
            Call::Ask => self.ask(headers, body),
            Call::Other => error(400, "unsupported_grant_type"),
            _ if !self.is_agent(headers) => payments::refusal(401, "unauthorized"),
            Call::Wallet => self.payments.wallet(),
            Call::OrderAuthorization => self.payments.order_authorization(body),
            Call::OrderToken => self.payments.order_token(body),
            Call::LookAuthorization => self.payments.look(id, self.dialect, payments::Kind::Authorization),
            Call::LookToken => self.payments.look(id, self.dialect, payments::Kind::Token),
        }
    }

    fn metadata(&self) -> Answer {
        let base = &self.base;
        ok(&json!({
            "issuer": self.issuer.as_ref().unwrap_or(base),
            "userinfo_endpoint": format!("{base}/userinfo"),
            "jwks_uri": format!("{base}/oauth/jwks"),
            "token_endpoint": format!("{base}/oauth/token"),
            "device_authorization_endpoint": format!("{base}/oauth/device/code"),
            "backchannel_authentication_endpoint": format!("{base}/oauth/bc-authorize"),
            "revocation_endpoint": format!("{base}/oauth/revoke"),
            "grant_types_supported": ["client_credentials", "refresh_token", "urn:openid:params:grant-type:ciba"],
            "backchannel_token_delivery_modes_supported": if self.standard { json!(["poll", "ping"]) } else { json!(["poll"]) },
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "scopes_supported": ["openid", "approve:action", "approve:payment"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
        }))
    }

    fn jwks(&self) -> Answer {
        let shown = self.keys.len() - usize::from(self.hidden);
        // The keys of earlier tokens are kept as long as there is room.
        let keys = self.keys[..shown].iter().rev().take(2).map(|key| {
            let x = URL_SAFE_NO_PAD.encode(key.pair.public_key());
            json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x })
        });
        let mut answer = ok(&json!({ "keys": keys.collect::<Vec<_>>() }));
        if let Some(seconds) = self.keys_max_age {
            answer.1.push(("cache-control", format!("public, max-age={seconds}")));
        }
        answer
    }

    fn log_in(&mut self) -> Answer {
        let token = self.signed(CLIENT_ID);
        self.agent_tokens.push(token.clone());
        ok(&json!({
            "access_token": token, "token_type": "Bearer", "expires_in": self.agent_token_lives,
            "scope": "approve:payment",
        }))
    }

    fn is_agent(&self, headers: &HeaderMap) -> bool {
        let bearer = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        bearer.is_some_and(|token| self.agent_tokens.iter().any(|known| known == token))
    }

    fn ask(&mut self, headers: &HeaderMap, body: &str) -> Answer {
        if !self.is_agent(headers) {
            return error(401, "invalid_client");
        }
        let Ok(question) = serde_json::from_str::<Value>(body) else {
            return error(400, "invalid_request");
        };
        let details = &question["action_details"];
        let described = details.is_null() || details["type"].is_string() && details["description"].is_string();
        let amount = details.get("amount").is_none_or(Value::is_number);
        let expiry = question.get("requested_expiry").map_or(Some(300), Value::as_u64);
        let hint = question["login_hint"].as_str().unwrap_or_default();
        if !hint.starts_with("did:bkey:") || !described || !amount || !expiry.is_some_and(|s| (30..=600).contains(&s)) {
            return error(400, "invalid_request");
        }
        let scopes: Vec<&str> = question["scope"].as_str().unwrap_or_default().split(' ').collect();
        if !scopes.iter().any(|scope| scope.starts_with("approve:")) {
            return error(400, "invalid_scope");
        }
        let handle = format!("ciba_{:04}", self.asked.len() + 1);
        let asked = Asked {
            question,
            decision: self.decided.pop_front(),
            spent: false,
        };
        self.asked.insert(handle.clone(), asked);
        ok(&json!({ "auth_req_id": handle, "expires_in": expiry, "interval": self.interval }))
    }

    fn ask_standard(&mut self, form: &BTreeMap<String, String>) -> Answer {
        let handle = format!("ciba_{:04}", self.asked.len() + 1);
        let asked = Asked {
            question: json!(form),
            decision: self.decided.pop_front(),
            spent: false,
        };
        self.asked.insert(handle.clone(), asked);
        ok(&json!({ "auth_req_id": handle, "expires_in": 300, "interval": self.interval }))
    }

    fn look(&mut self, form: &BTreeMap<String, String>) -> Answer {
        let dialect = self.dialect;
        let handle = form.get("auth_req_id").cloned().unwrap_or_default();
        let Some(asked) = self.asked.get_mut(&handle).filter(|asked| !asked.spent) else {
            return error(400, "invalid_grant");
        };
        match asked.decision {
            None => undecided(dialect, "authorization_pending"),
            Some(Decision::Denied) => decided(dialect, "access_denied", "denied"),
            Some(Decision::Expired) => decided(dialect, "expired_token", "expired"),
            Some(Decision::Approved) => {
                asked.spent = true;
                let scope = asked.question["scope"].clone();
                let mut claims = self.claims.clone();
                claims["sub"] = self
                    .subject
                    .as_ref()
                    .map_or(asked.question["login_hint"].clone(), |of| json!(of));
                claims["scope"] = scope.clone();
                let token = self.signed_with(&claims);
                self.tokens.push(token.clone());
                let mut answer = json!({
                    "access_token": token, "token_type": "Bearer", "expires_in": 300, "scope": scope,
                    "refresh_token": "never to be kept",
                });
                if dialect != Dialect::Oauth {
                    answer["status"] = json!("approved");
                }
                ok(&answer)
            }
        }
    }

    fn signed(&self, subject: &str) -> String {
        self.signed_with(&json!({ "sub": subject, "scope": "approve:payment" }))
    }

    fn signed_with(&self, claims: &Value) -> String {
        let now = Timestamp::now().as_second();
        let key = self.keys.last().unwrap();
        let mut claims = claims.clone();
        claims["iss"] = json!(self.base);
        claims["aud"] = json!(CLIENT_ID);
        claims["client_id"] = json!(CLIENT_ID);
        if claims.get("jti").is_none() {
            claims["jti"] = json!(format!("jti-{}-{}", self.tokens.len(), self.agent_tokens.len()));
        }
        claims["iat"] = json!(now);
        if claims.get("exp").is_none() {
            claims["exp"] = json!(now + 300);
        }
        let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": key.kid });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signature = key.pair.sign(format!("{header}.{claims}").as_bytes());
        format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn key(kid: &str) -> Key {
    let pair = Ed25519KeyPair::generate().unwrap();
    Key {
        kid: kid.to_owned(),
        pair,
    }
}

fn is_client(form: &BTreeMap<String, String>) -> bool {
    let is = |name: &str, wanted: &str| form.get(name).is_some_and(|value| value == wanted);
    is("client_id", CLIENT_ID) && is("client_secret", CLIENT_SECRET)
}

fn ok(json: &Value) -> Answer {
    (200, Vec::new(), json.to_string())
}

fn error(status: u16, error: &str) -> Answer {
    (status, Vec::new(), json!({ "error": error }).to_string())
}

fn undecided(dialect: Dialect, error: &str) -> Answer {
    decided(dialect, error, "pending")
}

fn decided(dialect: Dialect, error: &str, status: &str) -> Answer {
    match dialect {
        Dialect::Oauth => self::error(400, error),
        Dialect::Status if error == "slow_down" => self::error(400, error),
        Dialect::Status => ok(&json!({ "status": status })),
        Dialect::Both => ok(&json!({ "status": status, "error": error })),
    }
}

pub(crate) fn fields(form: &str) -> BTreeMap<String, String> {
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (unescaped(name), unescaped(value)))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)];
                u8::from_str_radix(str::from_utf8(&digits).unwrap_or_default(), 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}
