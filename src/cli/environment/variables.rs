//! The variables themselves (R231).
//!
//! There are two CA files: `ca.pem` for variables that add to a client's roots, and `bundle.pem` (the public roots and
//! ours) for variables that replace them.

use std::path::{Path, PathBuf};

use bursar_core::host::Authority;
use bursar_home::Home;
use secrecy::ExposeSecret;

use super::Listen;
use super::no_proxy::{Loopback, NoProxy};
use super::node::node_options;
use crate::agents::IssuedToken;

/// The proxy's URL. Clients look for the scheme of the site: aiohttp for `ws` and `wss`, gRPC for its own name; some
/// package managers read only a name of their own.
const PROXIES: [&str; 13] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "WS_PROXY",
    "ws_proxy",
    "WSS_PROXY",
    "wss_proxy",
    "grpc_proxy",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
];

/// Adds to the client's own roots.
const ADDED: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// Replaces the client's roots.
const REPLACED: [&str; 14] = [
    "SSL_CERT_FILE",
    "NIX_SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "npm_config_cafile",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "PERL_LWP_SSL_CA_FILE",
    "HEX_CACERTS_PATH",
];

/// Variables of another proxy that would bypass ours. Package managers prefer their own over the common ones.
pub(in crate::cli) const STRIPPED: [&str; 29] = [
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
    "WS_PROXY",
    "ws_proxy",
    "WSS_PROXY",
    "wss_proxy",
    "grpc_proxy",
    "no_grpc_proxy",
    "npm_config_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "NPM_CONFIG_PROXY",
    "NPM_CONFIG_HTTPS_PROXY",
    "NPM_CONFIG_NOPROXY",
    "YARN_HTTP_PROXY",
    "YARN_HTTPS_PROXY",
    "CARGO_HTTP_PROXY",
    "PIP_PROXY",
    "CLOUDSDK_PROXY_TYPE",
    "CLOUDSDK_PROXY_ADDRESS",
    "CLOUDSDK_PROXY_PORT",
];

/// Where a client finds the files that its variables name.
pub(in crate::cli) struct Files {
    pub ca: PathBuf,
    pub bundle: PathBuf,
    /// `None` where it may be missing: a Node that cannot load what `NODE_OPTIONS` names does not start.
    pub node_proxy: Option<PathBuf>,
}

impl Files {
    pub(in crate::cli) fn here(home: &Home) -> Self {
        Self {
            ca: home.ca_certificate(),
            bundle: home.bundle(),
            node_proxy: Some(home.node_proxy()),
        }
    }

    /// The same files in another folder.
    pub(super) fn in_folder(self, folder: &Path) -> Self {
        let there = |file: PathBuf| {
            file.file_name()
                .map_or_else(|| folder.to_owned(), |name| folder.join(name))
        };
        Self {
            ca: there(self.ca),
            bundle: there(self.bundle),
            node_proxy: self.node_proxy.map(there),
        }
    }
}

/// Values already set in the environment that must be kept.
#[derive(Default)]
pub(in crate::cli) struct Inherited {
    no_proxy: NoProxy,
    java_options: Option<String>,
    node_options: Option<String>,
}

impl Inherited {
    fn from(variable: impl Fn(&str) -> Option<String>) -> Self {
        let options = |name| variable(name).filter(|options| !options.is_empty());
        Self {
            no_proxy: NoProxy::from(&variable),
            java_options: options("JAVA_TOOL_OPTIONS"),
            node_options: options("NODE_OPTIONS"),
        }
    }

    pub(in crate::cli) fn from_environment() -> Self {
        Self::from(|name| std::env::var(name).ok())
    }

    pub(in crate::cli) fn passes_everything_by(&self) -> bool {
        self.no_proxy.passes_everything_by()
    }
}

pub(in crate::cli) fn variables(
    listen: &Listen,
    issued: &IssuedToken,
    files: &Files,
    inherited: &Inherited,
    loopback: Loopback,
) -> Vec<(&'static str, String)> {
    let Listen { scheme, authority } = listen;
    let proxy = format!(
        "{scheme}://{}:{}@{authority}",
        issued.agent,
        issued.token.expose_secret()
    );
    let mut variables = Vec::with_capacity(40);
    let mut set = |names: &[&'static str], value: String| {
        variables.extend(names.iter().map(|name| (*name, value.clone())));
    };
    set(&PROXIES, proxy);
    if let Some(hosts) = inherited.no_proxy.value(loopback) {
        set(&["NO_PROXY", "no_proxy"], hosts);
    }
    set(&ADDED, files.ca.display().to_string());
    set(&REPLACED, files.bundle.display().to_string());
    set(&["NODE_USE_ENV_PROXY"], "1".into());
    if let Some(file) = &files.node_proxy {
        set(&["NODE_OPTIONS"], node_options(inherited.node_options.as_deref(), file));
    }
    set(&["GIT_HTTP_PROXY_AUTHMETHOD"], "basic".into());
    set(
        &["JAVA_TOOL_OPTIONS"],
        java_options(authority, inherited.java_options.as_deref()),
    );
    variables
}

/// Java ignores proxy variables but reads these properties; it still never sends the credential (R231). By itself it
/// reaches loopback without a proxy.
fn java_options(proxy: &Authority, inherited: Option<&str>) -> String {
    let (host, port) = (&proxy.host, proxy.port);
    let ours =
        format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttps.proxyHost={host} -Dhttps.proxyPort={port}");
    match inherited {
        // A shell may evaluate the exports twice.
        Some(theirs) if theirs.ends_with(&ours) => theirs.to_owned(),
        Some(theirs) => format!("{theirs} {ours}"),
        None => ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_keeps_what_was_set() {
        let ours =
            "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8402 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8402";
        let proxy = Authority::parse("127.0.0.1:8402").unwrap();
        let with = |options: &str| {
            let inherited = Inherited::from(|name| (name == "JAVA_TOOL_OPTIONS").then(|| options.to_owned()));
            java_options(&proxy, inherited.java_options.as_deref())
        };
        assert_eq!(with(""), ours);
        assert_eq!(with("-Xmx1g"), format!("-Xmx1g {ours}"));
        assert_eq!(with(&with("-Xmx1g")), format!("-Xmx1g {ours}"));
    }

    #[test]
    fn whatever_is_set_replaces_what_a_child_inherits() {
        let set: Vec<&str> = PROXIES.iter().chain(&ADDED).chain(&REPLACED).copied().collect();
        let mut once = set.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), set.len(), "a variable is set twice");
        for name in PROXIES {
            assert!(STRIPPED.contains(&name), "{name}");
        }
    }
}
