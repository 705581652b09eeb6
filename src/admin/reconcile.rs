//! `POST /reconcile`: the server compares, because only it writes the ledger; the CLI prints the report.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::door::{Door, post};
use super::{Admin, AdminError, HEAD};
use bursar_home::Home;
use bursar_reconcile::{Question, Report, Unable};

pub(super) const PATH: &str = "/reconcile";

/// A request may name some ten thousand payments.
const QUESTION_CAP: usize = 1 << 20;
/// A line of the report takes about 500 bytes.
const REPORT_CAP: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Report(Report),
    Unable(Unable),
}

pub(super) async fn answer(admin: &Arc<Admin>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reply = match question(request).await {
        Ok(question) => {
            // Approvals and the other commands need places too.
            let Ok(_place) = admin.reconciling.try_acquire() else {
                let detail = "other reconciliations are running already; try again when they are done";
                return response(&Reply::Unable(Unable::Failed(detail.to_owned())));
            };
            // In a task of its own: the client may disconnect, and the findings are recorded all the same.
            let reconciler = admin.reconciler.clone();
            let running = admin
                .tasks
                .spawn(async move { reconciler.run(&question, &|_| {}).await });
            let report = running
                .await
                .unwrap_or_else(|error| Err(Unable::Failed(error.to_string())));
            report.map_or_else(Reply::Unable, Reply::Report)
        }
        Err(error) => Reply::Unable(Unable::Failed(error)),
    };
    response(&reply)
}

fn response(reply: &Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(serde_json::to_vec(reply).unwrap_or_default()));
    *response.status_mut() = match reply {
        Reply::Report(_) => StatusCode::OK,
        Reply::Unable(_) => StatusCode::CONFLICT,
    };
    response
}

async fn question(request: Request<Incoming>) -> Result<Question, String> {
    let body = Limited::new(request.into_body(), QUESTION_CAP).collect();
    let body = timeout(HEAD, body).await;
    let body = body.map_err(|_| "the request did not arrive in time".to_owned())?;
    let body = body.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// Asks the running server to reconcile.
pub(crate) async fn reconcile(home: &Home, question: &Question) -> Result<Result<Report, Unable>, AdminError> {
    Ok(match post(&Door::of(home), PATH, question, REPORT_CAP).await? {
        Reply::Report(report) => Ok(report),
        Reply::Unable(unable) => Err(unable),
    })
}
