//! Unmodified clients behind `bursar run` and `bursar env`, configured only by environment variables.

mod buying;
mod loopback;
mod node;
mod running;
mod sockets;
mod variables;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::bursar::{Bursar, bin};
use crate::support::buyer::skip;
use crate::support::origin::Origin;
use crate::support::seller;

/// Variables in the environment of the test run that would affect these tests.
const OURS: [&str; 27] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "JAVA_TOOL_OPTIONS",
    "NODE_USE_ENV_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "GIT_SSL_CAINFO",
    "GIT_SSL_NO_VERIFY",
    "BURSAR_DIR",
    "NIX_SSL_CERT_FILE",
    "WS_PROXY",
    "ws_proxy",
    "WSS_PROXY",
    "wss_proxy",
    "grpc_proxy",
    "no_grpc_proxy",
];

fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    for name in OURS {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// `bursar run --agent research -- …`
fn run(dir: &Path, client: &[&str]) -> Command {
    let mut command = bare(bin());
    command
        .args(["run", "--agent", "research", "--dir"])
        .arg(dir)
        .arg("--")
        .args(client);
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn ran(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn found(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A Python that can import these modules.
fn python(modules: &str) -> Option<String> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let imported = Command::new(&python)
        .args(["-c", &format!("import {modules}")])
        .output();
    if imported.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip(&format!(
        "no Python with {modules}: pip install -r tests/interop/agents/requirements.txt, or set PYTHON"
    ));
    None
}

/// Sells "goods" for a cent.
async fn shop() -> Origin {
    Origin::https(|request| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            seller::asks("10000")
        }
    })
    .await
}

fn printed(bursar: &Bursar, format: &str) -> Output {
    let mut command = bare(bin());
    command
        .args(["env", "--agent", "research", "--format", format, "--dir"])
        .arg(bursar.path());
    ran(command)
}
