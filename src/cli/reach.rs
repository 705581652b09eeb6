//! By which socket a command reaches the server: the operator's in the data directory, or the one that `[people]` opens
//! for users who cannot enter it.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure};
use crate::admin::{AdminError, Door};
use bursar_home::Home;

#[derive(Args, Clone, Debug, Default)]
pub(super) struct Reach {
    /// Ask the server at this socket, as `[people] socket` in bursar.toml names it; no data directory is needed
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Where the command acts.
pub(super) enum Place {
    /// A data directory, with or without a server.
    Home(Home),
    /// Only a server.
    Socket(Door),
}

impl Reach {
    pub(super) fn place(&self, home: Result<Home, Failure>) -> Result<Place, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(Place::Socket(Door::at(socket)));
        }
        let home = home?;
        home.require_initialised()?;
        Ok(Place::Home(home))
    }

    pub(super) const fn is_used(&self) -> bool {
        self.socket.is_some()
    }
}

impl Place {
    pub(super) fn door(&self) -> Door {
        match self {
            Self::Home(home) => Door::of(home),
            Self::Socket(door) => door.clone(),
        }
    }

    /// The data directory in which the command acts by itself when no server runs.
    pub(super) fn without_server(&self) -> Result<&Home, Failure> {
        match self {
            Self::Home(home) => Ok(home),
            Self::Socket(door) => Err(Failure::unavailable(format!(
                "no server listens at {}: start `bursar serve`, or look at [people] socket in its bursar.toml",
                door.path().display()
            ))),
        }
    }

    /// What an answer that is no answer means for a command that needs the server.
    pub(super) fn failed(&self, error: AdminError) -> Failure {
        match error {
            AdminError::NoServer => self.without_server().err().unwrap_or_else(|| {
                Failure::unavailable("no server is running on this data directory; start `bursar serve`")
            }),
            error => failed(error),
        }
    }
}

/// With the exit codes of the other commands.
pub(super) fn failed(error: AdminError) -> Failure {
    match error {
        AdminError::NoAccess(_) => Failure {
            exit: Exit::Unavailable,
            message: error.to_string(),
        },
        error => Failure::negative(error.to_string()),
    }
}
