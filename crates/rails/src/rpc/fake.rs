//! A node for tests that answers whatever the test wants.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alloy_primitives::{B256, keccak256};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Node;
use bursar_net::tls::upstream::{Trust, UpstreamTls};

pub mod chain;

/// Stops when it is dropped.
pub struct Fake {
    port: u16,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Fake {
    /// `reply` gets the method and the parameters, and returns the member `result` or `error`.
    pub async fn replying(reply: impl Fn(&str, &Value) -> Value + Send + Sync + 'static) -> Self {
        Self::with_status(StatusCode::OK, reply).await
    }

    pub async fn of(chain: chain::Chain) -> Self {
        Self::replying(move |method, params| chain.answer(method, params)).await
    }

    pub(crate) async fn with_status(
        status: StatusCode,
        reply: impl Fn(&str, &Value) -> Value + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (asked, reply) = (Arc::new(AtomicUsize::new(0)), Arc::new(reply));
        let counted = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reply, asked) = (reply.clone(), asked.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (reply, asked) = (reply.clone(), asked.clone());
                    async move {
                        asked.fetch_add(1, Ordering::Relaxed);
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let call: Value = serde_json::from_slice(&body).unwrap();
                        let said = reply(call["method"].as_str().unwrap(), &call["params"]).to_string();
                        let mut response = Response::new(Full::new(Bytes::from(said)));
                        *response.status_mut() = status;
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            port,
            asked: counted,
            task,
        }
    }

    pub fn node(&self) -> Node {
        Node::new(format!("http://127.0.0.1:{}/key", self.port).parse().unwrap())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many questions it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For nodes on plain HTTP.
pub fn tls() -> UpstreamTls {
    UpstreamTls::new(&Trust::default(), Duration::from_secs(1)).unwrap()
}

/// The number that a block parameter names.
pub fn number(parameter: &Value) -> u64 {
    u64::from_str_radix(parameter.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

pub fn hash(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

pub fn block(number: u64, timestamp: u64) -> Value {
    json!({
        "number": format!("{number:#x}"),
        "hash": hash(number),
        "timestamp": format!("{timestamp:#x}"),
        "transactions": [],
    })
}
