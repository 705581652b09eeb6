//! `POST /reconcile`: the server compares, since it is the one that writes; the CLI prints.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::{AdminError, post};
use crate::listen::proxy::Proxy;
use bursar_home::Home;
use bursar_reconcile::{Question, Report, Unable};

pub const PATH: &str = "/reconcile";

/// A question may name some ten thousand payments.
const QUESTION_CAP: usize = 1 << 20;
/// A line takes about 500 bytes.
const REPORT_CAP: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Report(Report),
    Unable(Unable),
}

pub async fn answer(proxy: &Arc<Proxy>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reply = match question(request).await {
        Ok(question) => {
            // A task of its own: whoever asked may go, and what has been found out is recorded all the same.
            let reconciler = proxy.reconciler.clone();
            let running = proxy
                .tasks
                .spawn(async move { reconciler.run(&question, &|_| {}).await });
            let report = running
                .await
                .unwrap_or_else(|error| Err(Unable::Failed(error.to_string())));
            report.map_or_else(Reply::Unable, Reply::Report)
        }
        Err(error) => Reply::Unable(Unable::Failed(error)),
    };
    let mut response = Response::new(Full::from(serde_json::to_vec(&reply).unwrap_or_default()));
    *response.status_mut() = match reply {
        Reply::Report(_) => StatusCode::OK,
        Reply::Unable(_) => StatusCode::CONFLICT,
    };
    response
}

async fn question(request: Request<Incoming>) -> Result<Question, String> {
    let body = Limited::new(request.into_body(), QUESTION_CAP).collect().await;
    let body = body.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// Asks the running server to compare.
pub async fn reconcile(home: &Home, question: &Question) -> Result<Result<Report, Unable>, AdminError> {
    Ok(match post(home, PATH, question, REPORT_CAP).await? {
        Reply::Report(report) => Ok(report),
        Reply::Unable(unable) => Err(unable),
    })
}
