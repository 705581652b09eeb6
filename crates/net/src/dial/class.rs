//! Classifies IP addresses. Only global ones are dialled without an exception in `upstream.allow_private`.
//!
//! From the IANA special-purpose registries (RFC 6890 and its successors). For IPv6 the rule is inverted: everything
//! outside global unicast (2000::/3) is rejected without listing every block. An address of DNS64, which is all that a
//! machine without IPv4 gets for most sites, is judged by the IPv4 address in it. Other transition formats are always
//! rejected, since what they reach depends on a gateway we do not know.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    Global,
    Unspecified,
    Loopback,
    Private,
    LinkLocal,
    CarrierNat,
    Documentation,
    Benchmark,
    Multicast,
    Reserved,
    /// 6to4, Teredo, IPv4-compatible and -translated: IPv6 spellings of an IPv4 address.
    Transition,
    /// A name such as `127.1` that some resolvers read as an IPv4 address.
    Disguised,
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "a public address",
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierNat => "a shared carrier address",
            Self::Documentation => "a documentation address",
            Self::Benchmark => "a benchmarking address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
            Self::Transition => "an IPv4 address embedded in an IPv6 address",
            Self::Disguised => "a number that can be read as an address",
        })
    }
}

pub(crate) fn classify(address: IpAddr) -> AddressClass {
    match address.to_canonical() {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

fn classify_v4(address: Ipv4Addr) -> AddressClass {
    use AddressClass::*;
    match address.octets() {
        [0, ..] => Unspecified,
        [127, ..] => Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Private,
        [169, 254, ..] => LinkLocal,
        [100, 64..=127, ..] => CarrierNat,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Documentation,
        [198, 18..=19, ..] => Benchmark,
        [224..=239, ..] => Multicast,
        // 192.88.99.0/24 was the 6to4 relay anycast prefix (RFC 7526).
        [192, 88, 99, _] => Transition,
        [192, 0, 0, _] | [240..=255, ..] => Reserved,
        _ => Global,
    }
}

fn classify_v6(address: Ipv6Addr) -> AddressClass {
    use AddressClass::*;
    let inner = embedded(address.into());
    if !inner.is_empty() {
        let classes = inner.into_iter().map(classify_v4);
        return classes.into_iter().find(|class| *class != Global).unwrap_or(Global);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Loopback,
        // IPv4-compatible (RFC 4291), IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Transition,
        // Teredo (RFC 4380), 6to4 (RFC 3056).
        [0x2001, 0, ..] | [0x2002, ..] => Transition,
        [0xfc00..=0xfdff, ..] => Private,
        // fec0::/10 was site-local (RFC 3879).
        [0xfe80..=0xfebf, ..] => LinkLocal,
        [0xfec0..=0xfeff, ..] => Private,
        [0xff00..=0xffff, ..] => Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Documentation,
        [0x2001, 2, 0, ..] => Benchmark,
        // The rest of 2001::/23: protocol assignments, ORCHID.
        [0x2001, 0..=0x01ff, ..] => Reserved,
        [0x2000..=0x3fff, ..] => Global,
        _ => Reserved,
    }
}

/// The IPv4 addresses that a NAT64 gateway may read in an address of DNS64. Under the well-known prefix `64:ff9b::/96`
/// there is one. Under `64:ff9b:1::/48` (RFC 8215) the network chooses the length of its prefix; each one that fits
/// the address, by the zeros of RFC 6052 §2.2, may be meant.
pub(crate) fn embedded(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else {
        return Vec::new();
    };
    let octets = address.octets();
    let read = |at: [usize; 4]| Ipv4Addr::from(at.map(|at| octets[at]));
    let last = read([12, 13, 14, 15]);
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        [0x64, 0xff9b, 1, ..] => {
            let is_zero = |from: usize| octets[from..].iter().all(|octet| *octet == 0);
            // Octet 8 is zero in all but the longest.
            let shorter = [([6, 7, 9, 10], 11), ([7, 9, 10, 11], 12), ([9, 10, 11, 12], 13)];
            let fitting = shorter.into_iter().filter(|(_, rest)| octets[8] == 0 && is_zero(*rest));
            let mut all: Vec<Ipv4Addr> = fitting.map(|(at, _)| read(at)).collect();
            if !last.is_unspecified() || all.is_empty() {
                all.push(last);
            }
            all
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::AddressClass::*;
    use super::*;

    #[test]
    fn every_block_and_its_edges() {
        for (text, class) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("1.0.0.0", Global),
            ("9.255.255.255", Global),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Global),
            ("100.63.255.255", Global),
            ("100.64.0.0", CarrierNat),
            ("100.127.255.255", CarrierNat),
            ("100.128.0.0", Global),
            ("100.100.100.200", CarrierNat),
            ("127.0.0.1", Loopback),
            ("127.255.255.254", Loopback),
            ("128.0.0.0", Global),
            ("169.253.255.255", Global),
            ("169.254.169.254", LinkLocal),
            ("169.255.0.0", Global),
            ("172.15.255.255", Global),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Global),
            ("192.0.0.170", Reserved),
            ("192.0.1.0", Global),
            ("192.0.2.1", Documentation),
            ("192.88.99.1", Transition),
            ("192.167.255.255", Global),
            ("192.168.0.1", Private),
            ("192.169.0.0", Global),
            ("198.17.255.255", Global),
            ("198.18.0.0", Benchmark),
            ("198.19.255.255", Benchmark),
            ("198.20.0.0", Global),
            ("198.51.100.7", Documentation),
            ("203.0.113.7", Documentation),
            ("223.255.255.255", Global),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("8.8.8.8", Global),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::2", Transition),
            ("::127.0.0.1", Transition),
            ("::8.8.8.8", Transition),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:169.254.169.254", LinkLocal),
            ("::ffff:10.0.0.1", Private),
            ("::ffff:8.8.8.8", Global),
            ("::ffff:0:127.0.0.1", Transition),
            ("64:ff9b::8.8.8.8", Global),
            ("64:ff9b::127.0.0.1", Loopback),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", LinkLocal),
            ("64:ff9b::100.64.0.1", CarrierNat),
            ("64:ff9b::", Unspecified),
            ("64:ff9b:0:0:0:1::1", Reserved),
            // Prefixes of 96, 64, 56 and 48 bits under the local-use one.
            ("64:ff9b:1:fffe::8.8.8.8", Global),
            ("64:ff9b:1:fffe::10.0.0.1", Private),
            ("64:ff9b:1::169.254.169.254", LinkLocal),
            ("64:ff9b:1:2:8:808:800::", Global),
            ("64:ff9b:1:2:a:0:100::", Private),
            ("64:ff9b:1:808:8:800::", Global),
            ("64:ff9b:1:a00:0:100::", Private),
            ("64:ff9b:1:a9fe:a9:fe00::", LinkLocal),
            ("64:ff9b:1::1", Unspecified),
            ("64:ff9b:2::8.8.8.8", Reserved),
            ("100::1", Reserved),
            ("2001::1", Transition),
            ("2001:2::1", Benchmark),
            ("2001:10::1", Reserved),
            ("2001:20::1", Reserved),
            ("2001:1ff::1", Reserved),
            ("2001:200::1", Global),
            ("2001:db8::1", Documentation),
            ("2002:7f00:1::", Transition),
            ("2003::1", Global),
            ("2606:4700::1111", Global),
            ("3fff::1", Documentation),
            ("3fff:1000::1", Global),
            ("4000::1", Reserved),
            ("5f00::1", Reserved),
            ("fc00::1", Private),
            ("fd00:ec2::254", Private),
            ("fe00::1", Reserved),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(classify(text.parse().unwrap()), class, "{text}");
        }
    }
}
