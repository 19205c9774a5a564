//! How close an address is to us, and which of them a server may send us to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// The closeness of an address: a server may send us to its own class or further out, never further in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// This machine.
    Loopback,
    /// This site: RFC 1918, unique local, carrier-grade NAT, benchmarking.
    Private,
    /// Everywhere else.
    Public,
}

impl Class {
    /// Returns the class of `address`; `None` is where no server may ever send us: link-local, metadata services, multicast,
    /// unspecified and reserved addresses.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => Self::of_v4(v4),
            IpAddr::V6(v6) => match embedded(v6) {
                Some(v4) => Self::of_v4(v4),
                None => Self::of_v6(v6),
            },
        }
    }

    fn of_v4(address: Ipv4Addr) -> Option<Self> {
        // Metadata services of Alibaba and Azure hide among ordinary addresses.
        const METADATA: [[u8; 4]; 2] = [[100, 100, 100, 200], [168, 63, 129, 16]];
        let octets = address.octets();
        match octets {
            _ if METADATA.contains(&octets) => None,
            [127, ..] => Some(Self::Loopback),
            [0 | 224.., ..] | [169, 254, ..] | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
                None
            }
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18..=19, ..] => {
                Some(Self::Private)
            }
            _ => Some(Self::Public),
        }
    }

    fn of_v6(address: Ipv6Addr) -> Option<Self> {
        // Metadata services of AWS and Google.
        const METADATA: [[u16; 8]; 2] =
            [[0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]];
        let segments = address.segments();
        match segments {
            _ if METADATA.contains(&segments) => None,
            [0, 0, 0, 0, 0, 0, 0, 1] => Some(Self::Loopback),
            [0xfc00..=0xfdff, ..] => Some(Self::Private),
            // Documentation, and Teredo, which tunnels to an address inside it.
            [0x2001, 0xdb8 | 0, ..] => None,
            [0x2000..=0x3fff, ..] => Some(Self::Public),
            _ => None,
        }
    }
}

/// Returns the IPv4 address that a mapped, NAT64 or 6to4 address stands for.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// A resolver that gives no address closer than its floor.
///
/// It screens what the connection is then made to, so a name that resolves differently the second time gains nothing.
pub(crate) struct Screen {
    /// The closest class allowed; `None` for hosts that the user named.
    pub(crate) floor: Option<Class>,
    /// Hosts for which any class will do.
    pub(crate) exempt: Arc<BTreeSet<String>>,
}

impl Screen {
    /// Whether `host` may be reached at `address`.
    pub(crate) fn admits(&self, host: &str, address: IpAddr) -> bool {
        match (self.floor, Class::of(address)) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(floor), Some(class)) => class >= floor || self.exempt.contains(host),
        }
    }
}

/// A name resolves to where we do not go.
#[derive(Debug, thiserror::Error)]
#[error("name resolves to an address that is off limits")]
pub(crate) struct OffLimits;

impl Resolve for Screen {
    fn resolve(&self, name: Name) -> Resolving {
        let screen = Self { floor: self.floor, exempt: Arc::clone(&self.exempt) };
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.iter().all(|address| screen.admits(name.as_str(), address.ip())) {
                Ok(Box::new(found.into_iter()) as Addrs)
            } else {
                Err(OffLimits.into())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expected: Option<Class>) {
        assert_eq!(Class::of(address.parse().unwrap()), expected, "{address}");
    }

    #[test]
    fn classes_of_ordinary_addresses() {
        check("127.8.9.1", Some(Class::Loopback));
        check("::1", Some(Class::Loopback));
        check("10.1.2.3", Some(Class::Private));
        check("172.31.0.1", Some(Class::Private));
        check("172.32.0.1", Some(Class::Public));
        check("192.168.1.1", Some(Class::Private));
        check("100.64.0.1", Some(Class::Private));
        check("100.128.0.1", Some(Class::Public));
        check("fd12:3456::1", Some(Class::Private));
        check("8.8.8.8", Some(Class::Public));
        check("2606:4700::1111", Some(Class::Public));
    }

    #[test]
    fn addresses_in_disguise_have_the_class_of_what_they_stand_for() {
        check("::ffff:127.0.0.1", Some(Class::Loopback));
        check("::ffff:169.254.169.254", None);
        check("64:ff9b::10.0.0.1", Some(Class::Private));
        check("2002:a00:1::", Some(Class::Private));
    }

    #[test]
    fn off_limits_whoever_asks() {
        for address in [
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "fd00:ec2::254",
            "fe80::1",
            "2001:0:1::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            check(address, None);
        }
    }
}
