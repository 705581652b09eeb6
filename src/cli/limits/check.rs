//! `bursar limits check`: mistakes and warnings, and whether the file is in force.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::super::arguments::duration;
use super::super::output::{note, print_json, say};
use super::super::reach::{Place, Reach};
use super::super::{Exit, Failure};
use super::chosen;
use crate::admin::{self, AdminError, InForce, hex};
use crate::agents::Registry;
use crate::config::ConfigError;
use crate::rules::{Standing, agents_of};
use bursar_config::diagnose::Problem;
use bursar_config::limits;
use bursar_config::warnings::{Surroundings, Warning, warnings};
use bursar_home::Home;

/// Between two questions to the server.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    reach: Reach,
    /// The file to check [default: the one that bursar.toml names]
    file: Option<PathBuf>,
    /// Exit with 1 if there are warnings
    #[arg(long)]
    strict: bool,
    /// Wait until the running server has put this content into force
    #[arg(long)]
    wait: bool,
    /// How long to wait, such as 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, requires = "wait")]
    timeout: Duration,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// `--json`.
#[derive(Serialize)]
struct Report {
    file: String,
    /// Of the content; absent if it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    errors: Vec<Found>,
    warnings: Vec<Found>,
    /// Whether sections were compared with agents.toml.
    agents_known: bool,
    /// With `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<bool>,
}

#[derive(Serialize)]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    what: String,
    way_out: String,
}

impl Check {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        if self.reach.is_used() && self.file.is_none() {
            return Err(Failure::usage(
                "name the file: with --socket no data directory says where it is, as in `bursar limits check --wait \
                 --socket PATH limits.toml`",
            ));
        }
        let (path, text) = chosen(self.file.clone(), &home)?;
        let file = path.display().to_string();
        let at_hand = home.as_ref().ok().filter(|home| home.require_initialised().is_ok());
        let agents = at_hand.and_then(|home| agents_of(&Registry::new(home)));
        let read = text.and_then(|text| {
            let limits = limits::parse(&file, &text)?;
            let around = Surroundings {
                agents: agents.as_deref(),
                // A running server knows the file in force, and logs what a reload drops.
                members: None,
                now: Timestamp::now(),
            };
            let found = warnings(&file, &text, &limits, around);
            Ok((found, Sha256::digest(text.as_bytes()).into()))
        });
        let (found, sha256): (Vec<Warning>, [u8; 32]) = match read {
            Ok(read) => read,
            Err(error) => return self.rejected(file, agents.is_some(), &error),
        };
        let exit = match found.is_empty() || !self.strict {
            true => Exit::Done,
            false => Exit::Negative,
        };
        if !self.json {
            for warning in &found {
                say!("{warning}\n")?;
            }
            let count = match found.len() {
                0 => "no warnings".to_owned(),
                1 => "1 warning".to_owned(),
                more => format!("{more} warnings"),
            };
            say!("{file}: no mistakes, {count}")?;
            if agents.is_none() {
                note!(
                    "bursar: the sections were not compared with the agents: no data directory with an agents.toml is at \
                     hand (--dir D names one)."
                );
            }
        }
        let waited = match self.wait {
            false => None,
            true => Some(wait(&self.reach.place(home)?, &hex(&sha256), self.timeout).await?),
        };
        if self.json {
            print_json(&Report {
                file: file.clone(),
                sha256: Some(hex(&sha256)),
                errors: Vec::new(),
                warnings: found
                    .iter()
                    .map(|warning| Found::of(&warning.problem, Some(warning.code.name())))
                    .collect(),
                agents_known: agents.is_some(),
                in_force: waited.as_ref().map(|waited| matches!(waited, Standing::InForce { .. })),
            })?;
        }
        match waited {
            None => Ok(exit),
            Some(Standing::InForce { .. }) => {
                note!("{file} is in force on the running server.");
                Ok(exit)
            }
            Some(Standing::Rejected { why }) => Err(Failure::usage(format!(
                "the running server does not accept {file}; its earlier limits stay in force: {why}"
            ))),
            Some(Standing::Waiting) => {
                note!(
                    "bursar: {file} is not in force after {} s. The running server has other limits in force: it reads the \
                     file that its bursar.toml names. Look at the server's log, or wait longer with --timeout.",
                    self.timeout.as_secs()
                );
                Ok(Exit::Pending)
            }
        }
    }

    fn rejected(&self, file: String, agents_known: bool, error: &ConfigError) -> Result<Exit, Failure> {
        if !self.json {
            return Err(Failure::usage(error.to_string()));
        }
        let errors = match error {
            ConfigError::Invalid(problems) => problems.iter().map(|problem| Found::of(problem, None)).collect(),
            other => vec![Found {
                code: None,
                line: None,
                column: None,
                what: other.to_string(),
                way_out: String::new(),
            }],
        };
        print_json(&Report {
            file,
            sha256: None,
            errors,
            warnings: Vec::new(),
            agents_known,
            in_force: None,
        })?;
        Ok(Exit::Usage)
    }
}

impl Found {
    fn of(problem: &Problem, code: Option<&'static str>) -> Self {
        Self {
            code,
            line: Some(problem.line),
            column: Some(problem.column),
            what: problem.what.clone(),
            way_out: problem.way_out.clone(),
        }
    }
}

/// Asks until the server has taken or rejected this content, or the time is over.
async fn wait(place: &Place, sha256: &str, timeout: Duration) -> Result<Standing, Failure> {
    let (asked, began) = (
        InForce {
            sha256: sha256.to_owned(),
        },
        Instant::now(),
    );
    loop {
        let standing = admin::standing(&place.door(), &asked).await.map_err(|error| match (place, error) {
            (Place::Home(_), AdminError::NoServer) => Failure::unavailable(
                "no server is running on this data directory, so no limits are in force; start it with `bursar serve`",
            ),
            (place, error) => place.failed(error),
        })?;
        if standing != Standing::Waiting || began.elapsed() >= timeout {
            return Ok(standing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
