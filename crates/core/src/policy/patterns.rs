//! Lists of hosts with an index: whether a host is on one takes as long with a thousand entries as with ten.

use std::collections::HashMap;
use std::fmt;

use super::merchant::{HostPattern, plain};
use crate::host::Host;

/// The patterns of one list, in the file's order.
#[derive(Default)]
pub struct HostPatterns {
    patterns: Vec<HostPattern>,
    /// Where a host stands in `patterns`.
    exact: HashMap<Host, usize>,
    /// The same for `*.example.com`, by `example.com`.
    below: HashMap<Box<str>, usize>,
}

/// The `merchants` lists of one level: an allow list (`None` allows any host) and a deny list, which wins.
#[derive(Debug, Default)]
pub struct MerchantLists {
    pub allow: Option<HostPatterns>,
    pub deny: HostPatterns,
}

/// The host of a request, parsed once for all lists that it is looked up in.
pub struct AskedHost<'a> {
    /// As it was asked for.
    pub text: &'a str,
    parsed: Option<Host>,
    lower: String,
}

impl<'a> AskedHost<'a> {
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            parsed: Host::parse(text).ok(),
            lower: plain(text).to_ascii_lowercase(),
        }
    }
}

impl HostPatterns {
    /// The first entry that the host is on.
    pub fn first(&self, host: &AskedHost<'_>) -> Option<&HostPattern> {
        if self.patterns.is_empty() {
            return None;
        }
        let exact = host.parsed.as_ref().and_then(|parsed| self.exact.get(parsed));
        let name = host.lower.as_str();
        let below = name
            .match_indices('.')
            .filter(|(dot, _)| *dot > 0 && !self.below.is_empty())
            .filter_map(|(dot, _)| self.below.get(&name[dot + 1..]));
        let first = below.chain(exact).min()?;
        self.patterns.get(*first)
    }

    pub fn iter(&self) -> impl Iterator<Item = &HostPattern> {
        self.patterns.iter()
    }

    /// The first entry that every host of `pattern` is on.
    pub fn covering(&self, pattern: &HostPattern) -> Option<&HostPattern> {
        match pattern {
            HostPattern::Exact(host) => self.first(&AskedHost::new(host.as_str())),
            HostPattern::Below(apex) => {
                let itself = self.below.get(apex.as_str());
                let above = apex.as_str().match_indices('.');
                let above = above.filter_map(|(dot, _)| self.below.get(&apex.as_str()[dot + 1..]));
                itself
                    .into_iter()
                    .chain(above)
                    .min()
                    .and_then(|first| self.patterns.get(*first))
            }
        }
    }
}

impl From<Vec<HostPattern>> for HostPatterns {
    fn from(patterns: Vec<HostPattern>) -> Self {
        let (mut exact, mut below) = (HashMap::new(), HashMap::new());
        for (place, pattern) in patterns.iter().enumerate() {
            match pattern {
                HostPattern::Exact(host) => {
                    exact.entry(host.clone()).or_insert(place);
                }
                HostPattern::Below(apex) => {
                    below.entry(apex.as_str().into()).or_insert(place);
                }
            }
        }
        Self { patterns, exact, below }
    }
}

/// As written; the index follows from that.
impl fmt::Debug for HostPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.patterns.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = HostPattern> {
        prop::sample::select(vec![
            "a.example.com",
            "example.com",
            "*.example.com",
            "*.a.example.com",
            "*.com",
            "b.example",
            "127.0.0.1",
            "::1",
            "localhost",
        ])
        .prop_map(|text| HostPattern::parse(text).unwrap())
    }

    proptest! {
        /// The index finds what going through the list would find.
        #[test]
        fn the_index_finds_the_first_match(
            patterns in prop::collection::vec(pattern(), 0..8),
            host in prop::sample::select(vec![
                "a.example.com", "A.Example.COM.", "x.a.example.com", "example.com", ".example.com", "com", "b.example",
                "127.0.0.1", "[::1]", "0:0:0:0:0:0:0:1", "localhost", "", "example.com.evil.org",
            ]),
        ) {
            let plainly = patterns.iter().find(|pattern| pattern.matches(host)).cloned();
            let indexed = HostPatterns::from(patterns);
            prop_assert_eq!(indexed.first(&AskedHost::new(host)).cloned(), plainly);
        }

        #[test]
        fn what_covers_a_pattern_matches_its_hosts(patterns in prop::collection::vec(pattern(), 1..6), asked in pattern()) {
            let indexed = HostPatterns::from(patterns);
            let host = match &asked {
                HostPattern::Exact(host) => host.to_string(),
                HostPattern::Below(apex) => format!("z.y.{apex}"),
            };
            let covering = indexed.covering(&asked);
            prop_assert_eq!(covering.is_some(), indexed.first(&AskedHost::new(&host)).is_some());
            if let Some(covering) = covering {
                prop_assert!(covering.matches(&host));
            }
        }
    }
}
