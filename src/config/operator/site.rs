//! `[[upstream.site]]`: sites that need something of their own.

use std::path::{Path, PathBuf};

use super::intercept::pattern;
use super::path::path;
use bursar_config::secret::SecretSource;
use bursar_config::section::{Entry, Section};
use bursar_core::policy::HostPattern;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SiteSection {
    pub hosts: HostPattern,
    pub tls: SiteTls,
}

/// Who speaks TLS with the site.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SiteTls {
    /// The agent itself: bursar passes its bytes on.
    Passthrough,
    Intercepted {
        /// PEM file: the only certificates that are accepted.
        ca: Option<PathBuf>,
        client: Option<ClientCertificate>,
    },
}

/// Our certificate for the site.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// PEM file.
    pub cert: PathBuf,
    pub key: SecretSource,
}

pub(super) fn sites(entry: &Entry<'_>, dir: &Path) -> Vec<SiteSection> {
    let mut sites: Vec<SiteSection> = Vec::new();
    for item in entry.items().unwrap_or_default() {
        let Some(site) = item.section().and_then(|section| site(&item, section, dir)) else {
            continue;
        };
        if sites.iter().any(|earlier| earlier.hosts == site.hosts) {
            item.reject_key::<()>(
                format!("upstream.site: there are two sections for \"{}\"", site.hosts),
                "Write everything about one host into one section.".to_owned(),
            );
        }
        sites.push(site);
    }
    sites
}

fn site(item: &Entry<'_>, mut section: Section<'_>, dir: &Path) -> Option<SiteSection> {
    let [host, cert, ca, passthrough] = ["host", "client_cert", "ca", "passthrough"].map(|key| section.take(key));
    // Somebody may have written the key itself there.
    let key = section.take("client_key").map(Entry::holding_secrets);
    section.close(&[
        ("hosts", "The key is `host`; write a section for each host."),
        ("cert", "The key is `client_cert`."),
        ("key", "The key is `client_key`."),
        ("extra_ca", "The key is `ca`."),
    ]);
    let Some(host) = host else {
        return item.reject_key(
            "[[upstream.site]] has no `host`".to_owned(),
            "Add host = \"api.example.com\".".to_owned(),
        );
    };
    let hosts = pattern(&host)?;
    if passthrough.is_some_and(|entry| entry.boolean() == Some(true)) {
        if let Some(entry) = [&cert, &key, &ca].into_iter().flatten().next() {
            return entry.reject_key(
                format!("upstream.site.{} has no use with passthrough = true", entry.key()),
                "Remove one of the two: with passthrough the agent itself speaks TLS with the site.".to_owned(),
            );
        }
        let tls = SiteTls::Passthrough;
        return Some(SiteSection { hosts, tls });
    }
    let client = match (&cert, &key) {
        (Some(cert), Some(key)) => Some(ClientCertificate {
            cert: path(cert, dir)?,
            key: key.secret_source()?,
        }),
        (Some(alone), None) => {
            return alone.reject_key(
                "upstream.site.client_cert is set, but client_key is not".to_owned(),
                "Add client_key = \"file:client.key\".".to_owned(),
            );
        }
        (None, Some(alone)) => {
            return alone.reject_key(
                "upstream.site.client_key is set, but client_cert is not".to_owned(),
                "Add client_cert = \"client.pem\".".to_owned(),
            );
        }
        (None, None) => None,
    };
    let ca = ca.as_ref().and_then(|entry| path(entry, dir));
    if ca.is_none() && client.is_none() {
        return host.reject(
            format!("[[upstream.site]] for \"{hosts}\" changes nothing"),
            "Add `ca`, `client_cert` and `client_key`, or passthrough = true; or remove the section.".to_owned(),
        );
    }
    let tls = SiteTls::Intercepted { ca, client };
    Some(SiteSection { hosts, tls })
}
