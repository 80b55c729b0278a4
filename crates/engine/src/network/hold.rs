//! Ports of the host: finding those that are free, and keeping other programs from them.
//!
//! A published port is a rule of the firewall, which takes packets before any program sees them.
//! A socket that is bound and never listens makes the port count as taken, for us and for others.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt,
    },
};

use super::ports::{Ask, Mapping, Wanted};
use crate::{
    error::{Error, Kind, Result},
    store::{NetFail, NetTx, PortRow},
};

/// Most ports that are kept for one container; of more, the records have to do.
const MOST_HELD: usize = 512;
/// How often another port is tried where any will do.
const TRIES: usize = 64;

/// A port that is ours as far as other programs are concerned.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) mapping: Mapping,
    /// None if the kernel has no such protocol.
    sockets: Vec<OwnedFd>,
}

/// Binds a socket; the port that it got. `None` if the machine has no such address family.
fn reserve(protocol: &str, ip: IpAddr, port: u16) -> Result<Option<(OwnedFd, u16)>, Errno> {
    let (kind, number) = match protocol {
        "tcp" => (SocketType::STREAM, ipproto::TCP),
        "udp" => (SocketType::DGRAM, ipproto::UDP),
        _ => (SocketType::STREAM, ipproto::SCTP),
    };
    let family = match ip {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = match socket_with(family, kind, SocketFlags::CLOEXEC, Some(number)) {
        Err(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) => return Ok(None),
        socket => socket?,
    };
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    match bind(&socket, &SocketAddr::new(ip, port)) {
        // IPv6 is there and switched off.
        Err(Errno::ADDRNOTAVAIL) if ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => return Ok(None),
        bound => bound?,
    }
    let got = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok(Some((socket, got.port())))
}

/// Binds what `ask` needs at `port`, or at any with 0.
fn hold(ask: &Ask, port: u16) -> Result<Held, Errno> {
    let mut held = Held {
        mapping: Mapping {
            protocol: ask.protocol.clone(),
            host_ip: ask.host_ip,
            container_port: ask.container_port,
            host_port: port,
        },
        sockets: Vec::new(),
    };
    let all = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let ips = match &ask.host_ip {
        Some(ip) => std::slice::from_ref(ip),
        None => &all[..],
    };
    for ip in ips {
        if let Some((socket, got)) = reserve(&ask.protocol, *ip, held.mapping.host_port)? {
            held.sockets.push(socket);
            held.mapping.host_port = got;
        }
    }
    if held.mapping.host_port == 0 {
        return Err(Errno::PROTONOSUPPORT);
    }
    Ok(held)
}

impl Mapping {
    pub(super) fn to_row(&self, container: &str) -> PortRow {
        PortRow {
            protocol: self.protocol.clone(),
            port: self.host_port,
            address: self.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            container: container.to_owned(),
        }
    }
}

fn shown(ask: &Ask, port: u16) -> String {
    let ip = ask.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    format!("{}/{}", SocketAddr::new(ip, port), ask.protocol)
}

/// Whether a record has the port already.
fn clashes(row: &PortRow, ip: Option<IpAddr>) -> bool {
    match ip {
        None => true,
        Some(ip) => row.address.is_unspecified() || row.address == ip,
    }
}

/// Who has the port by our records.
fn owner(tx: &NetTx<'_>, mapping: &Mapping) -> Result<Option<String>, NetFail> {
    let rows = tx.ports(&mapping.protocol, mapping.host_port)?;
    let of = rows.into_iter().find(|r| clashes(r, mapping.host_ip));
    Ok(of.map(|r| r.container))
}

/// Ports for all of `asks`, recorded for `container`.
pub(super) fn take(tx: &NetTx<'_>, container: &str, asks: &[Ask]) -> Result<Vec<Held>, NetFail> {
    let mut all = Vec::new();
    for ask in asks {
        let mut held = one(tx, ask)?;
        if all.len() >= MOST_HELD {
            held.sockets.clear();
        }
        tx.put_port(&held.mapping.to_row(container))?;
        all.push(held);
    }
    Ok(all)
}

fn one(tx: &NetTx<'_>, ask: &Ask) -> Result<Held, NetFail> {
    let (first, last) = match ask.host {
        Wanted::Within(first, last) => (first, last),
        Wanted::Any => {
            // Those that are passed over stay bound, so that each try is another.
            let mut passed = Vec::new();
            for _ in 0..TRIES {
                let held = hold(ask, 0).map_err(|e| failed(ask, 0, e))?;
                if owner(tx, &held.mapping)?.is_none() {
                    return Ok(held);
                }
                passed.push(held);
            }
            let m = format!("no port of the host is free for {}", ask.container_port);
            return Err(Error::new(Kind::Host, m).into());
        }
    };
    let mut taken = None;
    for port in first..=last {
        match hold(ask, port) {
            Ok(held) => match owner(tx, &held.mapping)? {
                None => return Ok(held),
                by => taken = taken.or(by),
            },
            Err(Errno::ADDRINUSE) => {
                let mapping = Mapping {
                    protocol: ask.protocol.clone(),
                    host_ip: ask.host_ip,
                    container_port: ask.container_port,
                    host_port: port,
                };
                taken = taken.or(owner(tx, &mapping)?);
            }
            Err(e) => return Err(failed(ask, port, e).into()),
        }
    }
    let what = if first == last {
        "port is already allocated"
    } else {
        "all ports of the range are already allocated"
    };
    let m = format!("Bind for {} failed: {what}", shown(ask, first));
    let hint = match taken {
        Some(id) => format!("container {} has it", id.get(..12).unwrap_or(&id)),
        None => "another program has it: `ss -tulpn` shows which".to_owned(),
    };
    Err(Error::new(Kind::Conflict, m).with_hint(hint).into())
}

fn failed(ask: &Ask, port: u16, e: Errno) -> Error {
    let e = Error::host(format!("bind {}", shown(ask, port)), e);
    e.with_hint("is it an address of this machine, and is the protocol known to the kernel?")
}

/// The mappings, and the sockets that keep them.
pub(super) fn split(all: Vec<Held>) -> (Vec<Mapping>, Vec<OwnedFd>) {
    let (mut mappings, mut sockets) = (Vec::new(), Vec::new());
    for held in all {
        mappings.push(held.mapping);
        sockets.extend(held.sockets);
    }
    mappings.sort();
    (mappings, sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ones_are_held() {
        let ask = Ask {
            protocol: "tcp".to_owned(),
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            container_port: 80,
            host: Wanted::Any,
        };
        let held = hold(&ask, 0).unwrap();
        let port = held.mapping.host_port;
        assert!(port > 0 && held.sockets.len() == 1);
        assert_eq!(hold(&ask, port).unwrap_err(), Errno::ADDRINUSE);
        let everywhere = Ask {
            host_ip: None,
            ..ask.clone()
        };
        assert_eq!(hold(&everywhere, port).unwrap_err(), Errno::ADDRINUSE);
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err());
        // It does not listen.
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        let (mappings, sockets) = split(vec![held]);
        assert_eq!((mappings.len(), sockets.len()), (1, 1));
        drop(sockets);
        assert!(hold(&ask, port).is_ok());
        let udp = Ask {
            protocol: "udp".to_owned(),
            ..everywhere
        };
        assert!(!hold(&udp, 0).unwrap().sockets.is_empty());
        let nowhere = Ask {
            host_ip: Some("192.0.2.77".parse().unwrap()),
            ..ask
        };
        assert_eq!(hold(&nowhere, 0).unwrap_err(), Errno::ADDRNOTAVAIL);
    }
}
