//! Published ports: Docker's `-p` and `--expose`, and what a request's ports amount to.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Kind, Result},
    spec::request::{Nothing, PortBinding, Request},
};

/// Most ports that a container can publish: all of them, for each protocol.
const MOST: usize = 3 * 65536;
const HINT: &str = "write [address:][host port:]port[/tcp|udp|sctp], such as 8080:80, \
                    127.0.0.1:8000-8010:80-90/udp or [::1]::80; or \
                    published=8080,target=80[,protocol=udp]";

/// A port that a container publishes, decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mapping {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Address of the host; `None` for all.
    pub host_ip: Option<IpAddr>,
    /// The container's port.
    pub container_port: u16,
    /// The host's port.
    pub host_port: u16,
}

/// Which port of the host is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Any that is free.
    Any,
    /// The first that is free from the one to the other.
    Within(u16, u16),
}

/// A port that is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) protocol: String,
    pub(super) host_ip: Option<IpAddr>,
    pub(super) container_port: u16,
    pub(super) host: Wanted,
}

fn wrong(text: &str, why: impl fmt::Display) -> Error {
    let m = format!("invalid port `{}`: {why}", text.escape_debug());
    Error::new(Kind::BadInput, m).with_hint(HINT)
}

/// `port` or `first-last`.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |t: &str| -> Option<u16> {
        let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        t.parse().ok().filter(|_| digits)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last && first > 0).then_some((first, last))
}

/// The protocol behind the slash.
fn protocol(text: &str) -> Option<(&str, String)> {
    let Some((port, protocol)) = text.rsplit_once('/') else {
        return Some((text, "tcp".to_owned()));
    };
    let protocol = protocol.to_ascii_lowercase();
    matches!(&*protocol, "tcp" | "udp" | "sctp").then_some((port, protocol))
}

/// A key of `ExposedPorts` or `PortBindings`: port and protocol.
fn key(text: &str) -> Result<(u16, String)> {
    let parsed = protocol(text).and_then(|(port, protocol)| match range(port)? {
        (first, last) if first == last => Some((first, protocol)),
        _ => None,
    });
    parsed.ok_or_else(|| wrong(text, "it is no port of a container"))
}

/// One `-p` in its short form, of its long one: `published=8080,target=80,protocol=udp`.
fn short(text: &str) -> Result<String> {
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("target", value)) => target = value,
            Some(("published", value)) => published = value,
            Some(("protocol", value)) => protocol = value,
            // What swarms tell apart comes to the same on one machine.
            Some(("mode", "host" | "ingress")) => {}
            Some(("mode", mode)) => {
                let m = format!("`{mode}` is no mode: there are host and ingress");
                return Err(wrong(text, m));
            }
            Some((name, _)) => {
                let m = format!("`{name}` is none of target, published, protocol and mode");
                return Err(wrong(text, m));
            }
            None => return Err(wrong(text, format!("`{field}` is no NAME=VALUE"))),
        }
    }
    if target.is_empty() {
        return Err(wrong(text, "it names no target, the port of the container"));
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// One `-p`: each port of the container with where it goes.
///
/// # Errors
/// [`Kind::BadInput`] if it is none.
pub fn parse(text: &str) -> Result<Vec<(String, PortBinding)>> {
    if text.contains('=') {
        return parse(&short(text)?);
    }
    let (rest, protocol) =
        protocol(text).ok_or_else(|| wrong(text, "the protocol is none of tcp, udp and sctp"))?;
    let (front, inside) = match rest.rsplit_once(':') {
        Some((front, inside)) => (Some(front), inside),
        None => (None, rest),
    };
    let (ip, outside) = match front {
        None => ("", ""),
        Some(front) if front.starts_with('[') && front.ends_with(']') => (front, ""),
        Some(front) => front.rsplit_once(':').unwrap_or(("", front)),
    };
    let (first, last) = range(inside)
        .ok_or_else(|| wrong(text, format!("`{inside}` is no port of a container")))?;
    let host_ip = match ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        Some(six) => six.parse::<Ipv6Addr>().ok().map(|ip| ip.to_string()),
        None if ip.is_empty() => Some(String::new()),
        // Docker also takes IPv6 addresses without brackets.
        None => ip.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
    };
    let host_ip = host_ip.ok_or_else(|| wrong(text, format!("`{ip}` is no address")))?;
    let outside = match outside {
        // As with bind(2), any port.
        "" | "0" => None,
        text => Some(range(text).ok_or_else(|| wrong(text, "it is no port of the host"))?),
    };
    let count = last - first;
    if let Some((from, to)) = outside
        && to - from != count
        && count != 0
    {
        return Err(wrong(text, "the two ranges differ in length"));
    }
    let binding = |n: u16| -> PortBinding {
        let host_port = match outside {
            None => String::new(),
            // One port of the container: the first of the range that is free.
            Some((from, to)) if count == 0 && from != to => format!("{from}-{to}"),
            Some((from, _)) => (from + n).to_string(),
        };
        PortBinding {
            host_ip: host_ip.clone(),
            host_port,
        }
    };
    Ok((0..=count)
        .map(|n| (format!("{}/{protocol}", first + n), binding(n)))
        .collect())
}

/// One `--expose`: each port as `port/protocol`.
///
/// # Errors
/// [`Kind::BadInput`] if it is none.
pub fn expose(text: &str) -> Result<Vec<String>> {
    let parsed = protocol(text).and_then(|(port, protocol)| {
        let (first, last) = range(port)?;
        let each = (first..=last).map(|port| format!("{port}/{protocol}"));
        Some(each.collect())
    });
    parsed.ok_or_else(|| {
        let m = format!("invalid --expose `{}`", text.escape_debug());
        Error::new(Kind::BadInput, m).with_hint("write port[-port][/tcp|udp|sctp]")
    })
}

/// Puts what `-p` and `--expose` say into a request.
///
/// # Errors
/// [`Kind::BadInput`] for what is no port.
pub fn publish(published: &[String], exposed: &[String], request: &mut Request) -> Result<()> {
    for text in exposed {
        for port in expose(text)? {
            request.config.exposed_ports.insert(port, Nothing {});
        }
    }
    for text in published {
        for (port, binding) in parse(text)? {
            request
                .config
                .exposed_ports
                .insert(port.clone(), Nothing {});
            let list = request.host_config.port_bindings.entry(port).or_default();
            list.get_or_insert_default().push(binding);
        }
    }
    Ok(())
}

/// Gives exposed ports their protocol where they have none, as images may write them. What an
/// image writes that is no port is dropped.
pub(super) fn exposed(request: &Request) -> Vec<(u16, String)> {
    let keys = request.config.exposed_ports.keys();
    keys.filter_map(|text| key(text).ok()).collect()
}

/// What a request's ports amount to, with `-P`. `host_ip` is the network's default.
pub(super) fn asked(request: &Request, default_ip: Option<IpAddr>) -> Result<Vec<Ask>> {
    let mut bindings: BTreeMap<(u16, String), Vec<PortBinding>> = BTreeMap::new();
    for (text, list) in &request.host_config.port_bindings {
        let entry = bindings.entry(key(text)?).or_default();
        // Docker: an empty list asks for any port.
        let list = list.clone().filter(|l| !l.is_empty());
        entry.extend(list.unwrap_or_else(|| vec![PortBinding::default()]));
    }
    if request.host_config.publish_all_ports {
        for port in exposed(request) {
            let entry = bindings.entry(port).or_default();
            if entry.is_empty() {
                entry.push(PortBinding::default());
            }
        }
    }
    let mut asks = Vec::new();
    for ((container_port, protocol), list) in bindings {
        for binding in list {
            let wrong_binding = |what: &str| {
                wrong(
                    &format!("{}:{}", binding.host_ip, binding.host_port),
                    format!("no {what} of the host"),
                )
            };
            let host_ip = match &*binding.host_ip {
                "" => default_ip,
                ip => Some(ip.parse().map_err(|_| wrong_binding("address"))?),
            };
            let host = match &*binding.host_port {
                "" | "0" => Wanted::Any,
                text => {
                    let (first, last) = range(text).ok_or_else(|| wrong_binding("port"))?;
                    Wanted::Within(first, last)
                }
            };
            let ask = Ask {
                protocol: protocol.clone(),
                // All addresses of IPv4 are not all there are, but netavark has no other word.
                host_ip: host_ip.filter(|ip| !(ip.is_ipv4() && ip.is_unspecified())),
                container_port,
                host,
            };
            if !asks.contains(&ask) {
                asks.push(ask);
            }
            if asks.len() > MOST {
                return Err(Error::new(Kind::Limit, "too many published ports"));
            }
        }
    }
    // Those that know what they want come first.
    asks.sort_by_key(|a| matches!(a.host, Wanted::Any));
    Ok(asks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let list = parse(text).unwrap();
        let each = list
            .iter()
            .map(|(port, b)| format!("{port}={}:{}", b.host_ip, b.host_port));
        each.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn dockers_grammar() {
        for (text, want) in [
            ("80", "80/tcp=:"),
            ("80/UDP", "80/udp=:"),
            ("8080:80", "80/tcp=:8080"),
            ("0:80", "80/tcp=:"),
            ("127.0.0.1:8080:80", "80/tcp=127.0.0.1:8080"),
            ("127.0.0.1::80", "80/tcp=127.0.0.1:"),
            ("[::1]:8080:80/sctp", "80/sctp=::1:8080"),
            ("[::1]::80", "80/tcp=::1:"),
            ("::1:8080:80", "80/tcp=::1:8080"),
            ("8000-8001:90-91", "90/tcp=:8000 91/tcp=:8001"),
            ("8000-8010:80", "80/tcp=:8000-8010"),
            ("90-91", "90/tcp=: 91/tcp=:"),
            ("1.2.3.4:7-8:7-8/udp", "7/udp=1.2.3.4:7 8/udp=1.2.3.4:8"),
            ("target=80", "80/tcp=:"),
            ("published=8080,target=80,mode=host", "80/tcp=:8080"),
            (
                "protocol=udp,target=7-8,published=9-10",
                "7/udp=:9 8/udp=:10",
            ),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
        for text in [
            "",
            ":",
            "0",
            "80/",
            "80/icmp",
            "65536",
            "8080:",
            "a:80",
            "1.2.3:80:80",
            "80-79",
            "8000-8001:80-82",
            "8000-8001:80-80-80",
            "-1",
            "+80",
            "[::1]80",
            "[1.2.3.4]:80:80",
            "80:80:80:80",
            "80\n",
            "published=80",
            "target=",
            "target=80,",
            "target=80,x=1",
            "target=80,mode=x",
            "target=80,protocol=x",
            "target=80=81",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("1-65535").unwrap().len(), 65535);
        assert_eq!(expose("7-8/udp").unwrap(), ["7/udp", "8/udp"]);
        assert!(expose("8-7").is_err() && expose("1:2").is_err());
    }

    #[test]
    fn requests() {
        let mut request = Request::default();
        let texts = ["8080:80", "8000-8001:80", "0.0.0.0:9000:80", "53/udp"].map(str::to_owned);
        publish(&texts, &["99".to_owned()], &mut request).unwrap();
        // As an image may have them.
        for port in ["70", "71/udp", "nonsense", "1-2"] {
            let exposed = &mut request.config.exposed_ports;
            exposed.insert(port.to_owned(), Nothing {});
        }
        request.host_config.publish_all_ports = true;
        let asked = asked(&request, Some("10.0.0.1".parse().unwrap())).unwrap();
        let shown: Vec<String> = asked
            .iter()
            .map(|a| {
                format!(
                    "{}/{} {:?} {:?}",
                    a.container_port, a.protocol, a.host_ip, a.host
                )
            })
            .collect();
        let ip = "Some(10.0.0.1)";
        assert_eq!(
            shown,
            [
                format!("80/tcp {ip} Within(8080, 8080)"),
                format!("80/tcp {ip} Within(8000, 8001)"),
                "80/tcp None Within(9000, 9000)".to_owned(),
                format!("53/udp {ip} Any"),
                format!("70/tcp {ip} Any"),
                format!("71/udp {ip} Any"),
                format!("99/tcp {ip} Any"),
            ]
        );
        let bad = PortBinding {
            host_ip: "x".to_owned(),
            ..PortBinding::default()
        };
        let list = Some(vec![bad]);
        request
            .host_config
            .port_bindings
            .insert("1/tcp".to_owned(), list);
        assert!(super::asked(&request, None).is_err());
    }
}
