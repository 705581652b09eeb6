//! The server's own door: HTTP on a unix socket in `D/run`, for the CLI of the same uid alone (R57).

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use crate::listen::proxy::Proxy;
use bursar_home::Home;
use bursar_ledger::{Event, LedgerError, PaymentId, Resolution};
use bursar_rails::outstanding::{Withdrawal, Withdrawn};

mod approvals;
mod reconcile;

pub use approvals::{Approve, Deny, pending};
pub use reconcile::reconcile;

/// Questions and answers are short.
const CAP: usize = 64 << 10;

/// `bursar payments resolve`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resolve {
    pub id: String,
    pub resolution: Word,
    pub why: String,
}

/// `bursar clock accept`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AcceptClock {
    pub why: String,
}

/// What can be asked, and where.
pub trait Question: Serialize {
    const PATH: &'static str;
}

impl Question for Resolve {
    const PATH: &'static str = "/payments/resolve";
}

impl Question for AcceptClock {
    const PATH: &'static str = "/clock/accept";
}

/// The operator's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Settled,
    Expired,
}

impl From<Word> for Resolution {
    fn from(word: Word) -> Self {
        match word {
            Word::Settled => Self::Settled { tx: None },
            Word::Expired => Self::Expired,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Error)]
pub enum AdminError {
    /// Nobody listens: no server runs on this directory.
    #[error("no server runs on this directory")]
    NoServer,
    #[error("the server could not be asked: {0}")]
    Transport(String),
    #[error("{0}")]
    Refused(String),
}

/// Makes the socket, 0600. One that a killed server left behind is replaced; the directory's lock is ours already.
pub fn bind(home: &Home) -> io::Result<UnixListener> {
    let path = home.admin_socket();
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub async fn serve(proxy: Arc<Proxy>, listener: UnixListener) {
    loop {
        let accepted = tokio::select! {
            () = proxy.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely no file descriptors; asking again at once would only burn time.
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // The file's mode says so already; a socket that was handed on says who really asks.
        let ours = rustix::process::geteuid().as_raw();
        if let Ok(peer) = stream.peer_cred()
            && (peer.uid() == ours || peer.uid() == 0)
        {
            proxy.tasks.spawn(connection(proxy.clone(), stream, peer.uid()));
        }
    }
}

async fn connection(proxy: Arc<Proxy>, stream: UnixStream, uid: u32) {
    let service = service_fn(|request| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(answer(&proxy, request, uid).await) }
    });
    let served = crate::listen::proxy::http1()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn answer(proxy: &Arc<Proxy>, request: Request<Incoming>, uid: u32) -> Response<Full<Bytes>> {
    if (request.method(), request.uri().path()) == (&Method::POST, reconcile::PATH) {
        return reconcile::answer(proxy, request).await;
    }
    if (request.method(), request.uri().path()) == (&Method::POST, approvals::PENDING) {
        return approvals::list(proxy);
    }
    let done = match (request.method(), request.uri().path()) {
        (&Method::POST, Resolve::PATH) => Some(resolve(proxy, request, uid).await),
        (&Method::POST, AcceptClock::PATH) => Some(accept_clock(proxy, request, uid).await),
        (&Method::POST, Approve::PATH) => Some(approvals::approve(proxy, request, uid).await),
        (&Method::POST, Deny::PATH) => Some(approvals::deny(proxy, request, uid).await),
        _ => None,
    };
    let (status, error) = match done {
        Some(Ok(())) => (StatusCode::OK, None),
        Some(Err(error)) => (StatusCode::CONFLICT, Some(error)),
        None => (
            StatusCode::NOT_FOUND,
            Some("the server does not know this question; is it of another version?".into()),
        ),
    };
    let body = serde_json::to_vec(&Reply { error }).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

/// Who decided is what the kernel says, not what the question says.
async fn resolve(proxy: &Proxy, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let asked: Resolve = read(request).await?;
    let rid = PaymentId::parse(&asked.id).ok_or_else(|| format!("{} is no payment id", asked.id))?;
    // A repeat must not send what is being declared dead, so it is out of its reach before the books say so.
    let withdrawn = match asked.resolution {
        Word::Settled => Withdrawn::default(),
        Word::Expired => match proxy.outstanding.withdraw(rid) {
            Withdrawal::Out(withdrawn) => withdrawn,
            Withdrawal::UnderWay => return Err(LedgerError::UnderWay(rid).to_string()),
        },
    };
    let (resolution, who) = (asked.resolution.into(), decider(uid));
    let resolved = proxy.ledger.resolve(rid, resolution, who, asked.why).await;
    match &resolved {
        Ok(()) => proxy.outstanding.proven_dead(withdrawn),
        Err(_) => proxy.outstanding.put_back(withdrawn),
    }
    resolved.map_err(|error| error.to_string())
}

/// Windows follow the clock from here on, even back (R63).
async fn accept_clock(proxy: &Proxy, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let AcceptClock { why } = read(request).await?;
    let accepted = Event::ClockAccepted { who: decider(uid), why };
    proxy.ledger.append(accepted).await.map_err(|error| error.to_string())
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    let body = Limited::new(request.into_body(), CAP).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// How the books name a user of this machine.
pub fn decider(uid: u32) -> String {
    format!("uid:{uid}")
}

/// Asks the running server.
pub async fn ask<Q: Question>(home: &Home, question: &Q) -> Result<(), AdminError> {
    let reply: Reply = post(home, Q::PATH, question, CAP).await?;
    reply.error.map_or(Ok(()), |error| Err(AdminError::Refused(error)))
}

/// One question to the running server, with an answer of at most `cap` bytes.
async fn post<T: DeserializeOwned>(
    home: &Home,
    path: &'static str,
    question: &impl Serialize,
    cap: usize,
) -> Result<T, AdminError> {
    let transport = |error: &dyn std::fmt::Display| AdminError::Transport(error.to_string());
    let stream = match UnixStream::connect(home.admin_socket()).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(AdminError::NoServer);
        }
        Err(error) => return Err(transport(&error)),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| transport(&error))?;
    tokio::spawn(connection);
    let body = serde_json::to_vec(question).map_err(|error| transport(&error))?;
    let request = Request::post(path)
        .header(http::header::HOST, "bursar")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| transport(&error))?;
    let response = sender.send_request(request).await.map_err(|error| transport(&error))?;
    let body = Limited::new(response.into_body(), cap)
        .collect()
        .await
        .map_err(|error| transport(&error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| transport(&error))
}
