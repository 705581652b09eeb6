//! `bursar pause` and `resume`: the server pauses, because it decides about payments; without one the command writes the
//! entry itself. Both use the functions here.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::door::{Door, post};
use super::{Admin, AdminError, decider, read};
use crate::agents::Registry;
use crate::alerts::Alert;
use bursar_config::diagnose::nearest;
use bursar_core::policy::{Limits, PauseScope};
use bursar_home::Home;
use bursar_ledger::{Ledger, Pause};

pub(super) const PAUSE: &str = "/pause";
pub(super) const RESUME: &str = "/resume";
pub(super) const PAUSED: &str = "/paused";

/// Fits into an entry together with its other members.
const LONGEST_WHY: usize = 500;
/// Each takes less than 2 KiB.
const LIST_CAP: usize = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    scope: String,
    why: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Done(Outcome),
    Error(String),
}

/// What `pause` or `resume` did. `--json` prints it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// For `pause` the pause in force, for `resume` the one that was lifted; `None` if the scope was not paused.
    pub pause: Option<Paused>,
    /// Whether this command changed anything.
    pub changed: bool,
    /// Why a pause is in force and not on record yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrecorded: Option<String>,
    /// What the user should know, one sentence or two each.
    pub notes: Vec<String>,
}

/// One pause in force, as lists show it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub scope: PauseScope,
    pub since: Timestamp,
    pub who: String,
    pub why: String,
    pub recorded: bool,
}

impl Paused {
    pub(crate) fn of(pause: Pause, recorded: bool) -> Self {
        let Pause { scope, since, who, why } = pause;
        Self {
            scope,
            since: since.timestamp(),
            who,
            why,
            recorded,
        }
    }
}

/// The names that pauses can be about, as far as they can be read.
pub(crate) struct Known<'a> {
    /// Agents with tokens.
    pub agents: Vec<String>,
    pub limits: Option<&'a Limits>,
}

impl<'a> Known<'a> {
    /// A list of agents that cannot be read costs a warning, and must not keep anybody from pausing.
    pub(crate) fn of(home: &Home, limits: Option<&'a Limits>) -> Self {
        let agents = Registry::new(home).list().unwrap_or_default();
        Self {
            agents: agents.iter().map(|agent| agent.name.to_string()).collect(),
            limits,
        }
    }

    /// A name that nobody has is probably a typo.
    pub(crate) fn doubts(&self, scope: &PauseScope) -> Option<String> {
        let sections = || self.limits.into_iter().flat_map(Limits::agents);
        let (kind, name, mut known): (_, _, Vec<&str>) = match scope {
            PauseScope::Agent(name) => {
                let named = self.agents.iter().map(String::as_str);
                ("agent", name, named.chain(sections()).collect())
            }
            PauseScope::Group(name) => {
                let limits = self.limits?;
                (
                    "group",
                    name,
                    sections().filter_map(|agent| limits.group_of(agent)).collect(),
                )
            }
            PauseScope::All | PauseScope::Merchant(_) => return None,
        };
        known.sort_unstable();
        if known.contains(&name.as_str()) {
            return None;
        }
        let meant = nearest(name, known).map(|meant| format!(" Did you mean {meant}?"));
        Some(match kind {
            "agent" => format!(
                "There is no agent {name} now; the pause would hold for one that is added later.{}",
                meant.unwrap_or_default()
            ),
            _ => format!(
                "No agent in limits.toml belongs to group {name} now; the pause would hold for one that joins it.{}",
                meant.unwrap_or_default()
            ),
        })
    }
}

/// Pauses, in a server or with the ledger of a directory without one. Before anything is read from a disk that may hang.
pub(crate) async fn pause_here(
    ledger: &dyn Ledger,
    known: impl FnOnce(&PauseScope) -> Option<String>,
    scope: PauseScope,
    who: String,
    why: String,
) -> Result<Outcome, String> {
    is_short(&why)?;
    let done = ledger.pause(scope.clone(), who, why).await;
    Ok(Outcome {
        pause: Some(Paused::of(done.pause, done.unrecorded.is_none())),
        changed: done.is_new,
        unrecorded: done.unrecorded,
        notes: known(&scope).into_iter().collect(),
    })
}

/// Lifts a pause, and says what still stops payments.
pub(crate) async fn resume_here(
    ledger: &dyn Ledger,
    limits: Option<&Limits>,
    scope: PauseScope,
    who: String,
    why: String,
) -> Result<Outcome, String> {
    is_short(&why)?;
    let lifted = ledger.resume(scope.clone(), who, why).await;
    let lifted = lifted.map_err(|error| format!("{error}. The pause is still in force"))?;
    let left = ledger.pauses().into_iter();
    let still = left.map(|(pause, _)| {
        let since = pause.since.timestamp().strftime("%Y-%m-%d %H:%M:%S UTC");
        format!(
            "Another pause is still in force: {} (since {since}, by {}). `bursar resume {} --why TEXT` lifts it.",
            pause.scope.words(),
            pause.who,
            pause.scope.options()
        )
    });
    let mut notes: Vec<String> = still.collect();
    let sections = limits.map(|limits| limits.paused_sections(&scope)).unwrap_or_default();
    notes.extend(sections.into_iter().map(|section| {
        format!("limits.toml still pauses payments: paused = true in [{section}]. `bursar resume` does not lift that.")
    }));
    Ok(Outcome {
        changed: lifted.is_some(),
        pause: lifted.map(|pause| Paused::of(pause, true)),
        unrecorded: None,
        notes,
    })
}

fn is_short(why: &str) -> Result<(), String> {
    match why.chars().count() > LONGEST_WHY {
        true => Err(format!("the reason is longer than {LONGEST_WHY} characters")),
        false => Ok(()),
    }
}

pub(super) async fn answer_pause(admin: &Admin, request: Request<Incoming>, uid: u32) -> Response<Full<Bytes>> {
    response(&match pause_asked(admin, request, uid).await {
        Ok(outcome) => Reply::Done(outcome),
        Err(error) => Reply::Error(error),
    })
}

/// The kernel says who pauses; the request does not.
async fn pause_asked(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<Outcome, String> {
    let (scope, why) = asked(request).await?;
    let known = |scope: &PauseScope| {
        let (limits, _) = admin.rules.current();
        Known::of(&admin.home, Some(&limits)).doubts(scope)
    };
    let (who, ledger) = (decider(uid), &*admin.ledger);
    let outcome = pause_here(ledger, known, scope.clone(), who.clone(), why.clone()).await?;
    if outcome.changed {
        tracing::warn!(%scope, who, why, "payments are paused");
        admin.alerts.raise(Alert::PaymentsPaused {
            scope,
            who,
            why,
            unrecorded: outcome.unrecorded.clone(),
        });
    }
    Ok(outcome)
}

pub(super) async fn answer_resume(admin: &Admin, request: Request<Incoming>, uid: u32) -> Response<Full<Bytes>> {
    response(&match resume_asked(admin, request, uid).await {
        Ok(outcome) => Reply::Done(outcome),
        Err(error) => Reply::Error(error),
    })
}

async fn resume_asked(admin: &Admin, request: Request<Incoming>, uid: u32) -> Result<Outcome, String> {
    let (scope, why) = asked(request).await?;
    let (limits, _) = admin.rules.current();
    let (who, ledger) = (decider(uid), &*admin.ledger);
    let outcome = resume_here(ledger, Some(&limits), scope.clone(), who.clone(), why.clone()).await?;
    if outcome.changed {
        tracing::warn!(%scope, who, why, "payments are no longer paused");
        admin.alerts.raise(Alert::PaymentsResumed { scope, who, why });
    }
    Ok(outcome)
}

pub(super) fn answer_paused(admin: &Admin) -> Response<Full<Bytes>> {
    let pauses = admin.ledger.pauses().into_iter();
    let pauses: Vec<Paused> = pauses.map(|(pause, recorded)| Paused::of(pause, recorded)).collect();
    Response::new(Full::from(serde_json::to_vec(&pauses).unwrap_or_default()))
}

async fn asked(request: Request<Incoming>) -> Result<(PauseScope, String), String> {
    let Question { scope, why } = read(request).await?;
    let scope = PauseScope::parse(&scope).map_err(|error| error.to_string())?;
    Ok((scope, why))
}

fn response(reply: &Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(serde_json::to_vec(reply).unwrap_or_default()));
    *response.status_mut() = match reply {
        Reply::Done(_) => StatusCode::OK,
        Reply::Error(_) => StatusCode::CONFLICT,
    };
    response
}

/// Asks the running server to pause.
pub(crate) async fn pause(door: &Door, scope: &PauseScope, why: &str) -> Result<Outcome, AdminError> {
    asked_of_server(door, PAUSE, scope, why).await
}

/// Asks the running server to lift a pause.
pub(crate) async fn resume(door: &Door, scope: &PauseScope, why: &str) -> Result<Outcome, AdminError> {
    asked_of_server(door, RESUME, scope, why).await
}

async fn asked_of_server(
    door: &Door,
    path: &'static str,
    scope: &PauseScope,
    why: &str,
) -> Result<Outcome, AdminError> {
    let question = Question {
        scope: scope.to_string(),
        why: why.to_owned(),
    };
    match post(door, path, &question, LIST_CAP).await? {
        Reply::Done(outcome) => Ok(outcome),
        Reply::Error(error) => Err(AdminError::Refused(error)),
    }
}

/// The pauses in force in the running server, oldest first.
pub(crate) async fn paused(door: &Door) -> Result<Vec<Paused>, AdminError> {
    post(door, PAUSED, &(), LIST_CAP).await
}
