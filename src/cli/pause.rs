//! `bursar pause` and `bursar resume`: stop payments at once, and let them go on. With a server over its admin socket,
//! without one under the directory's lock.

use std::sync::Arc;

use clap::{ArgGroup, Args};

use super::output::{note, print_json, say};
use super::reach::{Place, Reach, failed};
use super::{Exit, Failure, journal};
use crate::admin::{self, AdminError, Known, Outcome, Paused};
use crate::config::Config;
use bursar_core::clock::SystemClock;
use bursar_core::policy::{Limits, PauseScope};
use bursar_home::Home;
use bursar_ledger::{Embedded, Ledger, Options, read_pauses};

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub(super) struct Pause {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    reach: Reach,
    /// Only show what is paused, since when, by whom and why
    #[arg(long, group = "what")]
    list: bool,
    /// Reason; the ledger records it
    #[arg(long, value_name = "TEXT", required_unless_present = "list", conflicts_with = "list")]
    why: Option<String>,
    /// One JSON object; with `--list` one per line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true)))]
pub(super) struct Resume {
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    reach: Reach,
    /// Reason; the ledger records it
    #[arg(long, value_name = "TEXT")]
    why: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Scope {
    /// The payments of this agent
    #[arg(long, value_name = "NAME", group = "what")]
    agent: Option<String>,
    /// The payments of this group's agents
    #[arg(long, value_name = "NAME", group = "what")]
    group: Option<String>,
    /// The payments to this host; `*.example.com` for all hosts below a name
    #[arg(long, value_name = "HOST", group = "what")]
    merchant: Option<String>,
    /// All payments
    #[arg(long, group = "what")]
    all: bool,
}

impl Scope {
    fn read(&self) -> Result<PauseScope, Failure> {
        let (option, scope) = match (&self.agent, &self.group, &self.merchant) {
            (Some(name), ..) => ("--agent", PauseScope::agent(name)),
            (_, Some(name), _) => ("--group", PauseScope::group(name)),
            (.., Some(pattern)) => ("--merchant", PauseScope::merchant(pattern)),
            (None, None, None) => ("--all", Ok(PauseScope::All)),
        };
        scope.map_err(|error| Failure::usage(format!("{option}: {error}")))
    }
}

impl Pause {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let place = self.reach.place(home)?;
        let Some(why) = &self.why else {
            return list(&place, self.json).await;
        };
        let scope = self.scope.read()?;
        require_reason(why)?;
        let outcome = match admin::pause(&place.door(), &scope, why).await {
            Err(AdminError::NoServer) => offline(place.without_server()?, Act::Pause, &scope, why).await?,
            outcome => outcome.map_err(failed)?,
        };
        if self.json {
            print_json(&outcome)?;
        } else if let Some(pause) = &outcome.pause {
            match outcome.changed {
                true => say!(
                    "{} are paused. `bursar resume {} --why TEXT` lifts the pause.",
                    pause.scope.words(),
                    pause.scope.options()
                )?,
                false => say!("Nothing changed: {}", sentence(pause))?,
            }
        }
        notes(&outcome);
        if let Some(error) = &outcome.unrecorded {
            note!(
                "bursar: the pause is in force, but it is not on record yet: {error}. The server goes on trying. Until \
                 `bursar pause --list` shows it without \"not on record\", a restart lifts it: pause again after one."
            );
            return Ok(Exit::Pending);
        }
        Ok(Exit::Done)
    }
}

impl Resume {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        let place = self.reach.place(home)?;
        let scope = self.scope.read()?;
        require_reason(&self.why)?;
        let outcome = match admin::resume(&place.door(), &scope, &self.why).await {
            Err(AdminError::NoServer) => offline(place.without_server()?, Act::Resume, &scope, &self.why).await?,
            outcome => outcome.map_err(failed)?,
        };
        if self.json {
            print_json(&outcome)?;
        } else if outcome.changed {
            say!("{} are no longer paused.", scope.words())?;
        }
        notes(&outcome);
        match outcome.changed {
            true => Ok(Exit::Done),
            false => Err(Failure::negative(format!(
                "{} are not paused, so nothing changed; `bursar pause --list` shows what is",
                scope.words()
            ))),
        }
    }
}

fn require_reason(why: &str) -> Result<(), Failure> {
    match why.trim().is_empty() {
        true => Err(Failure::usage("--why is empty; give a reason: the ledger records it")),
        false => Ok(()),
    }
}

fn notes(outcome: &Outcome) {
    for text in &outcome.notes {
        note!("bursar: {text}");
    }
}

/// What the running server has in force; without a server, what is on record.
async fn list(place: &Place, json: bool) -> Result<Exit, Failure> {
    let (pauses, exit) = match admin::paused(&place.door()).await {
        Ok(pauses) => (pauses, Exit::Done),
        Err(AdminError::NoServer) => {
            let home = place.without_server()?;
            require_own_ledger(home)?;
            let (pauses, exit) = journal::read(read_pauses(home.root()))?;
            let recorded = pauses.into_iter().map(|pause| Paused::of(pause, true));
            (recorded.collect(), exit)
        }
        Err(error) => return Err(failed(error)),
    };
    if json {
        pauses.iter().try_for_each(print_json)?;
        return Ok(exit);
    }
    if pauses.is_empty() {
        note!("No payments are paused with `bursar pause`.");
    }
    pauses.iter().try_for_each(|pause| say!("{}", sentence(pause)))?;
    Ok(exit)
}

/// One pause as a sentence.
pub(super) fn sentence(pause: &Paused) -> String {
    let record = if pause.recorded { "" } else { " (not on record yet)" };
    format!(
        "{} are paused since {}, by {}: {}{record}",
        pause.scope.words(),
        pause.since.strftime("%Y-%m-%d %H:%M:%S UTC"),
        pause.who,
        pause.why
    )
}

#[derive(Clone, Copy)]
enum Act {
    Pause,
    Resume,
}

/// Without a server: takes the directory's lock and writes the entry itself.
async fn offline(home: &Home, act: Act, scope: &PauseScope, why: &str) -> Result<Outcome, Failure> {
    require_own_ledger(home)?;
    let ledger = Embedded::open(home.root(), Options::new(Arc::new(SystemClock)))
        .map_err(|error| Failure::unavailable(error.to_string()))?;
    let who = admin::decider(rustix::process::geteuid().as_raw());
    let (scope, why) = (scope.clone(), why.to_owned());
    let limits = limits(home);
    let outcome = match act {
        Act::Pause => {
            let known = |scope: &PauseScope| Known::of(home, limits.as_ref()).doubts(scope);
            admin::pause_here(&ledger, known, scope, who, why).await
        }
        Act::Resume => admin::resume_here(&ledger, limits.as_ref(), scope, who, why).await,
    };
    ledger.close().await;
    let outcome = outcome.map_err(Failure::negative)?;
    match &outcome.unrecorded {
        // It was in force only in this process.
        Some(error) => Err(Failure::negative(format!(
            "the pause could not be recorded: {error}. No server is running, so nothing is paid now; nothing is paused \
             for the next start"
        ))),
        None => Ok(outcome),
    }
}

fn require_own_ledger(home: &Home) -> Result<(), Failure> {
    match home.node().exists() {
        true => Err(Failure::unavailable(
            "this directory's ledger is in a database, which only a running server uses; start `bursar serve` and \
             repeat this command",
        )),
        false => Ok(()),
    }
}

/// For notes only: a file with mistakes must not keep anybody from pausing.
fn limits(home: &Home) -> Option<Limits> {
    Config::load(home.root()).ok()?.limits.load().ok()
}
