//! `bursar env`, and the environment variables that it shares with `run` (R231).
//!
//! There are two CA files: `ca.pem` for variables that add to a client's roots, and `bundle.pem` (the public roots and
//! ours) for variables that replace them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;

use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;

use super::output::{note, print_exact};
use super::{Exit, Failure};
use crate::agents::{IssuedToken, Purpose, Registry};
use crate::config::Config;
use bursar_core::agent_name::AgentName;
use bursar_home::Home;

/// Lifetime of a token that `env` prints (R55).
const LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Args)]
pub(super) struct Env {
    /// Agent whose limits apply
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// Output format
    #[arg(long, value_enum, default_value = "sh")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// `export NAME='value'`
    Sh,
    /// `NAME=value`, for .env files
    Dotenv,
    /// `docker run` arguments: `--env`, and `--volume` for the two CA files
    Docker,
    /// The `env:` list of a Kubernetes container
    K8s,
    /// `set -gx NAME 'value'`
    Fish,
}

impl Env {
    pub(super) fn run(self, home: &Home) -> Result<Exit, Failure> {
        home.require_initialised()?;
        let listen = server_address(home)?;
        let now = Timestamp::now();
        let agent = self.agent.parse::<AgentName>()?;
        let issued = Registry::new(home).mint_temporary(&agent, Purpose::Env, now + LIFE, now)?;
        let variables = variables(home, &listen, &issued, &self.format.inherits());
        print_exact(&self.format.render(&variables, home))?;
        note!(
            "The token in this output expires on {}. `bursar run` needs none of this: it issues its own token.",
            (now + LIFE).strftime("%Y-%m-%d")
        );
        if let Some(note) = self.format.note(home, &listen) {
            note!("{note}");
        }
        Ok(Exit::Done)
    }
}

/// Where the running server listens; if there is none, an error that says how to start it (R56).
pub(super) fn server_address(home: &Home) -> Result<Listen, Failure> {
    let no_server = || {
        Failure::unavailable(format!(
            "no server is running on {}; start one with: bursar serve --dir {}",
            home.root().display(),
            sh_word(&home.root().display().to_string())
        ))
    };
    let scheme = if Config::load(home.root())?.proxy.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let text = std::fs::read_to_string(home.listen()).map_err(|_| no_server())?;
    // A killed server leaves its address behind, and another process may use the port by now. The socket in our own
    // folder cannot belong to another process.
    UnixStream::connect(home.admin_socket()).map_err(|_| no_server())?;
    let mut reached: SocketAddr = text.trim().parse().map_err(|_| no_server())?;
    if reached.ip().is_unspecified() {
        let loopback = match reached {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        reached.set_ip(loopback);
    }
    Ok(Listen {
        scheme,
        address: reached,
    })
}

pub(super) struct Listen {
    scheme: &'static str,
    address: SocketAddr,
}

/// Values already set in the environment that must be kept.
#[derive(Default)]
pub(super) struct Inherited {
    /// Hosts reached without a proxy, from both spellings of the variable.
    no_proxy: Option<String>,
    java_options: Option<String>,
}

impl Inherited {
    pub(super) fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let mut hosts: Vec<String> = Vec::new();
        for name in ["NO_PROXY", "no_proxy"] {
            let value = variable(name).unwrap_or_default();
            for host in value.split([',', ' ']).filter(|host| !host.is_empty()) {
                if !hosts.iter().any(|known| known == host) {
                    hosts.push(host.to_owned());
                }
            }
        }
        Self {
            no_proxy: (!hosts.is_empty()).then(|| hosts.join(",")),
            java_options: variable("JAVA_TOOL_OPTIONS").filter(|options| !options.is_empty()),
        }
    }

    pub(super) fn from_environment() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    /// Most clients read `*` as every host.
    pub(super) fn passes_everything_by(&self) -> bool {
        self.no_proxy
            .as_ref()
            .is_some_and(|hosts| hosts.split(',').any(|host| host == "*"))
    }
}

/// Variables of another proxy that would bypass ours. Package managers prefer their own over the common ones.
pub(super) const STRIPPED: [&str; 20] = [
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
    "grpc_proxy",
    "no_grpc_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "NPM_CONFIG_NOPROXY",
    "CARGO_HTTP_PROXY",
    "PIP_PROXY",
];

/// All the variables listed in R231.
pub(super) fn variables(
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
    variables.push(("JAVA_TOOL_OPTIONS", java_options(*address, inherited)));
    variables
}

/// Java ignores proxy variables but reads these properties; it still never sends the credential (R231).
fn java_options(address: SocketAddr, inherited: &Inherited) -> String {
    let (host, port) = (address.ip(), address.port());
    let ours =
        format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}");
    match &inherited.java_options {
        // A shell may evaluate the exports twice.
        Some(theirs) if theirs.ends_with(&ours) => theirs.clone(),
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours,
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

impl Format {
    /// Formats evaluated in this shell must keep its values; the others are used in another environment.
    fn inherits(self) -> Inherited {
        match self {
            Self::Sh | Self::Fish => Inherited::from_environment(),
            Self::Dotenv | Self::Docker | Self::K8s => Inherited::default(),
        }
    }

    /// What else is needed for these variables to work.
    fn note(self, home: &Home, listen: &Listen) -> Option<String> {
        let dir = home.root().display();
        let files = match self {
            Self::K8s => format!(
                "The container needs {dir}/ca.pem and {dir}/bundle.pem at these paths: mount them from a ConfigMap."
            ),
            Self::Docker => String::new(),
            _ => return None,
        };
        let reach = if listen.address.ip().is_loopback() {
            format!(
                "{} is a loopback address, which a container can reach only with host networking; for any other \
                 network, change `listen` under [proxy] in bursar.toml.",
                listen.address
            )
        } else {
            String::new()
        };
        let lines: Vec<String> = [files, reach].into_iter().filter(|line| !line.is_empty()).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    fn render(self, variables: &[(&str, String)], home: &Home) -> String {
        let mut out = String::new();
        if self == Self::Docker {
            let volume = |path: &Path| {
                let path = path.display();
                format!("--volume {}", sh_quote(&format!("{path}:{path}:ro")))
            };
            out += &format!("{} \\\n{}", volume(&home.ca_certificate()), volume(&home.bundle()));
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

/// A word of a command to copy: quoted only if necessary.
pub(super) fn sh_word(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        sh_quote(value)
    }
}

fn sh_quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn fish_quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Readers of .env files disagree about quotes, so they are used only where necessary.
fn dotenv_quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
    if value.chars().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        if matches!(c, '\\' | '"' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_the_value() {
        assert_eq!(sh_quote("a'b"), r"'a'\''b'");
        assert_eq!((sh_word("/d/a-1"), sh_word("a b")), ("/d/a-1".into(), "'a b'".into()));
        assert_eq!(fish_quote(r"a'\b"), r"'a\'\\b'");
        assert_eq!(dotenv_quote("http://a:b@c:1"), "http://a:b@c:1");
        assert_eq!(dotenv_quote("a b$c`"), r#""a b\$c\`""#);
    }

    #[test]
    fn java_keeps_what_was_set() {
        let ours =
            "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8402 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8402";
        let address = "127.0.0.1:8402".parse().unwrap();
        let with = |options: &str| {
            let inherited = Inherited::from(|name| (name == "JAVA_TOOL_OPTIONS").then(|| options.to_owned()));
            java_options(address, &inherited)
        };
        assert_eq!(with(""), ours);
        assert_eq!(with("-Xmx1g"), format!("-Xmx1g {ours}"));
        assert_eq!(with(&with("-Xmx1g")), format!("-Xmx1g {ours}"));
    }

    #[test]
    fn hosts_without_proxy_are_joined_from_both_spellings() {
        let inherited = |upper: &str, lower: &str| {
            Inherited::from(|name| match name {
                "NO_PROXY" => Some(upper.to_owned()),
                "no_proxy" => Some(lower.to_owned()),
                _ => None,
            })
        };
        assert_eq!(inherited("", "").no_proxy, None);
        assert_eq!(inherited("a, b", "b,c").no_proxy.as_deref(), Some("a,b,c"));
        assert!(inherited("", "a,*").passes_everything_by());
        assert!(!inherited("*.example.com", "").passes_everything_by());
    }
}
