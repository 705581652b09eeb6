//! What `bursar limits` asks the running server. Nothing here changes anything.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};

use super::door::{Door, post};
use super::{Admin, AdminError, Paused, read, read_up_to};
use crate::rules::{self, Rules};
use crate::trial::{self, Described, Report, Setting};
use crate::view::{Asked, LimitsView, Seen};
use bursar_approvals::questions::Questions;
use bursar_core::policy::Approvals;
use bursar_ledger::Standing;

pub(super) const PREFIX: &str = "/limits/";
pub(super) const STANDING: &str = "/limits/standing";
pub(super) const TRY: &str = "/limits/try";
pub(super) const SHOW: &str = "/limits/show";
/// `limits try --with` sends a whole file.
const TRY_CAP: usize = 8 << 20;
/// An answer can quote every mistake of a file.
const REPLY_CAP: usize = 16 << 20;

/// `bursar limits check --wait`: whether a file with this content is in force.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InForce {
    /// 64 hex digits.
    pub sha256: String,
}

/// `bursar limits try`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Try {
    pub agent: String,
    pub host: String,
    pub method: String,
    /// `None`: now, by the ledger's clock.
    pub at: Option<jiff::Timestamp>,
    pub offer: Described,
    /// Other limits than those in force.
    pub with: Option<FileText>,
}

/// `bursar limits show`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Show {
    /// An agent, a group or `account`; `None`: everything.
    pub name: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FileText {
    pub name: String,
    pub text: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Answer(T),
    Error(String),
    /// The ledger cannot be seen, so there is no number.
    Unseen(String),
}

pub(super) async fn answer(admin: &Admin, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        STANDING => {
            let asked = read::<InForce>(request).await;
            response(asked.and_then(|asked| in_force(&admin.rules, &asked)))
        }
        TRY => {
            let asked = read_up_to::<Try>(request, TRY_CAP).await;
            response(match asked {
                Ok(asked) => tried(admin, asked).await,
                Err(error) => Err(error),
            })
        }
        SHOW => {
            let asked = read::<Show>(request).await;
            replied(match asked {
                Ok(asked) => shown(admin, asked).await,
                Err(error) => Reply::Error(error),
            })
        }
        _ => response::<()>(Err(
            "the server does not know this request; it may be of another version".to_owned(),
        )),
    }
}

/// For any socket that may ask.
pub(crate) fn in_force(rules: &Rules, asked: &InForce) -> Result<rules::Standing, String> {
    let sha256 = digest(&asked.sha256).ok_or_else(|| "a SHA-256 has 64 hex digits".to_owned())?;
    Ok(rules.standing(&sha256))
}

/// For any socket that may ask. The counters are those of one moment of the ledger's writer.
async fn tried(admin: &Admin, asked: Try) -> Result<Report, String> {
    let limits = match asked.with {
        None => admin.rules.current().0,
        // A large file takes a while.
        Some(FileText { name, text }) => {
            let parsed = tokio::task::spawn_blocking(move || bursar_config::limits::parse(&name, &text));
            let parsed = parsed.await.map_err(|error| error.to_string())?;
            Arc::new(parsed.map_err(|error| error.to_string())?)
        }
    };
    let (now, is_now) = (admin.ledger.now(), asked.at.is_none());
    let setting = Setting {
        agent: asked.agent,
        host: asked.host,
        method: asked.method,
        at: asked.at.unwrap_or(now),
    };
    let approvals = admin.questions.as_ref().map_or(Approvals::None, Questions::approvals);
    let offers = [asked.offer];
    let charges = trial::charges(&limits, approvals, &setting, &offers)?;
    let standing = Standing::ask(&*admin.ledger, &charges).await;
    let standing = standing.map_err(|error| error.to_string())?;
    let (judged, bids) = trial::run(&limits, approvals, &setting, &offers, |charge| standing.counted(charge))?;
    let pause = standing.pause_on(&setting.agent, limits.group_of(&setting.agent), &setting.host);
    Ok(Report::of(&judged, &bids, Some(now)).stopped_by(pause.filter(|_| is_now)))
}

/// For any socket that may ask. The numbers are those of one moment of the ledger's writer.
async fn shown(admin: &Admin, Show { name }: Show) -> Reply<LimitsView> {
    let (limits, _) = admin.rules.current();
    let asked = match Asked::read(name.as_deref(), &limits) {
        Ok(asked) => asked,
        Err(unknown) => return Reply::Error(unknown),
    };
    let at = admin.ledger.now();
    let standing = Standing::ask(&*admin.ledger, &asked.charges(&limits, at)).await;
    let standing = match standing {
        Ok(standing) => standing,
        Err(error) => return Reply::Unseen(format!("the ledger cannot be read, so nothing is shown: {error}")),
    };
    let pauses = admin.ledger.pauses().into_iter();
    let seen = Seen {
        file: admin.rules.path().display().to_string(),
        rejected: admin.rules.rejected(),
        at,
        pauses: pauses.map(|(pause, recorded)| Paused::of(pause, recorded)).collect(),
        standing: &standing,
    };
    LimitsView::of(&limits, &asked, seen).map_or_else(Reply::Unseen, Reply::Answer)
}

/// Asks the running server.
pub(crate) async fn show(door: &Door, asked: &Show) -> Result<LimitsView, AdminError> {
    put(door, SHOW, asked).await
}

/// Asks the running server.
pub(crate) async fn try_purchase(door: &Door, asked: &Try) -> Result<Report, AdminError> {
    put(door, TRY, asked).await
}

/// Asks the running server.
pub(crate) async fn standing(door: &Door, asked: &InForce) -> Result<rules::Standing, AdminError> {
    put(door, STANDING, asked).await
}

pub(super) async fn put<T: serde::de::DeserializeOwned>(
    door: &Door,
    path: &'static str,
    asked: &impl Serialize,
) -> Result<T, AdminError> {
    match post(door, path, asked, REPLY_CAP).await? {
        Reply::Answer(answer) => Ok(answer),
        Reply::Error(error) => Err(AdminError::Refused(error)),
        Reply::Unseen(error) => Err(AdminError::Unseen(error)),
    }
}

pub(super) fn response<T: Serialize>(answer: Result<T, String>) -> Response<Full<Bytes>> {
    replied(answer.map_or_else(Reply::Error, Reply::Answer))
}

fn replied<T: Serialize>(reply: Reply<T>) -> Response<Full<Bytes>> {
    let status = match reply {
        Reply::Answer(_) => StatusCode::OK,
        Reply::Error(_) | Reply::Unseen(_) => StatusCode::CONFLICT,
    };
    let mut response = Response::new(Full::from(serde_json::to_vec(&reply).unwrap_or_default()));
    *response.status_mut() = status;
    response
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_digest() {
        let rules = Rules::fixed("[agents.a]\ntotal = \"1\"\n");
        let sha256 = hex(&rules.current().0.sha256);
        let ask = |sha256: &str| {
            let sha256 = sha256.to_owned();
            in_force(&rules, &InForce { sha256 })
        };
        assert_eq!(ask(&sha256), Ok(rules::Standing::InForce { generation: 1 }));
        assert_eq!(ask(&"0".repeat(64)), Ok(rules::Standing::Waiting));
        for other in ["", "zz", &"g".repeat(64), &"é".repeat(32)] {
            assert!(ask(other).is_err(), "{other}");
        }
    }
}
