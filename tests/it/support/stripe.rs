//! The sandbox's Stripe on loopback, with faults on the way to it, and a seller that charges the tokens it gets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use ::bursar_core::clock::SystemClock;
use ::bursar_sandbox::stripe::{Counters, StripeSandbox};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::mpp::{Challenge, decoded, encoded, evm};
use super::origin::{Answer, Origin, answer};

/// Test keys that only the sandbox knows.
pub(crate) const AGENT_KEY: &str = "sk_test_agent_of_the_tests";
pub(crate) const SELLER_KEY: &str = "sk_test_seller_of_the_tests";
pub(crate) const PROFILE: &str = "profile_test_lab";

/// What happens to a call on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    None,
    /// The connection ends before Stripe has read the call.
    Unread,
    /// Stripe acts on it, but its answer is lost.
    Unanswered,
    /// Stripe fails internally, before it acts.
    Broken,
}

/// One call as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
}

pub(crate) struct FakeStripe {
    pub base: String,
    pub sandbox: Arc<StripeSandbox>,
    calls: Arc<Mutex<Vec<Call>>>,
    mishaps: Arc<Mutex<VecDeque<Mishap>>>,
    _stop: oneshot::Sender<()>,
}

impl FakeStripe {
    pub(crate) fn start() -> Self {
        let sandbox = StripeSandbox::new(Arc::new(SystemClock), AGENT_KEY).with_seller(SELLER_KEY, PROFILE);
        let (sandbox, calls) = (Arc::new(sandbox), Arc::<Mutex<Vec<Call>>>::default());
        let mishaps = Arc::<Mutex<VecDeque<Mishap>>>::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stripe, log, script) = (sandbox.clone(), calls.clone(), mishaps.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (stripe, log, script) = (stripe.clone(), log.clone(), script.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (stripe, log, script) = (stripe.clone(), log.clone(), script.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let path = head.uri.path().to_owned();
                        let seller = path.starts_with("/v1/payment_intents");
                        log.lock().unwrap().push(Call {
                            method: head.method.clone(),
                            path: path.clone(),
                            headers: head.headers.clone(),
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        });
                        let mishap = match seller {
                            true => Mishap::None,
                            false => script.lock().unwrap().pop_front().unwrap_or(Mishap::None),
                        };
                        match mishap {
                            Mishap::Unread => return Err("cut off"),
                            Mishap::Broken => return Ok(response(StatusCode::BAD_GATEWAY, &HeaderMap::new(), "{}")),
                            Mishap::None | Mishap::Unanswered => {}
                        }
                        let answer = stripe.answer(&head.method, &path, &head.headers, &body);
                        if mishap == Mishap::Unanswered {
                            return Err("cut off");
                        }
                        Ok(response(answer.status, &answer.headers, &answer.json.to_string()))
                    }
                });
                tokio::spawn(async move {
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        };
        // Its own thread, because the test's thread blocks on commands.
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
            sandbox,
            calls,
            mishaps,
            _stop: stop,
        }
    }

    /// Applies to the payer's next calls, in this order.
    pub(crate) fn mishaps(&self, mishaps: &[Mishap]) {
        self.mishaps.lock().unwrap().extend(mishaps);
    }

    /// Applies to all the payer's calls until [`FakeStripe::mend`].
    pub(crate) fn break_down(&self) {
        self.mishaps(&[Mishap::Broken; 10_000]);
    }

    pub(crate) fn mend(&self) {
        self.mishaps.lock().unwrap().clear();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The payer's calls of one kind: `POST /v1/shared_payment/issued_tokens`, say. A token's id is `*`.
    pub(crate) fn called(&self, what: &str) -> usize {
        let is = |call: &&Call| {
            let path: Vec<&str> = call
                .path
                .split('/')
                .map(|part| if part.starts_with("spt_") { "*" } else { part })
                .collect();
            format!("{} {}", call.method, path.join("/")) == what
        };
        self.calls().iter().filter(is).count()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.sandbox.counters()
    }

    /// Minor units charged with all tokens together.
    pub(crate) fn captured(&self) -> u64 {
        self.counters().captured.values().sum()
    }

    /// The section of bursar.toml, with short timeouts.
    pub(crate) fn config(&self) -> String {
        self.config_with("pm_card_visa")
    }

    pub(crate) fn config_with(&self, payment_method: &str) -> String {
        format!(
            "[stripe]\nkey = \"file:stripe.key\"\npayment_method = \"{payment_method}\"\napi_base = \"{}\"\n\
             [timeouts]\nsettle_wait_s = 1\n",
            self.base
        )
    }

    /// Charges a credential once, as a seller does. Returns the PaymentIntent's id, or Stripe's error code.
    pub(crate) fn charge(&self, credential: &str, amount: &str, currency: &str) -> Result<String, String> {
        let credential = decoded(credential);
        let spt = credential["payload"]["spt"].as_str().unwrap();
        let id = credential["challenge"]["id"].as_str().unwrap();
        let mut headers = HeaderMap::new();
        let basic = format!("Basic {}", STANDARD.encode(format!("{SELLER_KEY}:")));
        for (name, value) in [
            ("authorization", basic.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
            ("stripe-version", "2026-07-29.preview"),
            ("idempotency-key", &format!("mpp_{id}_{spt}")),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let form = format!(
            "amount={amount}&automatic_payment_methods%5Ballow_redirects%5D=never&automatic_payment_methods%5Benabled%5D=true\
             &confirm=true&currency={currency}&shared_payment_granted_token={spt}"
        );
        let answer = self
            .sandbox
            .answer(&Method::POST, "/v1/payment_intents", &headers, form.as_bytes());
        match answer.status {
            StatusCode::OK if !answer.headers.contains_key("idempotent-replayed") => {
                Ok(answer.json["id"].as_str().unwrap().to_owned())
            }
            StatusCode::OK => Err("replayed".to_owned()),
            _ => Err(answer.json["error"]["code"].as_str().unwrap_or("error").to_owned()),
        }
    }
}

fn response(status: StatusCode, headers: &HeaderMap, json: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(json.to_owned())));
    *response.status_mut() = status;
    *response.headers_mut() = headers.clone();
    response
        .headers_mut()
        .insert("content-type", "application/json".parse().unwrap());
    response
}

/// `stripe`/`charge` of `amount` cents, with a unique id.
pub(crate) fn stripe(amount: &str) -> Challenge {
    evm("1")
        .with("method", "stripe")
        .with("request", &encoded(&request(amount)))
}

pub(crate) fn request(amount: &str) -> Value {
    json!({
        "amount": amount, "currency": "usd",
        "methodDetails": { "networkId": PROFILE, "paymentMethodTypes": ["card"] }
    })
}

pub(crate) fn receipt(reference: &str) -> String {
    encoded(
        &json!({ "method": "stripe", "reference": reference, "status": "success", "timestamp": "2026-04-01T12:04:58.123Z" }),
    )
}

/// A seller that asks with `asks` and charges what it gets, as the challenge says.
pub(crate) async fn seller(fake: &Arc<FakeStripe>, asks: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Origin {
    let fake = fake.clone();
    Origin::https(move |request| {
        let answer = match request.payment() {
            None => asks(&request.target),
            Some(credential) => sells(&fake, &credential),
        };
        async move { answer }
    })
    .await
}

/// An honest seller's answer to a credential.
pub(crate) fn sells(fake: &FakeStripe, credential: &str) -> Answer {
    let challenge = decoded(credential)["challenge"].clone();
    let asked = decoded(challenge["request"].as_str().unwrap());
    let (amount, currency) = (asked["amount"].as_str().unwrap(), asked["currency"].as_str().unwrap());
    match fake.charge(credential, amount, currency) {
        Ok(intent) => answer(200, &[("payment-receipt", &receipt(&intent))], "goods"),
        Err(code) => {
            let problem = super::mpp::problem("verification-failed");
            answer(402, &[super::mpp::PROBLEM, ("x-why", &code)], problem)
        }
    }
}
