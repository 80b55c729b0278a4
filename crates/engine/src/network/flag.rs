//! `--network` and the flags that go with it.

use std::net::IpAddr;

use super::record::{DEFAULT, is_name};
use crate::{
    error::{Error, Kind, Result},
    spec::request::{EndpointIpam, EndpointSettings, Request},
};

/// What was given on the command line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Each `--network`: a name or mode, or `name=…,alias=…,ip=…,ip6=…,mac-address=…`.
    pub network: &'a [String],
    /// Each `--network-alias`.
    pub aliases: &'a [String],
    /// `--ip`.
    pub ip: Option<&'a str>,
    /// `--ip6`.
    pub ip6: Option<&'a str>,
    /// `--mac-address`.
    pub mac: Option<&'a str>,
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

/// An address of that family, for `flag`.
fn address(text: &str, v4: bool, flag: &str) -> Result<String> {
    let ip = text.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == v4);
    ip.map(|ip| ip.to_string()).ok_or_else(|| {
        let family = if v4 { "IPv4" } else { "IPv6" };
        bad(format!(
            "{flag}: `{}` is no {family} address",
            text.escape_debug()
        ))
    })
}

/// One `--network`: the name, and what is asked of it.
fn parse(text: &str) -> Result<(String, EndpointSettings)> {
    let mut settings = EndpointSettings::default();
    if !text.contains('=') {
        return Ok((text.to_owned(), settings));
    }
    let mut name = String::new();
    let mut ipam = EndpointIpam::default();
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            bad(format!(
                "--network: `{}` has no value",
                field.escape_debug()
            ))
        })?;
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => value.clone_into(&mut name),
            "alias" => settings.aliases.push(value.to_owned()),
            "ip" => ipam.ipv4 = address(value, true, "--network ip")?,
            "ip6" => ipam.ipv6 = address(value, false, "--network ip6")?,
            "mac-address" => value.clone_into(&mut settings.mac_address),
            key => {
                let m = format!("--network: `{}` is not supported", key.escape_debug());
                let e = Error::new(Kind::Unsupported, m);
                return Err(e.with_hint("there are name, alias, ip, ip6 and mac-address"));
            }
        }
    }
    if name.is_empty() {
        return Err(bad("--network: the name is missing").with_hint("name=NETWORK,alias=…"));
    }
    if ipam != EndpointIpam::default() {
        settings.ipam_config = Some(ipam);
    }
    Ok((name, settings))
}

fn is_mode(name: &str) -> bool {
    matches!(name, "none" | "host") || name.starts_with("container:")
}

/// Puts what was given into a request.
///
/// # Errors
/// [`Kind::BadInput`] for what is wrong or does not go together.
pub fn apply(options: &Options<'_>, request: &mut Request) -> Result<()> {
    let mut all = Vec::new();
    for text in options.network {
        let (name, settings) = parse(text)?;
        if !is_mode(&name) && !is_name(&name) {
            return Err(bad(format!("`{}` is no network", name.escape_debug())));
        }
        if all.iter().any(|(n, _)| *n == name) {
            return Err(bad(format!("network {name} is specified multiple times")));
        }
        all.push((name, settings));
    }
    if all.len() > 1
        && let Some((mode, _)) = all.iter().find(|(n, _)| is_mode(n))
    {
        let m = format!("conflicting options: cannot attach to {mode} and to other networks");
        return Err(bad(m));
    }
    let first = all.first().map_or("default", |(name, _)| name).to_owned();
    let mut of_first = EndpointSettings::default();
    of_first.aliases.extend(options.aliases.iter().cloned());
    let mut ipam = EndpointIpam::default();
    if let Some(ip) = options.ip {
        ipam.ipv4 = address(ip, true, "--ip")?;
    }
    if let Some(ip) = options.ip6 {
        ipam.ipv6 = address(ip, false, "--ip6")?;
    }
    let flags = !of_first.aliases.is_empty() || ipam != EndpointIpam::default();
    if flags && is_mode(&first) {
        let m = format!("--network-alias, --ip and --ip6 do not go with network {first}");
        return Err(bad(m));
    }
    if ipam != EndpointIpam::default() {
        of_first.ipam_config = Some(ipam);
    }
    if let Some((name, settings)) = all.first_mut() {
        if flags && *settings != EndpointSettings::default() {
            let m = format!("conflicting options: say it in --network name={name},… alone");
            return Err(bad(m));
        }
        if flags {
            *settings = of_first;
        }
    } else if flags {
        all.push((DEFAULT.to_owned(), of_first));
    }
    if let Some(mac) = options.mac {
        request.config.mac_address = Some(super::ipam::mac(mac)?);
    }
    request.host_config.network_mode = first;
    let beyond = all.len() > 1;
    let said = |s: &EndpointSettings| beyond || *s != EndpointSettings::default();
    request.networks = all.into_iter().filter(|(_, s)| said(s)).collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(network: &[&str], aliases: &[&str], ip: Option<&str>) -> Result<Request> {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (network, aliases) = (own(network), own(aliases));
        let mut request = Request::default();
        let options = Options {
            network: &network,
            aliases: &aliases,
            ip,
            ..Options::default()
        };
        apply(&options, &mut request).map(|()| request)
    }

    #[test]
    fn what_it_comes_to() {
        let r = given(&[], &[], None).unwrap();
        assert!(r.host_config.network_mode == "default" && r.networks.is_empty());
        let r = given(&["mine"], &["a", "b"], Some("10.0.0.9")).unwrap();
        assert_eq!(r.host_config.network_mode, "mine");
        let place = &r.networks["mine"];
        assert_eq!(place.aliases, ["a", "b"]);
        assert_eq!(place.ipam_config.as_ref().unwrap().ipv4, "10.0.0.9");
        let r = given(&["x", "name=y,alias=z,ip6=fd00::7"], &[], None).unwrap();
        assert_eq!(r.networks.keys().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(
            r.networks["y"].ipam_config.as_ref().unwrap().ipv6,
            "fd00::7"
        );
        assert!(
            given(&["container:x"], &[], None)
                .unwrap()
                .networks
                .is_empty()
        );
        for (network, aliases, ip) in [
            (&["none", "x"][..], &[][..], None),
            (&["x", "x"], &[], None),
            (&["host"], &["a"], None),
            (&["x"], &[], Some("fd00::7")),
            (&["name=x,nope=1"], &[], None),
            (&["alias=x"], &[], None),
            (&["a b"], &[], None),
            (&["../x"], &[], None),
            (&["name=x,alias=y"], &["z"], None),
        ] {
            assert!(given(network, aliases, ip).is_err(), "{network:?}");
        }
    }
}
