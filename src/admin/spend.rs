//! `bursar spend` through a socket: the server adds up its own journal, for people who may not enter the data directory.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::door::{Door, post};
use super::{Admin, AdminError, read};
use crate::view::{SpendAsked, SpendView};

pub(super) const PATH: &str = "/spend";

/// Some hundred thousand rows.
const REPLY_CAP: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Sums(Box<SpendView>),
    Damaged(String),
    Error(String),
}

/// Why there are no sums.
pub(crate) enum Unspent {
    Admin(AdminError),
    /// The journal is not what was signed.
    Damaged(String),
}

pub(super) async fn answer(admin: &Arc<Admin>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let reply = match read::<SpendAsked>(request).await {
        Ok(asked) => added_up(admin, asked).await,
        Err(error) => Reply::Error(error),
    };
    let mut response = Response::new(Full::from(serde_json::to_vec(&reply).unwrap_or_default()));
    *response.status_mut() = match reply {
        Reply::Sums(_) => StatusCode::OK,
        Reply::Damaged(_) | Reply::Error(_) => StatusCode::CONFLICT,
    };
    response
}

async fn added_up(admin: &Arc<Admin>, asked: SpendAsked) -> Reply {
    let Ok(place) = admin.folding.clone().acquire_owned().await else {
        return Reply::Error("the server is shutting down".to_owned());
    };
    let (limits, _) = admin.rules.current();
    let question = match asked.question(limits.calendar.zone(), admin.ledger.now()) {
        Ok(question) => question,
        Err(error) => return Reply::Error(error),
    };
    let home = admin.home.clone();
    // Away from the threads that serve requests.
    let read = tokio::task::spawn_blocking(move || {
        // Until it is done, also when nobody waits for it any more.
        let _place = place;
        SpendView::read(&home, &asked, &question)
    });
    match read.await {
        Ok(Ok(view)) => Reply::Sums(Box::new(view)),
        Ok(Err(error)) => Reply::Damaged(error.to_string()),
        Err(error) => Reply::Error(error.to_string()),
    }
}

/// Asks the running server.
pub(crate) async fn spend(door: &Door, asked: &SpendAsked) -> Result<SpendView, Unspent> {
    match post(door, PATH, asked, REPLY_CAP).await.map_err(Unspent::Admin)? {
        Reply::Sums(view) => Ok(*view),
        Reply::Damaged(error) => Err(Unspent::Damaged(error)),
        Reply::Error(error) => Err(Unspent::Admin(AdminError::Refused(error))),
    }
}
