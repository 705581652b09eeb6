//! Which hosts clients reach without the proxy.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Loopback, in the spellings that clients read: names and addresses are compared as text by most, ranges are read by
/// curl, Go and requests. `[::1]` is left out: Python and Node would read it, but httpx takes it for a wrong URL and
/// fails at every request.
const LOOPBACK: [&str; 4] = ["localhost", "127.0.0.1", "127.0.0.0/8", "::1"];

/// How an agent reaches services on its own machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Loopback {
    /// Without bursar, which would refuse it: a development server, a database.
    Direct,
    /// Through bursar, which pays there: `allow_private` lists loopback.
    Proxied,
}

/// The hosts of `NO_PROXY`, as the environment has it.
#[derive(Default)]
pub(in crate::cli) struct NoProxy {
    hosts: Vec<String>,
}

impl Loopback {
    pub(in crate::cli) fn of(allow_private: &[IpNet]) -> Self {
        let loopback = [
            IpNet::new(Ipv4Addr::LOCALHOST.into(), 8),
            IpNet::new(Ipv6Addr::LOCALHOST.into(), 128),
        ];
        let listed = loopback
            .iter()
            .flatten()
            .any(|range| allow_private.iter().any(|net| overlap(net, range)));
        if listed { Self::Proxied } else { Self::Direct }
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

impl NoProxy {
    /// From both spellings of the variable.
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
        Self { hosts }
    }

    /// Most clients read `*` as every host.
    pub(in crate::cli) fn passes_everything_by(&self) -> bool {
        self.hosts.iter().any(|host| host == "*")
    }

    /// The value to set: what was there, and loopback if agents reach it directly.
    pub(super) fn value(&self, loopback: Loopback) -> Option<String> {
        let mut hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        // curl reads `*` only where it stands alone.
        if loopback == Loopback::Direct && !self.passes_everything_by() {
            let missing = LOOPBACK
                .iter()
                .filter(|host| !self.hosts.iter().any(|known| known == *host));
            hosts.extend(missing);
        }
        (!hosts.is_empty()).then(|| hosts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inherited(upper: &str, lower: &str) -> NoProxy {
        NoProxy::from(|name| match name {
            "NO_PROXY" => Some(upper.to_owned()),
            "no_proxy" => Some(lower.to_owned()),
            _ => None,
        })
    }

    #[test]
    fn hosts_are_joined_from_both_spellings() {
        let kept = |upper, lower| inherited(upper, lower).value(Loopback::Proxied);
        assert_eq!(kept("", ""), None);
        assert_eq!(kept("a, b", "b,c").as_deref(), Some("a,b,c"));
        assert!(inherited("", "a,*").passes_everything_by());
        assert!(!inherited("*.example.com", "").passes_everything_by());
    }

    #[test]
    fn loopback_is_added_once() {
        let value = |upper: &str, lower: &str| inherited(upper, lower).value(Loopback::Direct).unwrap();
        assert_eq!(value("", ""), "localhost,127.0.0.1,127.0.0.0/8,::1");
        assert_eq!(value("::1,a", "localhost"), "::1,a,localhost,127.0.0.1,127.0.0.0/8");
        assert_eq!(value(&value("a", ""), &value("a", "")), value("a", ""));
        assert_eq!(value("*", ""), "*");
    }

    #[test]
    fn any_part_of_loopback_in_allow_private_counts() {
        let of = |nets: &[&str]| {
            let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
            Loopback::of(&nets)
        };
        assert_eq!(of(&[]), Loopback::Direct);
        assert_eq!(of(&["10.0.0.0/8", "fd00::/8", "128.0.0.0/8"]), Loopback::Direct);
        for net in [
            "127.0.0.0/8",
            "127.0.0.1/32",
            "127.8.0.0/16",
            "::1/128",
            "0.0.0.0/0",
            "::/64",
        ] {
            assert_eq!(of(&["10.0.0.0/8", net]), Loopback::Proxied, "{net}");
        }
    }
}
