//! `bursar run --agent NAME -- CMD…`: runs a command behind the proxy, with its own token that is revoked afterwards.

use std::ffi::OsString;
use std::fs::File;
use std::process::ExitStatus;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::environment::{Files, Inherited, Loopback, STRIPPED, old_node, server_address, variables, write_node_proxy};
use super::output::note;
use super::{Exit, Failure};
use crate::agents::{Purpose, Registry};
use crate::config::{Config, SecretSource};
use bursar_core::agent_name::AgentName;
use bursar_home::Home;

/// Expires the token of a `run` that was killed before it could revoke it.
const LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Args)]
pub(super) struct Run {
    /// Agent whose limits apply
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    pub(super) async fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let config = Config::load(home.root())?;
        let listen = server_address(home, &config)?;
        let secrets = secret_variables(&config);
        let agent = self.agent.parse::<AgentName>()?;
        if let Some(version) = old_node(&self.command[0]).await {
            note!(
                "bursar: Node {version} ignores proxy variables. bursar makes its `fetch`, `http` and `https` use the \
                 proxy; connections that the program opens in other ways bypass bursar and are not paid. Node 22.21 \
                 and newer read the variables."
            );
        }
        write_node_proxy(home)?;
        let registry = Registry::new(home);
        let now = Timestamp::now();
        let issued = registry.mint_temporary(&agent, Purpose::Run, now + LIFE, now)?;

        let inherited = Inherited::from_environment();
        if inherited.passes_everything_by() {
            note!("bursar: NO_PROXY contains \"*\", so requests bypass bursar and are not paid. Unset it.");
        }
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        for name in STRIPPED {
            command.env_remove(name);
        }
        // The shell that starts `serve` often starts `run` too: secrets of the server must not reach the child.
        for name in &secrets {
            command.env_remove(name);
        }
        let loopback = Loopback::of(&config.upstream.allow_private);
        command.envs(variables(&listen, &issued, &Files::here(home), &inherited, loopback));
        let ended = follow(command).await;

        if let Err(error) = registry.forget(&issued.digest, Timestamp::now()) {
            note!("bursar: the token of this run could not be revoked ({error}); it expires by itself within 30 days");
        }
        let status = ended
            .map_err(|error| Failure::negative(format!("cannot run {}: {error}", self.command[0].to_string_lossy())))?;
        Ok(Exit::Child(code(status)))
    }
}

/// Waits for the child and forwards signals to it. A terminal sends Ctrl-C to the child as well, so there an interrupt
/// must only not end us first; without a terminal it was sent to us alone.
async fn follow(mut command: Command) -> std::io::Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let on_terminal = File::open("/dev/tty").is_ok();
    let mut child = command.spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = terminate.recv() => hand_on(&child, Signal::TERM),
            _ = hangup.recv() => hand_on(&child, Signal::HUP),
            _ = interrupt.recv() => if !on_terminal { hand_on(&child, Signal::INT) },
            _ = quit.recv() => if !on_terminal { hand_on(&child, Signal::QUIT) },
        }
    }
}

fn hand_on(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may just have ended; then `wait` reports that next.
        let _ = kill_process(pid, signal);
    }
}

/// As shells report it: the exit code, or 128 plus the signal.
fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The environment variables that bursar.toml reads secrets from.
fn secret_variables(config: &Config) -> Vec<String> {
    let variable = |source: &SecretSource| match source {
        SecretSource::Env(name) => Some(name.clone()),
        // The folder of credentials can be read by the whole uid, as the data directory can.
        SecretSource::File(_) | SecretSource::Credential(_) => None,
    };
    config.secrets().filter_map(variable).collect()
}
