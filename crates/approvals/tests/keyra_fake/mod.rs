//! A fake KEYRA built from its documentation: real HTTP, the approver's device, webhooks, and the faults that a network
//! service can have. It shares no code with the client.

// Two test binaries use it, each only in part.
#![allow(dead_code)]

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar_core::clock::SharedClock;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, LOCATION, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const KEY: &str = "sk_test_fake_9f2c";
pub(crate) const SECRET: &str = "whsec_fake_51d0";
/// The device paired with the fake.
pub(crate) const DEVICE: &str = "dev_7";
const DEVICE_SECRET: &[u8] = b"kept in the device";

/// What happens to one request.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    Answer {
        status: u16,
        code: Option<&'static str>,
    },
    Later {
        status: u16,
        retry_after: &'static str,
    },
    /// Close the connection before doing anything.
    CutBefore,
    /// Handle the request, then close without a response.
    CutAfter,
    /// Handle the request, then cut the response in the middle.
    CutWithin,
    /// Handle the request, then never respond.
    Silence,
    /// Handle the request, but respond with this body.
    Instead(&'static str),
    /// Handle the request, but change the response.
    Changed(fn(&mut Value)),
    /// Handle the request, but send a response longer than any challenge.
    Endless,
    Redirect,
}

/// What responses have beyond the documented members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Echoes {
    Nothing,
    Everything,
}

#[derive(Clone)]
pub(crate) struct Seen {
    pub call: String,
    pub authorization: String,
    pub body: Value,
}

struct Challenge {
    order: Value,
    status: String,
    expires_at: Timestamp,
    /// The attestation, once GET shows it.
    shown: Option<Value>,
    verified: bool,
}

pub(crate) struct FakeKeyra {
    pub base: String,
    clock: SharedClock,
    echoes: Echoes,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    challenges: BTreeMap<String, Challenge>,
    faults: VecDeque<Fault>,
    seen: Vec<Seen>,
    events: u32,
}

impl FakeKeyra {
    pub(crate) async fn listening(clock: SharedClock, echoes: Echoes) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            base: format!("http://{}", listener.local_addr().unwrap()),
            clock,
            echoes,
            inside: Mutex::default(),
        });
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = serving.clone();
                let service = service_fn(move |request| fake.clone().serve(request));
                // Faults end the connection with an error; that is intended.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    /// Faults for the next requests, one each.
    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut inside = self.inside.lock().unwrap();
        assert!(inside.faults.is_empty(), "faults are left over");
        inside.faults.extend(faults);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inside.lock().unwrap().seen.clone()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.call).collect()
    }

    pub(crate) fn challenges(&self) -> Vec<String> {
        self.inside.lock().unwrap().challenges.keys().cloned().collect()
    }

    /// Whether the challenge was verified over the API.
    pub(crate) fn is_verified(&self, id: &str) -> bool {
        self.inside.lock().unwrap().challenges[id].verified
    }

    /// Sets the status directly, however it would have come about.
    pub(crate) fn set_status(&self, id: &str, status: &str) {
        let mut inside = self.inside.lock().unwrap();
        inside.challenges.get_mut(id).unwrap().status = status.to_owned();
    }

    /// The approver agrees on their device. Returns the attestation for the caller to pass on.
    pub(crate) fn attest(&self, id: &str) -> Value {
        let inside = self.inside.lock().unwrap();
        json!({ "format": "fake", "signature": signed_by_device(id, &inside.challenges[id].order) })
    }

    /// Like [`Self::attest`], but GET shows the attestation from now on.
    pub(crate) fn attest_and_show(&self, id: &str) {
        let attestation = self.attest(id);
        self.show(id, attestation);
    }

    pub(crate) fn show(&self, id: &str, attestation: Value) {
        let mut inside = self.inside.lock().unwrap();
        inside.challenges.get_mut(id).unwrap().shown = Some(attestation);
    }

    /// The body of an event with a fresh id.
    pub(crate) fn event(&self, kind: &str, data: &Value) -> Vec<u8> {
        let mut inside = self.inside.lock().unwrap();
        inside.events += 1;
        let id = format!("evt_{}", inside.events);
        json!({ "id": id, "type": kind, "createdAt": self.clock.now(), "data": data })
            .to_string()
            .into_bytes()
    }

    async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Part>, &'static str> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| "the request was cut")?.to_bytes();
        let body: Value = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).map_err(|_| "the request is not JSON")?,
        };
        let authorization = head
            .headers
            .get(AUTHORIZATION)
            .map_or("", |value| value.to_str().unwrap());
        let fault = {
            let mut inside = self.inside.lock().unwrap();
            inside.seen.push(Seen {
                call: format!("{} {}", head.method, head.uri.path()),
                authorization: authorization.to_owned(),
                body: body.clone(),
            });
            inside.faults.pop_front()
        };
        let done = || self.answer(&head.method, head.uri.path(), authorization, &body);
        let done_but = |text: String| {
            done();
            Ok(whole(StatusCode::OK, text))
        };
        match fault {
            None => {
                let (status, body) = done();
                Ok(whole(status, body.to_string()))
            }
            Some(Fault::Answer { status, code }) => {
                let status = StatusCode::from_u16(status).unwrap();
                Ok(whole(status, json!({ "code": code, "message": "as told" }).to_string()))
            }
            Some(Fault::Later { status, retry_after }) => {
                let mut response = whole(StatusCode::from_u16(status).unwrap(), String::new());
                response.headers_mut().insert(RETRY_AFTER, retry_after.parse().unwrap());
                Ok(response)
            }
            Some(Fault::Redirect) => {
                let mut response = whole(StatusCode::TEMPORARY_REDIRECT, String::new());
                let there = format!("{}{}", self.base, head.uri.path());
                response.headers_mut().insert(LOCATION, there.parse().unwrap());
                Ok(response)
            }
            Some(Fault::CutBefore) => Err("cut before"),
            Some(Fault::CutAfter) => {
                done();
                Err("cut after")
            }
            Some(Fault::CutWithin) => {
                let (status, body) = done();
                let text = body.to_string();
                let mut response = Response::new(Part::Cut(Some(text[..text.len() / 2].to_owned().into())));
                *response.status_mut() = status;
                response.headers_mut().insert(CONTENT_LENGTH, text.len().into());
                Ok(response)
            }
            Some(Fault::Silence) => {
                done();
                std::future::pending().await
            }
            Some(Fault::Instead(text)) => done_but(text.to_owned()),
            Some(Fault::Changed(change)) => {
                let (status, mut body) = done();
                change(&mut body);
                Ok(whole(status, body.to_string()))
            }
            Some(Fault::Endless) => {
                let (_, mut body) = done();
                body["padding"] = "x".repeat(1 << 20).into();
                Ok(whole(StatusCode::OK, body.to_string()))
            }
        }
    }

    fn answer(&self, method: &Method, path: &str, authorization: &str, body: &Value) -> (StatusCode, Value) {
        let refused = |status: StatusCode, code: &str| (status, json!({ "code": code, "message": code }));
        if authorization != format!("Bearer {KEY}") {
            return refused(StatusCode::UNAUTHORIZED, "invalid_api_key");
        }
        let mut inside = self.inside.lock().unwrap();
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, segments.as_slice()) {
            (&Method::POST, ["v1", "challenges"]) => {
                let is_whole = body["action"].is_string() && body["userId"].is_string() && body["payload"].is_object();
                let Some(seconds) = body["expiresIn"].as_i64().filter(|_| is_whole) else {
                    return refused(StatusCode::BAD_REQUEST, "invalid_request");
                };
                let id = format!("chl_{}", inside.challenges.len() + 1);
                let challenge = Challenge {
                    order: body.clone(),
                    status: "pending".to_owned(),
                    expires_at: self.clock.now() + SignedDuration::from_secs(seconds),
                    shown: None,
                    verified: false,
                };
                let created = json!({ "id": id, "status": "pending", "expiresAt": challenge.expires_at });
                inside.challenges.insert(id, challenge);
                (StatusCode::CREATED, created)
            }
            (&Method::GET, ["v1", "challenges", id]) => match inside.challenges.get(*id) {
                Some(challenge) => (StatusCode::OK, self.created(id, challenge)),
                None => refused(StatusCode::NOT_FOUND, "challenge_not_found"),
            },
            (&Method::POST, ["v1", "challenges", id, "verify"]) => {
                let Some(challenge) = inside.challenges.get_mut(*id) else {
                    return refused(StatusCode::NOT_FOUND, "challenge_not_found");
                };
                let right = signed_by_device(id, &challenge.order);
                if challenge.verified {
                    refused(StatusCode::CONFLICT, "challenge_already_used")
                } else if self.clock.now() >= challenge.expires_at {
                    refused(StatusCode::GONE, "challenge_expired")
                } else if body["deviceId"] != DEVICE {
                    refused(StatusCode::NOT_FOUND, "device_not_found")
                } else if body["attestation"]["signature"] != right {
                    refused(StatusCode::UNPROCESSABLE_ENTITY, "attestation_invalid")
                } else {
                    challenge.verified = true;
                    challenge.status = "approved".to_owned();
                    (StatusCode::OK, self.created(id, challenge))
                }
            }
            _ => refused(StatusCode::NOT_FOUND, "not_found"),
        }
    }

    fn created(&self, id: &str, challenge: &Challenge) -> Value {
        let mut created = json!({ "id": id, "status": challenge.status, "expiresAt": challenge.expires_at });
        if self.echoes == Echoes::Everything {
            for member in ["action", "userId", "payload"] {
                created[member] = challenge.order[member].clone();
            }
        }
        if let Some(attestation) = &challenge.shown {
            created["attestation"] = attestation.clone();
            created["deviceId"] = DEVICE.into();
        }
        created
    }
}

/// The device's signature over the challenge id and its payload.
fn signed_by_device(id: &str, order: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, DEVICE_SECRET);
    STANDARD.encode(hmac::sign(&key, format!("{id} {}", order["payload"]).as_bytes()))
}

/// Sends a webhook signed in hex with `secret`, and returns the response status.
pub(crate) async fn send_webhook(to: SocketAddr, secret: &str, event: &[u8]) -> u16 {
    send_webhook_to(to, "/v1/keyra/webhook", secret, event).await
}

pub(crate) async fn send_webhook_to(to: SocketAddr, path: &str, secret: &str, event: &[u8]) -> u16 {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = alloy_primitives::hex::encode(hmac::sign(&key, event));
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\nkeyra-signature: {signature}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        event.len()
    );
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(&[head.as_bytes(), event].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn whole(status: StatusCode, text: String) -> Response<Part> {
    let mut response = Response::new(Part::Whole(Some(text.into())));
    *response.status_mut() = status;
    response
}

/// A body, or the part of it that is sent before the connection is cut.
pub(crate) enum Part {
    Whole(Option<Bytes>),
    Cut(Option<Bytes>),
}

impl Body for Part {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match &mut *self {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Cut(bytes) => Some(bytes.take().map(Frame::data).ok_or_else(|| "cut within".into())),
        })
    }
}

/// A webhook receiver for tests without a proxy.
pub(crate) async fn receiver(
    receive: impl Fn(&http::HeaderMap, &[u8]) -> StatusCode + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let receive = Arc::new(receive);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let receive = receive.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let receive = receive.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    Ok::<_, Infallible>(whole(receive(&head.headers, &body), String::new()))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}
