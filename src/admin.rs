//! The admin socket: HTTP on a Unix socket in `run/` of the data directory, only for the CLI of the same uid (R57).

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
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alerts::Alerts;
use crate::config::people::People;
use crate::listen::Proxy;
use crate::rules::Rules;
use bursar_approvals::questions::Questions;
use bursar_home::{Home, spare};
use bursar_ledger::{Event, Ledger, LedgerError, PaymentId, Resolution};
use bursar_rails::outstanding::{Outstanding, Withdrawal, Withdrawn};
use bursar_reconcile::Reconciler;

mod approvals;
mod door;
mod limits;
mod pause;
mod people;
mod quote;
mod reconcile;
mod spend;

pub(crate) use approvals::{Approve, Deny, pending};
pub(crate) use door::{Door, ask};
pub(crate) use limits::{FileText, InForce, Show, Try, hex, show, standing, try_purchase};
pub(crate) use pause::{Known, Outcome, Paused, pause, pause_here, paused, resume, resume_here};
pub(crate) use people::PeopleError;
pub(crate) use people::{bind_people, serve_people};
pub(crate) use quote::quote;
pub(crate) use reconcile::reconcile;
pub(crate) use spend::{Unspent, spend};

/// Requests and replies are short.
const CAP: usize = 64 << 10;
/// Connections at a time. Programs of the same uid can open them, and one may be an agent that runs wild.
const AT_A_TIME: usize = 8;
/// Reconciliations at a time.
pub(crate) const RECONCILING: usize = 4;
/// Journals that are read for people at a time: each read uses several cores.
pub(crate) const FOLDING: usize = 1;
/// How long a command may take to send its request.
const HEAD: Duration = Duration::from_secs(10);

/// `bursar payments resolve`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Resolve {
    pub id: String,
    pub resolution: Resolved,
    pub why: String,
}

/// `bursar clock accept`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AcceptClock {
    pub why: String,
}

/// A request to the server, and its path.
pub(crate) trait Question: Serialize {
    const PATH: &'static str;
}

impl Question for Resolve {
    const PATH: &'static str = "/payments/resolve";
}

impl Question for AcceptClock {
    const PATH: &'static str = "/clock/accept";
}

/// The operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolved {
    Settled,
    Expired,
}

impl From<Resolved> for Resolution {
    fn from(word: Resolved) -> Self {
        match word {
            Resolved::Settled => Self::Settled { tx: None },
            Resolved::Expired => Self::Expired,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Error)]
pub(crate) enum AdminError {
    /// Nothing listens: no server is running on this directory.
    #[error("no server is running on this data directory")]
    NoServer,
    /// The socket's mode, or that of a folder above it.
    #[error("this user may not connect to {0}: its group may; ask the operator to add you to it")]
    NoAccess(String),
    #[error("the request to the server failed: {0}")]
    Transport(String),
    #[error("{0}")]
    Refused(String),
    /// The server cannot see its ledger.
    #[error("{0}")]
    Unseen(String),
}

/// Creates the socket with mode 0600. Replaces one that a killed server left behind; we already hold the directory's
/// lock.
pub(crate) fn bind(home: &Home) -> io::Result<UnixListener> {
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

/// What commands ask the running server about.
pub(crate) struct Admin {
    pub ledger: Arc<dyn Ledger>,
    /// Asks sites for `bursar quote`.
    pub proxy: Arc<Proxy>,
    pub home: Home,
    pub rules: Arc<Rules>,
    pub alerts: Alerts,
    pub outstanding: Outstanding,
    pub questions: Option<Questions>,
    pub reconciler: Arc<Reconciler>,
    /// Places for reconciliations that commands ask for, which can take minutes.
    pub reconciling: Semaphore,
    /// Places for reading the journal on behalf of people.
    pub folding: Arc<Semaphore>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

pub(crate) async fn serve(admin: Arc<Admin>, listener: UnixListener) {
    accept(admin, listener, Visitors::Operator).await;
}

/// Who may ask at a socket.
#[derive(Clone)]
enum Visitors {
    /// Bursar's own user and root.
    Operator,
    /// Those whom `[people]` names. Others are answered, too, so that they learn what to ask for.
    People(Arc<People>),
}

async fn accept(admin: Arc<Admin>, listener: UnixListener, visitors: Visitors) {
    let room = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let place = tokio::select! {
            () = admin.stop.cancelled() => return,
            place = room.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = admin.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // An operator must get through above all when connections have used up every descriptor.
            Err(error) if spare::is_exhausted(&error) && spare::give_up() => continue,
            Err(error) => {
                // Retrying at once would only burn CPU.
                tracing::warn!(%error, "cannot accept an admin connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // The file mode already restricts access; the peer's uid also covers a socket that was passed on.
        let ours = rustix::process::geteuid().as_raw();
        if let Ok(peer) = stream.peer_cred()
            && (matches!(visitors, Visitors::People(_)) || peer.uid() == ours || peer.uid() == 0)
        {
            let connection = connection(admin.clone(), stream, peer.uid(), visitors.clone());
            admin.tasks.spawn(async move {
                let _place = place;
                connection.await;
            });
        }
    }
}

async fn connection(admin: Arc<Admin>, stream: UnixStream, uid: u32, visitors: Visitors) {
    let service = service_fn(|request| {
        let (admin, visitors) = (admin.clone(), visitors.clone());
        async move {
            Ok::<_, Infallible>(match visitors {
                Visitors::Operator => answer(&admin, request, uid).await,
                Visitors::People(people) => people::answer(&admin, request, uid, &people).await,
            })
        }
    });
    let served = crate::listen::http1()
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
    // `serve_connection` has closed its socket; if accepting it took a spare descriptor, there is room for one again.
    spare::replace();
}

async fn answer(admin: &Arc<Admin>, request: Request<Incoming>, uid: u32) -> Response<Full<Bytes>> {
    if (request.method(), request.uri().path()) == (&Method::POST, reconcile::PATH) {
        return reconcile::answer(admin, request).await;
    }
    if (request.method(), request.uri().path()) == (&Method::POST, approvals::PENDING) {
        return approvals::list(admin);
    }
    match (request.method(), request.uri().path()) {
        (&Method::POST, pause::PAUSE) => return pause::answer_pause(admin, request, uid).await,
        (&Method::POST, pause::RESUME) => return pause::answer_resume(admin, request, uid).await,
        (&Method::POST, pause::PAUSED) => return pause::answer_paused(admin),
        (&Method::POST, quote::PATH) => return quote::answer(admin, request).await,
        _ => {}
    }
    if request.method() == Method::POST && request.uri().path().starts_with(limits::PREFIX) {
        return limits::answer(admin, request).await;
    }
    if (request.method(), request.uri().path()) == (&Method::POST, spend::PATH) {
        return spend::answer(admin, request).await;
    }
    let done = match (request.method(), request.uri().path()) {
        (&Method::POST, Resolve::PATH) => Some(resolve(admin, request, uid).await),
        (&Method::POST, AcceptClock::PATH) => Some(accept_clock(admin, request, uid).await),
        (&Method::POST, Approve::PATH) => Some(approvals::approve(admin, request, uid).await),
        (&Method::POST, Deny::PATH) => Some(approvals::deny(admin, request, uid).await),
        _ => None,
    };
    let (status, error) = match done {
        Some(Ok(())) => (StatusCode::OK, None),
        Some(Err(error)) => (StatusCode::CONFLICT, Some(error)),
        None => (
            StatusCode::NOT_FOUND,
            Some("the server does not know this request; it may be of another version".into()),
        ),
    };
    let body = serde_json::to_vec(&Reply { error }).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}

/// The kernel says who decided; the request does not.
async fn resolve(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let asked: Resolve = read(request).await?;
    let rid = PaymentId::parse(&asked.id).ok_or_else(|| format!("{} is not a payment id", asked.id))?;
    // A repeat must not send a payment that is being declared dead, so withdraw it before the ledger records that.
    let withdrawn = match asked.resolution {
        Resolved::Settled => Withdrawn::default(),
        Resolved::Expired => match admin.outstanding.withdraw(rid) {
            Withdrawal::Out(withdrawn) => withdrawn,
            Withdrawal::UnderWay => return Err(LedgerError::UnderWay(rid).to_string()),
        },
    };
    let (resolution, who) = (asked.resolution.into(), decider(uid));
    let resolved = admin.ledger.resolve(rid, resolution, who, asked.why).await;
    match &resolved {
        Ok(()) => admin.outstanding.proven_dead(withdrawn),
        Err(_) => admin.outstanding.put_back(withdrawn),
    }
    resolved.map_err(|error| error.to_string())
}

/// From here on budget windows follow the clock, even backwards (R63).
async fn accept_clock(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<(), String> {
    let AcceptClock { why } = read(request).await?;
    let accepted = Event::ClockAccepted { who: decider(uid), why };
    admin.ledger.append(accepted).await.map_err(|error| error.to_string())
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    read_up_to(request, CAP).await
}

async fn read_up_to<T: DeserializeOwned>(request: Request<Incoming>, cap: usize) -> Result<T, String> {
    let body = timeout(HEAD, Limited::new(request.into_body(), cap).collect()).await;
    let body = body.map_err(|_| "the request did not arrive in time".to_owned())?;
    let body = body.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// How the ledger names a user of this machine.
pub(crate) fn decider(uid: u32) -> String {
    format!("uid:{uid}")
}
