//! `[intercept]`: whose TLS bursar does not open. What it does not open it cannot read, and never pays for.

use std::fmt;

use bursar_config::section::{Entry, Section};
use bursar_core::host::Host;
use bursar_core::policy::HostPattern;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intercept {
    /// Also the sites with `passthrough = true`.
    pub never: Vec<HostPattern>,
    /// Empty: all that are not in `never`.
    pub only: Vec<HostPattern>,
}

impl Intercept {
    /// Whether TLS with `host` ends at bursar. `never` wins over `only`.
    pub(crate) fn reads(&self, host: &Host) -> bool {
        let is_in = |list: &[HostPattern]| list.iter().any(|hosts| hosts.matches(host.as_str()));
        !is_in(&self.never) && (self.only.is_empty() || is_in(&self.only))
    }

    /// Whether it may read a host that this pattern means.
    pub(crate) fn reads_some_of(&self, hosts: &HostPattern) -> bool {
        match hosts {
            HostPattern::Exact(host) => self.reads(host),
            // One that no other pattern is likely to name alone.
            HostPattern::Below(apex) => {
                Host::parse(&format!("any-other-host.{apex}")).is_ok_and(|host| self.reads(&host))
            }
        }
    }

    /// Whether there is anything that it does not read.
    pub(crate) fn is_everything(&self) -> bool {
        self.never.is_empty() && self.only.is_empty()
    }
}

/// For the log.
impl fmt::Display for Intercept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |hosts: &[HostPattern]| hosts.iter().map(HostPattern::to_string).collect::<Vec<_>>().join(", ");
        match (&self.never[..], &self.only[..]) {
            ([], []) => f.write_str("none"),
            (never, []) => f.write_str(&list(never)),
            ([], only) => write!(f, "all except {}", list(only)),
            (never, only) => write!(f, "all except {}, and of these {}", list(only), list(never)),
        }
    }
}

pub(super) fn intercept(mut section: Section<'_>) -> Intercept {
    let [never, only] = ["never", "only"].map(|key| {
        let items = section.take(key).and_then(|entry| entry.one_or_more());
        let items = items.unwrap_or_default();
        items.iter().filter_map(pattern).collect()
    });
    section.close(&[
        ("passthrough", "The key is `never`."),
        ("exclude", "The key is `never`."),
        ("include", "The key is `only`."),
    ]);
    Intercept { never, only }
}

pub(super) fn pattern(entry: &Entry<'_>) -> Option<HostPattern> {
    let text = entry.text()?;
    HostPattern::parse(text).map_or_else(
        |why| {
            entry.reject(
                format!("{}: \"{text}\" is not a valid host: {why}", entry.path()),
                "Write a host name or an address, or \"*.example.com\" for everything below a name.".to_owned(),
            )
        },
        Some,
    )
}
