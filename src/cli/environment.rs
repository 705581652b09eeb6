//! `bursar env`, and the list of variables that it shares with `run` (product digest §2.2).
//!
//! Two CA files: `ca.pem` alone for variables that add to a client's roots, `bundle.pem` (public roots and ours) for those
//! that replace them.

use std::path::Path;

use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use super::{Exit, Failure};
use crate::agents::{AgentName, IssuedToken, Purpose, Registry};
use crate::config::Config;
use crate::home::Home;

/// A token that `env` prints ends by itself (Ruling 55).
const LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Args)]
pub struct Env {
    /// The agent whose budget counts
    #[arg(long)]
    agent: String,
    /// Who is to read the variables
    #[arg(long, value_enum, default_value = "sh")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `export NAME='value'`
    Sh,
    /// `NAME=value`, for env files
    Dotenv,
    /// `--volume` and `--env` arguments of `docker run`
    Docker,
    /// The `env:` list of a container
    K8s,
    /// `set -gx NAME 'value'`
    Fish,
}

impl Env {
    pub fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let listen = server_address(home)?;
        let now = Timestamp::now();
        let agent = self.agent.parse::<AgentName>()?;
        let issued = Registry::new(home).mint_temporary(&agent, Purpose::Env, now + LIFE, now)?;
        let variables = variables(home, &listen, &issued, &Inherited::none());
        print!("{}", self.format.render(&variables, home));
        eprintln!(
            "This token ends on {}; `bursar run` needs none.",
            (now + LIFE).strftime("%Y-%m-%d")
        );
        Ok(Exit::Done)
    }
}

/// Where the running server listens; without one, how to start it (Ruling 56).
pub fn server_address(home: &Home) -> Result<Listen, Failure> {
    let no_server = || {
        Failure::unavailable(format!(
            "no server runs on {dir}; start it with: bursar serve --dir {dir}",
            dir = home.root().display()
        ))
    };
    let scheme = if Config::load(home.root())?.proxy.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let text = std::fs::read_to_string(home.listen()).map_err(|_| no_server())?;
    // The file may be left over from a server that was killed.
    let reached: std::net::SocketAddr = text.trim().parse().map_err(|_| no_server())?;
    let reached = if reached.ip().is_unspecified() {
        ([127, 0, 0, 1], reached.port()).into()
    } else {
        reached
    };
    std::net::TcpStream::connect_timeout(&reached, std::time::Duration::from_secs(2)).map_err(|_| no_server())?;
    Ok(Listen {
        scheme,
        address: reached.to_string(),
    })
}

pub struct Listen {
    scheme: &'static str,
    address: String,
}

/// What the surrounding environment says already and must be kept.
pub struct Inherited {
    pub no_proxy: Option<String>,
    pub java_options: Option<String>,
}

impl Inherited {
    fn none() -> Self {
        Self {
            no_proxy: None,
            java_options: None,
        }
    }
}

/// Variables of an earlier proxy that would lead past ours.
pub const STRIPPED: [&str; 10] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "FTP_PROXY",
    "ftp_proxy",
];

/// Every variable, in the order of the digest.
pub fn variables(
    home: &Home,
    listen: &Listen,
    issued: &IssuedToken,
    inherited: &Inherited,
) -> Vec<(&'static str, String)> {
    let Listen { scheme, address } = listen;
    let proxy = format!("{scheme}://{}:{}@{address}", issued.agent, issued.token.expose_secret());
    let (ca, bundle) = (text(&home.ca_certificate()), text(&home.bundle()));
    let mut variables = Vec::with_capacity(32);
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
        "grpc_proxy",
    ] {
        variables.push((name, proxy.clone()));
    }
    if let Some(no_proxy) = &inherited.no_proxy {
        variables.push(("NO_PROXY", no_proxy.clone()));
        variables.push(("no_proxy", no_proxy.clone()));
    }
    variables.push(("NODE_USE_ENV_PROXY", "1".into()));
    for name in ["NODE_EXTRA_CA_CERTS", "DENO_CERT"] {
        variables.push((name, ca.clone()));
    }
    for name in [
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "AWS_CA_BUNDLE",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
        "npm_config_cafile",
    ] {
        variables.push((name, bundle.clone()));
    }
    variables.push(("GIT_HTTP_PROXY_AUTHMETHOD", "basic".into()));
    variables.push(("JAVA_TOOL_OPTIONS", java_options(address, inherited)));
    variables
}

/// Java reads no proxy variables; these properties work, except that it never sends the credential (product digest §2.2).
fn java_options(address: &str, inherited: &Inherited) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let ours =
        format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}");
    match &inherited.java_options {
        Some(theirs) if !theirs.is_empty() => format!("{theirs} {ours}"),
        _ => ours,
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Format {
    fn render(self, variables: &[(&str, String)], home: &Home) -> String {
        let mut out = String::new();
        if self == Self::Docker {
            out += &format!(
                "--volume '{dir}/ca.pem:{dir}/ca.pem:ro' \\\n--volume '{dir}/bundle.pem:{dir}/bundle.pem:ro'",
                dir = home.root().display()
            );
        }
        for (name, value) in variables {
            out += &match self {
                Self::Sh => format!("export {name}={}\n", sh_quote(value)),
                Self::Dotenv => format!("{name}={}\n", dotenv_quote(value)),
                Self::Docker => format!(" \\\n--env {}", sh_quote(&format!("{name}={value}"))),
                Self::K8s => format!("- name: {name}\n  value: {}\n", serde_json::Value::from(value.as_str())),
                Self::Fish => format!("set -gx {name} {}\n", fish_quote(value)),
            };
        }
        if self == Self::Docker {
            out.push('\n');
        }
        out
    }
}

fn sh_quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn fish_quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Readers of env files disagree about quotes, so they are used only where a space needs them.
fn dotenv_quote(value: &str) -> String {
    if value.contains([' ', '#', '"', '\'', '$', '\\']) {
        format!(
            "\"{}\"",
            value.replace('\\', r"\\").replace('"', "\\\"").replace('$', r"\$")
        )
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_the_value() {
        assert_eq!(sh_quote("a'b"), r"'a'\''b'");
        assert_eq!(fish_quote(r"a'\b"), r"'a\'\\b'");
        assert_eq!(dotenv_quote("http://a:b@c:1"), "http://a:b@c:1");
        assert_eq!(dotenv_quote("a b$c"), r#""a b\$c""#);
    }

    #[test]
    fn java_keeps_what_was_set() {
        let inherited = Inherited {
            no_proxy: None,
            java_options: Some("-Xmx1g".into()),
        };
        assert_eq!(
            java_options("127.0.0.1:8402", &inherited),
            "-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8402 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8402"
        );
    }
}
