//! Subnets of either family.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// A block of addresses, as `10.1.0.0/16` or `fd00::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

/// An address as a number.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The address of that number, of the family of `like`.
fn address(number: u128, like: IpAddr) -> Option<IpAddr> {
    Some(match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).ok()?).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    })
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Subnet {
    /// The block that `address` is in; `None` if the prefix is too long.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let bits = width(address).checked_sub(prefix)?;
        let mask = u128::MAX.checked_shl(u32::from(bits)).unwrap_or(0);
        let first = self::address(number(address) & mask, address)?;
        Some(Self { first, prefix })
    }

    /// Its first address, which is that of the network.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    pub fn is_v4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// How many addresses it has beyond the first.
    fn span(&self) -> u128 {
        let bits = u32::from(width(self.first) - self.prefix);
        1_u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1)
    }

    /// Its last address; with IPv4 that is the broadcast address.
    pub fn last(&self) -> IpAddr {
        address(number(self.first) | self.span(), self.first).unwrap_or(self.first)
    }

    /// Its `n`th address, the first being 0.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        (n <= self.span()).then(|| address(number(self.first) + n, self.first))?
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4()
            && Self::new(address, self.prefix).is_some_and(|s| s == *self)
    }

    /// Whether they have addresses in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Whether it has all addresses of `other`.
    pub fn holds(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }

    /// Whether a host can have the address: neither the network's nor that of broadcasts.
    pub fn is_host(&self, address: IpAddr) -> bool {
        // Of two addresses or one, all are hosts'.
        let small = self.prefix >= width(self.first) - 1;
        let edge = address == self.first || (self.is_v4() && address == self.last());
        self.contains(address) && (small || !edge)
    }

    /// The blocks of that prefix in it, in order.
    pub fn blocks(self, prefix: u8) -> impl Iterator<Item = Self> {
        let fits = prefix >= self.prefix && prefix <= width(self.first);
        let step = if fits {
            1_u128.checked_shl(u32::from(width(self.first) - prefix))
        } else {
            None
        };
        let from = number(self.first);
        let until = from + self.span();
        let mut next = step.map(|_| from);
        std::iter::from_fn(move || {
            let at = next?;
            next = at
                .checked_add(step.unwrap_or(0))
                .filter(|n| *n <= until && *n > at);
            Self::new(address(at, self.first)?, prefix)
        })
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Bits beyond the prefix are cleared.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
            let prefix = prefix.parse().ok().filter(|_| digits)?;
            Self::new(address.parse().ok()?, prefix)
        });
        parsed.ok_or_else(|| {
            let m = format!("`{}` is no subnet", text.escape_debug());
            Error::new(Kind::BadInput, m)
                .with_hint("write an address and a prefix, such as 10.1.0.0/16 or fd00:1::/64")
        })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn edges() {
        let s = subnet("10.1.2.3/16");
        assert_eq!(s.to_string(), "10.1.0.0/16");
        assert_eq!(s.last().to_string(), "10.1.255.255");
        assert_eq!(s.nth(1).unwrap().to_string(), "10.1.0.1");
        assert_eq!(s.nth(65536), None);
        assert!(!s.is_host(s.first()) && !s.is_host(s.last()));
        assert!(s.is_host("10.1.0.1".parse().unwrap()));
        let six = subnet("fd00::/64");
        assert!(six.is_host(six.last()) && !six.is_host(six.first()));
        let all = subnet("::/0");
        assert!(all.contains("ff::".parse().unwrap()) && all.nth(u128::MAX).is_some());
        assert!(!all.contains("1.2.3.4".parse().unwrap()));
        let one = subnet("1.2.3.4/32");
        assert!(one.is_host(one.first()) && one.nth(1).is_none());
        assert_eq!(subnet("255.255.255.255/32").blocks(32).count(), 1);
    }

    #[test]
    fn relations() {
        let (a, b, c) = (
            subnet("10.0.0.0/8"),
            subnet("10.1.0.0/16"),
            subnet("11.0.0.0/8"),
        );
        assert!(a.overlaps(&b) && b.overlaps(&a) && !a.overlaps(&c));
        assert!(a.holds(&b) && !b.holds(&a) && a.holds(&a));
        let blocks: Vec<String> = subnet("172.16.0.0/12")
            .blocks(14)
            .map(String::from)
            .collect();
        assert_eq!(
            blocks,
            [
                "172.16.0.0/14",
                "172.20.0.0/14",
                "172.24.0.0/14",
                "172.28.0.0/14"
            ]
        );
        assert_eq!(subnet("10.0.0.0/16").blocks(8).count(), 0);
        assert_eq!(subnet("10.0.0.0/16").blocks(33).count(), 0);
        assert_eq!(subnet("ffff::/16").blocks(17).count(), 2);
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "a/8",
            "10.0.0.0/+8",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
