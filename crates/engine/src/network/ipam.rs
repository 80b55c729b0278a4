//! Addresses: subnets for networks, addresses for containers.

use std::{collections::BTreeSet, fs, net::IpAddr};

use super::{
    record::{Network, Range},
    subnet::Subnet,
};
use crate::error::{Error, Kind, Result};

/// Docker's pools, and the prefix of the subnets that come from them.
const POOLS: [(&str, u8); 2] = [("172.16.0.0/12", 16), ("192.168.0.0/16", 20)];
/// Where IPv6 subnets come from: unique local addresses.
const SIX: (&str, u8) = ("fd00:756e:6c64::/48", 64);
/// Longest table of routes that is read.
const MOST_ROUTES: usize = 1 << 20;

/// A pool as it is configured: `172.16.0.0/12 by 16`.
pub(super) fn pool(text: &str) -> Result<(Subnet, u8)> {
    let parsed = text.split_once(" by ").and_then(|(subnet, prefix)| {
        let subnet: Subnet = subnet.trim().parse().ok()?;
        let prefix = prefix.trim().parse().ok()?;
        subnet.blocks(prefix).next().map(|_| (subnet, prefix))
    });
    parsed.ok_or_else(|| {
        let m = format!("the address pool `{}` is none", text.escape_debug());
        Error::new(Kind::BadInput, m).with_hint(
            "address-pools = [\"10.64.0.0/10 by 16\"]: a subnet, and the prefix of its parts",
        )
    })
}

/// Subnets that this machine has routes to: another network would hide them.
pub(super) fn routed() -> Vec<Subnet> {
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.get(..MOST_ROUTES).map_or(text.clone(), str::to_owned)
    };
    let mut found = Vec::new();
    for line in read("/proc/thread-self/net/route").lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| {
            let hex = fields.get(at)?;
            // In the byte order of the machine, and the bytes are those of the address.
            u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
        };
        if let (Some(address), Some(mask)) = (number(1), number(7)) {
            let prefix = u32::from_be_bytes(mask).leading_ones();
            let subnet = Subnet::new(IpAddr::from(address), u8::try_from(prefix).unwrap_or(32));
            found.extend(subnet.filter(|s| s.prefix() > 0));
        }
    }
    for line in read("/proc/thread-self/net/ipv6_route").lines() {
        let mut fields = line.split(' ');
        let address = fields
            .next()
            .and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let prefix = fields
            .next()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let (Some(address), Some(prefix)) = (address, prefix)
            && prefix > 0
        {
            let address = std::net::Ipv6Addr::from(address);
            let local = address.is_unicast_link_local() || address.is_multicast();
            found.extend(Subnet::new(address.into(), prefix).filter(|_| !local));
        }
    }
    found
}

/// A subnet that nothing in `taken` overlaps.
pub(super) fn free_subnet(pools: &[String], six: bool, taken: &[Subnet]) -> Result<Subnet> {
    let configured: Vec<(Subnet, u8)> = pools.iter().map(|p| pool(p)).collect::<Result<_>>()?;
    let mut pools: Vec<(Subnet, u8)> = configured
        .into_iter()
        .filter(|(s, _)| s.is_v4() != six)
        .collect();
    if pools.is_empty() {
        let ours = if six { &[SIX][..] } else { &POOLS[..] };
        for (subnet, prefix) in ours {
            pools.push((subnet.parse()?, *prefix));
        }
    }
    let blocks = pools.into_iter().flat_map(|(pool, prefix)| {
        // Docker leaves 172.16.0.0/16 to others.
        let skip = pool.to_string() == POOLS[0].0 && prefix == POOLS[0].1;
        pool.blocks(prefix).skip(usize::from(skip)).take(1 << 16)
    });
    let mut free = blocks.filter(|b| !taken.iter().any(|t| t.overlaps(b)));
    free.next().ok_or_else(|| {
        let m = "all predefined address pools have been fully subnetted";
        Error::new(Kind::Conflict, m).with_hint(
            "remove networks (`unlade network prune`), give --subnet, or configure address-pools",
        )
    })
}

/// The gateway of a subnet unless one was given: its first host.
pub(super) fn gateway(subnet: &Subnet) -> Result<IpAddr> {
    let first = [1, 0].into_iter().filter_map(|n| subnet.nth(n));
    let mut hosts = first.filter(|a| subnet.is_host(*a));
    hosts.next().ok_or_else(|| {
        let m = format!("the subnet {subnet} has no address for a gateway");
        Error::new(Kind::BadInput, m).with_hint("take a larger subnet")
    })
}

fn is_reserved(range: &Range, address: IpAddr) -> bool {
    address == range.gateway || range.reserved.values().any(|a| *a == address)
}

/// Checks an address that was asked for.
fn asked(network: &Network, taken: &BTreeSet<IpAddr>, address: IpAddr) -> Result<()> {
    let Some(range) = network.subnets.iter().find(|r| r.subnet.contains(address)) else {
        let m = format!(
            "invalid address {address}: it is in no subnet of network {}",
            network.name
        );
        let all: Vec<String> = network
            .subnets
            .iter()
            .map(|r| r.subnet.to_string())
            .collect();
        return Err(Error::new(Kind::BadInput, m).with_hint(format!("it has {}", all.join(", "))));
    };
    if !range.subnet.is_host(address) {
        let m = format!(
            "no container can have the address {address} of {}",
            range.subnet
        );
        return Err(Error::new(Kind::BadInput, m));
    }
    if is_reserved(range, address) || taken.contains(&address) {
        let m = format!("Address already in use: {address}");
        return Err(Error::new(Kind::Conflict, m)
            .with_hint("`unlade network inspect` shows who has it; leave it out for a free one"));
    }
    Ok(())
}

/// Addresses of a container in a network: those that were asked for, else the lowest free ones.
pub(super) fn addresses(
    network: &Network,
    taken: &BTreeSet<IpAddr>,
    wanted: &[IpAddr],
) -> Result<Vec<IpAddr>> {
    for address in wanted {
        asked(network, taken, *address)?;
    }
    let mut all = Vec::new();
    for range in &network.subnets {
        let given = wanted.iter().find(|a| a.is_ipv4() == range.subnet.is_v4());
        let address = match given {
            Some(address) => *address,
            None => lowest(network, range, taken)?,
        };
        all.push(address);
    }
    Ok(all)
}

fn lowest(network: &Network, range: &Range, taken: &BTreeSet<IpAddr>) -> Result<IpAddr> {
    let within = range.range.unwrap_or(range.subnet);
    // No more can be taken than there are records.
    let most = taken.len() + range.reserved.len() + 4;
    let mut each = (0..most as u128).map_while(|n| within.nth(n));
    let free =
        each.find(|a| range.subnet.is_host(*a) && !is_reserved(range, *a) && !taken.contains(a));
    free.ok_or_else(|| {
        let m = format!(
            "no available IPv4 addresses in {within} of network {}",
            network.name
        );
        let m = if within.is_v4() {
            m
        } else {
            m.replace("IPv4", "IPv6")
        };
        Error::new(Kind::Conflict, m).with_hint("stop containers, or make a larger network")
    })
}

/// A hardware address that is nobody's: of the IPv4 address, so that neighbours who remember it
/// are right when a later container gets the same.
pub(super) fn hardware(addresses: &[IpAddr]) -> Result<String> {
    let mut tail = [0_u8; 4];
    match addresses.iter().find_map(|a| match a {
        IpAddr::V4(a) => Some(a.octets()),
        IpAddr::V6(_) => None,
    }) {
        Some(octets) => tail = octets,
        None => getrandom::fill(&mut tail)
            .map_err(|e| Error::new(Kind::Host, format!("get random bytes: {e}")))?,
    }
    let [a, b, c, d] = tail;
    Ok(format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
}

/// Checks a hardware address that was asked for; in lower case.
pub(super) fn mac(text: &str) -> Result<String> {
    let bytes: Vec<Option<u8>> = text
        .split([':', '-'])
        .map(|h| {
            let hex = h.len() == 2 && h.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(h, 16).ok())?
        })
        .collect();
    // A group's address is no interface's.
    match bytes[..] {
        [Some(a), Some(b), Some(c), Some(d), Some(e), Some(f)] if a & 1 == 0 => {
            Ok(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
        }
        _ => {
            let m = format!("`{}` is no hardware address", text.escape_debug());
            Err(Error::new(Kind::BadInput, m).with_hint("such as 02:42:ac:11:00:02"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn network(subnet: &str, range: Option<&str>) -> Network {
        let subnet: Subnet = subnet.parse().unwrap();
        Network {
            subnets: vec![Range {
                subnet,
                gateway: gateway(&subnet).unwrap(),
                range: range.map(|r| r.parse().unwrap()),
                reserved: BTreeMap::from([("router".to_owned(), subnet.nth(3).unwrap())]),
            }],
            ..Network::default()
        }
    }

    #[test]
    fn lowest_first_and_none_twice() {
        let net = network("10.0.0.0/29", None);
        let mut taken = BTreeSet::new();
        let mut got = Vec::new();
        while let Ok(a) = addresses(&net, &taken, &[]) {
            taken.insert(a[0]);
            got.push(a[0].to_string());
        }
        // .1 is the gateway's, .3 reserved, .7 for broadcasts.
        assert_eq!(got, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        taken.remove(&ip("10.0.0.4"));
        assert_eq!(addresses(&net, &taken, &[]).unwrap(), [ip("10.0.0.4")]);
        let part = network("10.0.0.0/24", Some("10.0.0.128/31"));
        assert_eq!(
            addresses(&part, &BTreeSet::new(), &[]).unwrap(),
            [ip("10.0.0.128")]
        );
        let six = network("fd00::/64", None);
        assert_eq!(
            addresses(&six, &BTreeSet::new(), &[]).unwrap(),
            [ip("fd00::2")]
        );
    }

    #[test]
    fn asked_for() {
        let net = network("10.0.0.0/24", None);
        let taken = BTreeSet::from([ip("10.0.0.9")]);
        let ask = |a: &str| addresses(&net, &taken, &[ip(a)]).map_err(|e| e.kind());
        assert_eq!(ask("10.0.0.77").unwrap(), [ip("10.0.0.77")]);
        for (address, kind) in [
            ("10.0.0.9", Kind::Conflict),
            ("10.0.0.1", Kind::Conflict),
            ("10.0.0.3", Kind::Conflict),
            ("10.0.0.0", Kind::BadInput),
            ("10.0.0.255", Kind::BadInput),
            ("10.0.1.1", Kind::BadInput),
            ("fd00::7", Kind::BadInput),
        ] {
            assert_eq!(ask(address).unwrap_err(), kind, "{address}");
        }
    }

    #[test]
    fn subnets_that_nobody_has() {
        let mut taken = Vec::new();
        for want in ["172.17.0.0/16", "172.18.0.0/16"] {
            let got = free_subnet(&[], false, &taken).unwrap();
            assert_eq!(got.to_string(), want);
            taken.push(got);
        }
        taken.push("172.16.0.0/12".parse().unwrap());
        let next = free_subnet(&[], false, &taken).unwrap();
        assert_eq!(next.to_string(), "192.168.0.0/20");
        let own = ["10.0.0.0/8 by 9".to_owned(), "fd77::/56 by 64".to_owned()];
        assert_eq!(
            free_subnet(&own, false, &[]).unwrap().to_string(),
            "10.0.0.0/9"
        );
        assert_eq!(
            free_subnet(&own, true, &[]).unwrap().to_string(),
            "fd77::/64"
        );
        let all = ["10.0.0.0/8".parse().unwrap()];
        assert_eq!(
            free_subnet(&own, false, &all).unwrap_err().kind(),
            Kind::Conflict
        );
        for bad in [
            "10.0.0.0/8",
            "10.0.0.0/8 by 7",
            "x by 9",
            "10.0.0.0/8 by 33",
        ] {
            assert!(pool(bad).is_err(), "{bad}");
        }
        assert!(!free_subnet(&[], true, &[]).unwrap().is_v4());
        // Loopback is not in the main table, but whatever is there can be read.
        assert!(routed().iter().all(|s| s.prefix() > 0));
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(hardware(&[ip("172.17.0.2")]).unwrap(), "02:42:ac:11:00:02");
        assert_eq!(hardware(&[ip("fd00::2")]).unwrap().len(), 17);
        assert_eq!(mac("02-42-AC-11-00-02").unwrap(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42:ac:11:00",
            "01:42:ac:11:00:02",
            "02:42:ac:11:00:2",
            "+2:42:ac:11:00:02",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }
}
