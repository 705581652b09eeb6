//! The commands. Each is a file; this one names them, runs them, and turns their failures into exit codes (R53).

mod agents;
mod alerts;
mod approvals;
mod backup;
mod ca;
mod clock;
mod demo;
mod environment;
mod evidence;
mod explain;
mod init;
mod output;
mod payments;
mod reconcile;
mod run;
mod sandbox;
mod serve;
mod wallet;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use bursar_home::{Home, HomeError};

/// The agent payment proxy: pays `402 Payment Required` for agents, within limits, and keeps the books.
#[derive(Parser)]
#[command(name = "bursar", version, after_help = AFTER_HELP)]
struct Arguments {
    /// The data directory [default: $BURSAR_DIR, else the XDG data folder]
    #[arg(long, global = true, value_name = "D")]
    dir: Option<PathBuf>,
    /// What to log on stderr, such as `debug` or `info,bursar::ledger=debug` [default: info for servers, else error]
    #[arg(long, global = true, value_name = "LEVELS")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 denied, mismatch or damage; 2 usage or configuration; 3 cannot be verified; 4 still pending;
5 no server, or the directory is in use. `run` exits with its child's code, or 125 when it could not start it.

First minute: bursar demo";

#[derive(Subcommand)]
enum Command {
    /// Make a data directory: configuration, limits, CA, log key; overwrites nothing
    Init(init::Init),
    /// Run the proxy; SIGTERM ends it, SIGHUP looks at limits.toml at once
    Serve(serve::Serve),
    /// Run a command behind the proxy, as an agent
    Run(run::Run),
    /// Print the variables that put a client behind the running proxy, with a token for 30 days
    Env(environment::Env),
    /// Add, list, rotate and revoke agents
    #[command(subcommand)]
    Agents(agents::Agents),
    /// Look at payments, and close those that no proof can close
    #[command(subcommand)]
    Payments(payments::Payments),
    /// List what waits for a person's approval
    Pending(approvals::Pending),
    /// Approve a payment that waits, with the code that its question shows
    Approve(approvals::Approve),
    /// Deny a payment that waits; the same is not asked again for a while
    Deny(approvals::Deny),
    /// Export what people were asked about payments and answered, and check what was exported
    #[command(subcommand)]
    Approvals(evidence::Approvals),
    /// Say why a payment took its offer, and why not each other offer of the same 402
    Explain(explain::Explain),
    /// Compare the books with the chain, settle what is in doubt, and report what does not match
    Reconcile(reconcile::Reconcile),
    /// The certificate authority that agents trust
    #[command(subcommand)]
    Ca(ca::Ca),
    /// The wallet that pays
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Copy the books and what belongs to them, while the server runs or not
    Backup(backup::Backup),
    /// Make a data directory from a backup
    Restore(backup::Restore),
    /// Move old entries of the books to another place; what they counted still counts
    Retain(backup::Retain),
    /// Try the ways in which alerts are told
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Say that the system clock is right after a jump
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    /// Run the demo's seller alone
    Sandbox(sandbox::Sandbox),
    /// Buy something from a sandbox seller: no network, no keys, nothing to configure
    Demo(demo::Demo),
}

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Denied, mismatch or damage.
    Negative,
    Usage,
    /// Cannot be verified.
    Unverifiable,
    /// Not decided yet.
    Pending,
    /// No server, or the directory is in use.
    Unavailable,
    /// `run` could not do its part.
    RunFailed,
    /// The child's own code.
    Child(u8),
}

/// Why a command failed, for the person who typed it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

/// Reads the arguments and does what they say.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help on stdout with 0, mistakes on stderr with 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let levels = arguments.log.as_deref().unwrap_or(match arguments.command {
        Command::Serve(_) | Command::Sandbox(_) => "info,hyper=warn,h2=warn,rustls=warn,sled=warn",
        _ => "error",
    });
    let outcome = log_to_stderr(levels).and_then(|()| dispatch(arguments));
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("bursar: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<Exit, Failure> {
    let directory = arguments.dir;
    let home = || Home::locate(directory.as_deref(), |name| std::env::var_os(name)).map_err(Failure::from);
    match arguments.command {
        Command::Init(command) => command.run(&home()?),
        Command::Serve(command) => wait(command.run(&home()?)),
        Command::Run(command) => {
            let home = home()?;
            wait(command.run(&home)).map_err(|failure| Failure {
                exit: Exit::RunFailed,
                ..failure
            })
        }
        Command::Env(command) => command.run(&home()?),
        Command::Agents(command) => command.run(&home()?),
        Command::Payments(command) => command.run(&home()?),
        Command::Pending(command) => wait(command.run(&home()?)),
        Command::Approve(command) => wait(command.run(&home()?)),
        Command::Deny(command) => wait(command.run(&home()?)),
        Command::Approvals(command) => command.run(home),
        Command::Explain(command) => command.run(&home()?),
        Command::Reconcile(command) => wait(command.run(&home()?)),
        Command::Ca(command) => command.run(&home()?),
        Command::Wallet(command) => wait(command.run(&home()?)),
        Command::Backup(command) => command.run(&home()?),
        Command::Restore(command) => wait(command.run(&home()?)),
        Command::Retain(command) => wait(command.run(&home()?)),
        Command::Alerts(command) => wait(command.run(&home()?)),
        Command::Clock(command) => wait(command.run(&home()?)),
        Command::Sandbox(command) => wait(command.run()),
        Command::Demo(command) => wait(command.run()),
    }
}

/// Runs an asynchronous command on a runtime of its own.
fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::negative(format!("the runtime could not be started: {error}")))?;
    let done = runtime.block_on(command);
    // A name that is still being looked up must not keep the process.
    runtime.shutdown_background();
    done
}

fn log_to_stderr(levels: &str) -> Result<(), Failure> {
    let filter = Targets::from_str(levels)
        .map_err(|error| Failure::usage(format!("--log {levels}: {error}; write for example --log debug")))?;
    // `--log bursar::ledger=debug` is about one part; the others keep their warnings.
    let filter = match filter.default_level() {
        Some(_) => filter,
        None => filter.with_default(Level::WARN),
    };
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(())
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Negative => 1,
            Exit::Usage => 2,
            Exit::Unverifiable => 3,
            Exit::Pending => 4,
            Exit::Unavailable => 5,
            Exit::RunFailed => 125,
            Exit::Child(code) => code,
        })
    }
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    pub fn negative(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Negative,
            message: message.into(),
        }
    }

    pub fn unverifiable(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Unverifiable,
            message: message.into(),
        }
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Unavailable,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<crate::agents::AgentsError> for Failure {
    fn from(error: crate::agents::AgentsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<bursar_core::agent_name::NotAnAgentName> for Failure {
    fn from(error: bursar_core::agent_name::NotAnAgentName) -> Self {
        Self::usage(error.to_string())
    }
}
