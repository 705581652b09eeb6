//! Where approval backends may say that there is an answer (approvals §2.7, §6.2). Nothing that is said here decides
//! anything: a call that proves to be the backend's wakes the one question that it names, and what counts is what the
//! proxy then fetches itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use bursar_approvals::ciba::Ciba;
use bursar_approvals::keyra::{self, Heard, Keyra};
use bursar_approvals::questions::Questions;
use bursar_approvals::tokens::Tokens;

/// The longest that either backend may send.
const CAP: usize = keyra::WEBHOOK_CAP;
/// From the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time; anybody who reaches the port can open them.
const AT_A_TIME: usize = 32;

/// Who may call.
#[derive(Clone)]
pub(super) enum Caller {
    Ciba(Arc<Ciba<Tokens>>),
    Keyra(Arc<Keyra>),
}

/// Hears calls until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    caller: Caller,
    questions: Questions,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async {
                let place = room.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (caller, questions, stop) = (caller.clone(), questions.clone(), stop.clone());
                tasks.spawn(async move {
                    let _place = place;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        heard = timeout(PATIENCE, connection(stream, caller, questions)) => drop(heard),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a call of the approval backend");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, caller: Caller, questions: Questions) {
    let service = service_fn(move |request| {
        let (caller, questions) = (caller.clone(), questions.clone());
        async move {
            let mut response = Response::new(Full::<Bytes>::default());
            *response.status_mut() = answer(request, &caller, &questions).await;
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a call of the approval backend was cut off");
    }
}

async fn answer(request: Request<Incoming>, caller: &Caller, questions: &Questions) -> StatusCode {
    let is_theirs = match (request.uri().path(), caller) {
        ("/approvals/ciba/ping", Caller::Ciba(_)) | ("/approvals/keyra/webhook", Caller::Keyra(_)) => {
            request.method() == Method::POST
        }
        _ => false,
    };
    if !is_theirs {
        return StatusCode::NOT_FOUND;
    }
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, CAP).collect().await else {
        return StatusCode::PAYLOAD_TOO_LARGE;
    };
    let (status, handle) = heard(caller, &head.headers, &body.to_bytes());
    if let Some(handle) = handle {
        // Which question it is says the task that carries it; the handle is for nobody else.
        tracing::debug!("the approval backend says that there is an answer");
        questions.wake(&handle);
    }
    status
}

fn heard(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Option<String>) {
    match caller {
        Caller::Ciba(ciba) => {
            let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            match ciba.ping(authorization, body) {
                Some(handle) => (StatusCode::NO_CONTENT, Some(handle)),
                None => (StatusCode::UNAUTHORIZED, None),
            }
        }
        Caller::Keyra(keyra) => {
            let heard = keyra.hear(headers, body);
            let status = heard.status();
            match heard {
                Heard::Wake(id) => (status, Some(id.to_string())),
                Heard::Passed(_) | Heard::Refused(_) => (status, None),
            }
        }
    }
}
