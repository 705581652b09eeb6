//! Serves the Stripe sandbox over HTTP: next to the shop over TLS, or on its own loopback socket for tests.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ::http::{HeaderValue, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::StripeSandbox;
use crate::replies::{Content, content};

/// The largest form that is read, in bytes.
const MAX_FORM: usize = 64 << 10;

/// Whether a path belongs to Stripe, where it shares an address with the shop.
pub fn takes(path: &str) -> bool {
    let ours = ["shared_payment", "test_helpers", "payment_intents"];
    path.strip_prefix("/v1/")
        .and_then(|rest| rest.split('/').next())
        .is_some_and(|first| ours.contains(&first))
}

/// A sandbox on its own socket. Stops when dropped.
pub struct Listening {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Listening {
    /// `http://127.0.0.1:PORT`
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl StripeSandbox {
    /// Reads one complete request and answers it.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Content>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let body = match Limited::new(body, MAX_FORM).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let status = match error.is::<LengthLimitError>() {
                    true => StatusCode::PAYLOAD_TOO_LARGE,
                    false => StatusCode::BAD_REQUEST,
                };
                return content(status, "application/json", Bytes::from_static(b"{}"));
            }
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = self.answer(&head.method, path, &head.headers, &body);
        let mut response = content(answer.status, "application/json", answer.json.to_string().into());
        response.headers_mut().extend(answer.headers);
        let no_store = HeaderValue::from_static("no-cache, no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, no_store);
        response
    }

    /// Listens on a free port of 127.0.0.1, unencrypted. Must be called within a Tokio runtime.
    pub async fn listen(self: Arc<Self>) -> io::Result<Listening> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            let serving = self.serve(listener, stopped.clone());
            tokio::select! {
                () = serving => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(Listening {
            address,
            _stop: stop.drop_guard(),
        })
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        while let Ok((stream, _)) = listener.accept().await {
            let (stripe, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let stripe = stripe.clone();
                    async move { Ok::<_, Infallible>(stripe.respond(request).await) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}
