//! The command line. Each command has its own file; this one lists them, runs them, and maps failures to exit codes
//! (R53).

mod agents;
mod alerts;
mod approvals;
mod arguments;
mod backup;
mod ca;
mod clock;
pub(crate) mod dates;
mod demo;
mod environment;
mod evidence;
mod explain;
mod explain_code;
mod init;
mod journal;
mod limits;
mod logging;
mod output;
mod pause;
mod payments;
mod privileges;
mod progress;
mod quote;
mod reach;
mod reconcile;
mod run;
mod sandbox;
mod serve;
mod spend;
mod table;
mod wallet;
mod zone;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use bursar_home::{Home, HomeError};
use clap::{Parser, Subcommand};
use logging::log_to_stderr;
use output::note;

/// A forward proxy that pays HTTP 402 for AI agents, within spending limits, and keeps a verifiable ledger.
#[derive(Parser)]
#[command(name = "bursar", version, after_help = AFTER_HELP)]
struct Arguments {
    /// Data directory [default: $BURSAR_DIR, else the XDG data folder]
    #[arg(long, global = true, value_name = "D")]
    dir: Option<PathBuf>,
    /// Log filter for stderr, such as `debug` or `info,bursar_ledger=debug` [default: info for servers, else error]
    #[arg(long, global = true, value_name = "LEVELS")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 success; 1 failure, mismatch or damage; 2 usage or configuration error; 3 cannot be verified;
4 still pending; 5 no server is running, or the data directory is in use. `run` exits with the exit code of the
command it ran, or with 125 if it could not start it.

New here? Run: bursar demo";

#[derive(Subcommand)]
enum Command {
    /// Create a data directory with configuration, limits, CA and log key; never overwrites a file
    Init(init::Init),
    /// Run the proxy; SIGTERM shuts it down gracefully, SIGHUP reloads limits.toml immediately
    Serve(serve::Serve),
    /// Run a command as an agent, with its traffic going through the proxy
    Run(run::Run),
    /// Print the environment variables that point a client at the proxy, with a token that lasts 30 days or `--ttl`
    Env(environment::Env),
    /// Add, list and revoke agents; rotate, list and revoke their tokens
    #[command(subcommand)]
    Agents(agents::Agents),
    /// List and inspect payments; resolve those that cannot be proven
    #[command(subcommand)]
    Payments(payments::Payments),
    /// Stop payments at once: all, or those of an agent, of a group or to a merchant; `--list` shows what is paused
    Pause(pause::Pause),
    /// Lift a pause, so that payments go on; `paused = true` in limits.toml stays as it is
    Resume(pause::Resume),
    /// Check limits.toml, ask what it decides, compare two versions of it
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Ask a site what a request costs, and what bursar would do about it; nothing is paid
    Quote(quote::Command),
    /// Show what was spent: by agent, merchant, day and so on
    Spend(spend::Spend),
    /// List payments that are waiting for approval
    Pending(approvals::Pending),
    /// Approve a waiting payment, with the code shown in its question
    Approve(approvals::Approve),
    /// Deny a waiting payment; the same purchase is not asked about again for a while
    Deny(approvals::Deny),
    /// Export approval records, and verify exported ones
    #[command(subcommand)]
    Approvals(evidence::Approvals),
    /// Explain why a payment took its offer, and why each other offer of the same 402 was not taken
    Explain(explain::Explain),
    /// Explain a problem code, a reason for an unpaid 402 or the reason of a payment, and what to do about it
    ExplainCode(explain_code::ExplainCode),
    /// Compare the ledger with the chain, settle outstanding payments, and report mismatches
    Reconcile(reconcile::Reconcile),
    /// Show or rotate the certificate authority that agents trust
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Show the wallet that pays
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Back up the ledger, configuration and approvals, whether or not the server is running
    Backup(backup::Backup),
    /// Create a data directory from a backup
    Restore(backup::Restore),
    /// Move old ledger entries to another folder; they still count toward the limits
    Retain(backup::Retain),
    /// Test the alert channels
    #[command(subcommand)]
    Alerts(alerts::AlertsCommand),
    /// Confirm the system clock after a jump, so that payments resume
    #[command(subcommand)]
    Clock(clock::ClockCommand),
    /// Run a sandbox seller, to buy from without real money
    Sandbox(sandbox::Sandbox),
    /// Buy something from a sandbox seller: no network, no keys, nothing to configure
    Demo(demo::Demo),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Failure, mismatch or damage.
    Negative,
    Usage,
    /// Cannot be verified.
    Unverifiable,
    /// Still pending.
    Pending,
    /// No server is running, or the data directory is in use.
    Unavailable,
    /// `run` could not start its command.
    RunFailed,
    /// The child's own code.
    Child(u8),
}

impl Exit {
    /// The code of a command with two results: damage before what could not be verified.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Done, other) | (Self::Unverifiable, other @ Self::Negative) => other,
            (this, _) => this,
        }
    }
}

/// Why a command failed, for the person who typed it.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap prints help on stdout and exits with 0; usage errors go to stderr and exit with 2.
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
            note!("bursar: {failure}");
            failure.exit.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<Exit, Failure> {
    let directory = arguments.dir;
    let home = || Home::locate(directory.as_deref(), |name| std::env::var_os(name)).map_err(Failure::from);
    match arguments.command {
        Command::Init(command) => command.run(&home()?),
        Command::Serve(command) => {
            let home = home()?;
            privileges::drop_capabilities();
            wait(command.run(&home))
        }
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
        Command::Pause(command) => wait(command.run(home())),
        Command::Resume(command) => wait(command.run(home())),
        Command::Limits(command) => wait(command.run(home())),
        Command::Spend(command) => wait(command.run(home())),
        Command::Quote(command) => wait(command.run(&home()?)),
        Command::Pending(command) => wait(command.run(home())),
        Command::Approve(command) => wait(command.run(&home()?)),
        Command::Deny(command) => wait(command.run(&home()?)),
        Command::Approvals(command) => command.run(home),
        Command::Explain(command) => command.run(&home()?),
        Command::ExplainCode(command) => command.run(),
        Command::Reconcile(command) => wait(command.run(&home()?)),
        Command::Ca(command) => command.run(&home()?),
        Command::Wallet(command) => wait(command.run(&home()?)),
        Command::Backup(command) => command.run(&home()?),
        Command::Restore(command) => wait(command.run(&home()?)),
        Command::Retain(command) => wait(command.run(&home()?)),
        Command::Alerts(command) => wait(command.run(&home()?)),
        Command::Clock(command) => wait(command.run(&home()?)),
        Command::Sandbox(command) => wait(command.run(home)),
        Command::Demo(command) => wait(command.run()),
    }
}

/// Runs an asynchronous command on its own runtime.
fn wait(command: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::negative(format!("cannot start the async runtime: {error}")))?;
    let done = runtime.block_on(command);
    // A DNS lookup that is still running must not delay the exit.
    runtime.shutdown_background();
    done
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

impl From<crate::agents::NotATokenId> for Failure {
    fn from(error: crate::agents::NotATokenId) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<bursar_core::agent_name::NotAnAgentName> for Failure {
    fn from(error: bursar_core::agent_name::NotAnAgentName) -> Self {
        Self::usage(error.to_string())
    }
}
