//! `bursar limits`: finance checks limits.toml, asks what it decides, and compares two versions of it. Nothing here holds
//! money, and no file is changed.

mod check;
mod diff;
mod show;
mod test;
mod try_purchase;

pub(super) use try_purchase::in_figures;

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{Exit, Failure};
use crate::config::{Config, ConfigError, LimitsFile};
use bursar_config::limits;
use bursar_core::policy::Limits;
use bursar_home::Home;

#[derive(Subcommand)]
pub(super) enum LimitsCommand {
    /// Show every mistake in limits.toml, and what is probably not meant
    Check(check::Check),
    /// Show the limits in force, where each is written, and how far the budgets are used
    Show(show::Show),
    /// Ask what would be decided about a purchase, and which rules decide; nothing is held or bought
    Try(try_purchase::Try),
    /// Compare two files: which agents may spend more, and which less, each with a purchase that shows it
    Diff(diff::Diff),
    /// Run the cases in a folder against a file
    Test(test::Test),
}

impl LimitsCommand {
    pub(super) async fn run(self, home: Result<Home, Failure>) -> Result<Exit, Failure> {
        match self {
            Self::Check(command) => command.run(home).await,
            Self::Show(command) => command.run(home).await,
            Self::Try(command) => command.run(home).await,
            Self::Diff(command) => command.run(),
            Self::Test(command) => command.run(&home),
        }
    }
}

/// limits.toml as bursar.toml of this data directory names it.
fn configured(home: &Home) -> Result<LimitsFile, Failure> {
    home.require_initialised()?;
    let config = Config::load(home.root()).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(config.limits)
}

/// The text of a file that somebody names, whoever it belongs to: nothing is paid by it.
fn text_of(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |reason: String| ConfigError::Unreadable {
        file: path.display().to_string(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|error| unreadable(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))
}

/// What the command is about: the file that is named, or else the one that bursar.toml names.
fn chosen(
    file: Option<PathBuf>,
    home: &Result<Home, Failure>,
) -> Result<(PathBuf, Result<String, ConfigError>), Failure> {
    match (file, home) {
        (Some(path), _) => {
            let text = text_of(&path);
            Ok((path, text))
        }
        (None, Ok(home)) => {
            let file = configured(home)?;
            Ok((file.path().to_owned(), file.read()))
        }
        (None, Err(failure)) => Err(Failure::usage(failure.to_string())),
    }
}

/// Limits of a file that somebody names. Its mistakes are a usage error.
fn limits_of(path: &Path) -> Result<Limits, Failure> {
    let read = text_of(path).and_then(|text| limits::parse(&path.display().to_string(), &text));
    read.map_err(|error| Failure::usage(error.to_string()))
}
