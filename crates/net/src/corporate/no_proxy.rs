//! `no_proxy` under `[upstream]`: what is reached without the corporate proxy. It is written as in the environment
//! variable of that name, one entry at a time.

use std::net::IpAddr;

use ipnet::IpNet;

use bursar_core::host::Host;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// `*`
    All,
    /// A name, and every name below it.
    Domain(Host),
    Addresses(IpNet),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a host name nor a range of addresses")]
pub struct NoProxyError;

impl NoProxy {
    /// `corp.example`, `.corp.example` and `*.corp.example` mean the same: the name and all below it.
    pub fn add(&mut self, text: &str) -> Result<(), NoProxyError> {
        let net = text.parse::<IpNet>().ok();
        let net = net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let entry = match (text, net) {
            ("*", _) => Entry::All,
            (_, Some(net)) => Entry::Addresses(net.trunc()),
            (name, None) => {
                let name = name.strip_prefix('*').unwrap_or(name);
                let name = name.strip_prefix('.').unwrap_or(name);
                let host = Host::parse(name).map_err(|_| NoProxyError)?;
                match host.ip() {
                    Some(address) => Entry::Addresses(address.into()),
                    None if host.is_disguised_ipv4() => return Err(NoProxyError),
                    None => Entry::Domain(host),
                }
            }
        };
        self.0.push(entry);
        Ok(())
    }

    /// Ranges are compared with hosts that are written as addresses; names are not looked up for it.
    pub fn covers(&self, host: &Host) -> bool {
        self.0.iter().any(|entry| match entry {
            Entry::All => true,
            Entry::Addresses(net) => host.ip().is_some_and(|address| net.contains(&address)),
            Entry::Domain(domain) => {
                let above = host.as_str().strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cover_what_is_below_them_and_ranges_cover_addresses() {
        let mut no_proxy = NoProxy::default();
        for entry in [
            "internal.example.com",
            ".corp",
            "*.lab.example",
            "10.0.0.0/8",
            "192.0.2.7",
            "[2001:db8::1]",
            "fd00::/8",
        ] {
            no_proxy.add(entry).unwrap();
        }
        for (host, covered) in [
            ("internal.example.com", true),
            ("a.Internal.Example.com.", true),
            ("notinternal.example.com", false),
            ("example.com", false),
            ("wiki.corp", true),
            ("corp", true),
            ("corp.example", false),
            ("lab.example", true),
            ("a.b.lab.example", true),
            ("10.1.2.3", true),
            ("11.1.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("[2001:db8::1]", true),
            ("[fd12::1]", true),
            ("[::ffff:10.0.0.1]", true),
        ] {
            assert_eq!(no_proxy.covers(&Host::parse(host).unwrap()), covered, "{host}");
        }
        let mut all = NoProxy::default();
        all.add("*").unwrap();
        assert!(all.covers(&Host::parse("any.example").unwrap()));
        assert!(!NoProxy::default().covers(&Host::parse("any.example").unwrap()));
        for bad in [
            "",
            ".",
            "a b",
            "http://a.example",
            "a.example:80",
            "10.0.0.0/40",
            "a,b",
            "127.1",
        ] {
            assert_eq!(NoProxy::default().add(bad), Err(NoProxyError), "{bad}");
        }
    }
}
