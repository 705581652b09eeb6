//! The endpoint where approval backends report an answer (approvals §2.7, §6.2). A callback decides nothing: if it is
//! authentic, it wakes the one question that it names, and what counts is what the proxy then fetches itself.

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
use bursar_approvals::keyra::{self, Keyra, Received};
use bursar_approvals::questions::Questions;
use bursar_approvals::tokens::Tokens;

/// The longest callback that either backend may send.
const CAP: usize = keyra::WEBHOOK_CAP;
/// The time limit from the first byte to the last.
const PATIENCE: Duration = Duration::from_secs(10);

/// The backend that may call.
#[derive(Clone)]
pub(super) enum Caller {
    Ciba(Arc<Ciba<Tokens>>),
    Keyra(Arc<Keyra>),
}

/// Accepts callbacks until `stop`, so many `at_a_time`: anyone who reaches the port can open connections.
pub(super) async fn serve(
    listener: TcpListener,
    caller: Caller,
    questions: Questions,
    at_a_time: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(at_a_time));
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
                        received = timeout(PATIENCE, connection(stream, caller, questions)) => drop(received),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a callback from the approval backend");
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
        tracing::debug!(%error, "a callback from the approval backend was cut off");
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
    let (status, handle) = received(caller, &head.headers, &body.to_bytes());
    if let Some(handle) = handle {
        // The question's own task logs its id; the handle must not be logged.
        tracing::debug!("the approval backend reports an answer");
        questions.wake(&handle);
    }
    status
}

fn received(caller: &Caller, headers: &HeaderMap, body: &[u8]) -> (StatusCode, Option<String>) {
    match caller {
        Caller::Ciba(ciba) => {
            let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            match ciba.ping(authorization, body) {
                Some(handle) => (StatusCode::NO_CONTENT, Some(handle)),
                None => (StatusCode::UNAUTHORIZED, None),
            }
        }
        Caller::Keyra(keyra) => {
            let received = keyra.receive(headers, body);
            let status = received.status();
            match received {
                Received::Wake(id) => (status, Some(id.to_string())),
                Received::Passed(_) | Received::Refused(_) => (status, None),
            }
        }
    }
}
