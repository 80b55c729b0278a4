//! What netavark is told, and running it. It makes bridges, interfaces and firewall rules, and
//! starts aardvark-dns, which answers for names.
//!
//! Fields are those of netavark 1.4 (Debian 12); later versions take the same.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    io::{Read, Seek, Write},
    net::IpAddr,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, MemfdFlags, flock, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

use super::{
    aardvark,
    asked::found_by,
    options,
    ports::Mapping,
    record::{Driver, Endpoint, Network},
    subnet::Subnet,
};
use crate::{
    config,
    error::{Error, Kind, Result},
    sys,
};

/// Where distributions have it, besides `PATH`.
const PLACES: [&str; 4] = [
    "/usr/lib/podman",
    "/usr/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/local/libexec/podman",
];
/// How long it may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer and longest complaint that are read, in bytes.
const MOST_OUTPUT: u64 = 1 << 20;

/// What is done with a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Setup,
    Teardown,
}

#[derive(Debug, Serialize)]
struct Options<'a> {
    container_id: &'a str,
    container_name: &'a str,
    container_hostname: &'a str,
    networks: BTreeMap<&'a str, PerNetwork<'a>>,
    network_info: BTreeMap<&'a str, Info<'a>>,
    port_mappings: Vec<PortMapping<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_servers: Option<&'a [IpAddr]>,
}

#[derive(Debug, Serialize)]
struct PerNetwork<'a> {
    aliases: Vec<String>,
    interface_name: &'a str,
    static_ips: &'a [IpAddr],
    static_mac: &'a str,
}

#[derive(Debug, Serialize)]
struct Info<'a> {
    name: &'a str,
    id: &'a str,
    driver: &'a str,
    network_interface: &'a str,
    subnets: Vec<InfoSubnet<'a>>,
    ipv6_enabled: bool,
    internal: bool,
    dns_enabled: bool,
    options: BTreeMap<&'a str, String>,
    ipam_options: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct InfoSubnet<'a> {
    subnet: &'a Subnet,
    gateway: IpAddr,
}

#[derive(Debug, Serialize)]
struct PortMapping<'a> {
    container_port: u16,
    host_port: u16,
    range: u16,
    protocol: &'a str,
    host_ip: String,
}

/// What it says of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) dns_server_ips: Option<Vec<IpAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Complaint {
    error: String,
}

/// Whom and what it is about.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) id: &'a str,
    pub(super) name: &'a str,
    pub(super) hostname: &'a str,
    pub(super) networks: &'a [(&'a Network, &'a Endpoint)],
    pub(super) ports: &'a [Mapping],
    pub(super) dns_servers: &'a [IpAddr],
}

/// By what netavark knows a network. It and aardvark-dns use it as a file name and in comments;
/// being of the id, it is nobody else's on this machine.
pub(super) fn key(network: &Network) -> &str {
    network.id.get(..12).unwrap_or(&network.id)
}

/// Consecutive ports as one.
fn merged(ports: &[Mapping]) -> Vec<PortMapping<'_>> {
    let mut all: Vec<PortMapping<'_>> = Vec::new();
    for m in ports {
        let host_ip = m.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        let next = |from: u16, range: u16, port: u16| from.checked_add(range) == Some(port);
        if let Some(last) = all.last_mut()
            && last.protocol == m.protocol
            && last.host_ip == host_ip
            && next(last.container_port, last.range, m.container_port)
            && next(last.host_port, last.range, m.host_port)
        {
            last.range += 1;
            continue;
        }
        all.push(PortMapping {
            container_port: m.container_port,
            host_port: m.host_port,
            range: 1,
            protocol: &m.protocol,
            host_ip,
        });
    }
    all
}

/// What it gets on its standard input.
fn document(job: &Job<'_>) -> Result<Vec<u8>> {
    let mut options = Options {
        container_id: job.id,
        container_name: job.name,
        container_hostname: job.hostname,
        networks: BTreeMap::new(),
        network_info: BTreeMap::new(),
        port_mappings: merged(job.ports),
        dns_servers: (!job.dns_servers.is_empty()).then_some(job.dns_servers),
    };
    for (network, endpoint) in job.networks {
        // It adds the container's own name itself.
        let mut aliases = found_by(network, endpoint);
        aliases.retain(|name| *name != endpoint.name);
        options.networks.insert(
            key(network),
            PerNetwork {
                aliases,
                interface_name: &endpoint.interface,
                static_ips: &endpoint.addresses,
                static_mac: &endpoint.mac,
            },
        );
        let mut settings = BTreeMap::new();
        if let Some(mtu) = network.option(options::MTU) {
            settings.insert("mtu", mtu.to_owned());
        }
        if network.driver == Driver::Macvlan {
            let mode = network.option(options::MODE).unwrap_or("bridge");
            settings.insert("mode", mode.to_owned());
        } else {
            // As with docker, containers of one network do not reach those of another.
            let isolate = network.option(options::ISOLATE).unwrap_or("true");
            settings.insert("isolate", isolate.to_owned());
        }
        // The default route of the network that came first is the one that is used.
        settings.insert("metric", endpoint.metric.to_string());
        options.network_info.insert(
            key(network),
            Info {
                name: key(network),
                id: &network.id,
                driver: network.driver.name(),
                network_interface: &network.interface,
                subnets: network
                    .subnets
                    .iter()
                    .map(|r| InfoSubnet {
                        subnet: &r.subnet,
                        gateway: r.gateway,
                    })
                    .collect(),
                ipv6_enabled: network.ipv6,
                internal: network.internal,
                dns_enabled: network.dns,
                options: settings,
                ipam_options: BTreeMap::from([("driver", "host-local")]),
            },
        );
    }
    serde_json::to_vec(&options).map_err(|e| Error::new(Kind::Bug, format!("write JSON: {e}")))
}

/// The programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    netavark: Option<PathBuf>,
    aardvark_dns: Option<PathBuf>,
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = PLACES.iter().map(PathBuf::from);
    let mut all = dirs
        .chain(std::env::split_paths(&path))
        .map(|d| d.join(name));
    all.find(|p| p.is_absolute() && rustix::fs::access(p, rustix::fs::Access::EXEC_OK).is_ok())
}

fn missing(what: &str, name: &str, configured: Option<&Path>) -> Error {
    let e = |m: String| Error::new(Kind::Host, m);
    match configured {
        Some(path) => e(format!("{what} `{}` is not there", path.display()))
            .with_hint(format!("`{name}` in [network] of the configuration names it")),
        None => e(format!("{what} is not installed")).with_hint(format!(
            "install the package `{name}` (Debian: apt-get install netavark aardvark-dns iptables), \
             or use --network none or host"
        )),
    }
}

impl Programs {
    pub(super) fn new(config: &config::Network) -> Self {
        Self {
            netavark: config.netavark.clone(),
            aardvark_dns: config.aardvark_dns.clone(),
        }
    }

    /// Where netavark is.
    pub(super) fn netavark(&self) -> Result<PathBuf> {
        let path = self.netavark.clone().or_else(|| find("netavark"));
        path.filter(|p| p.exists()).ok_or_else(|| {
            let what = "netavark, which connects containers to networks,";
            missing(what, "netavark", self.netavark.as_deref())
        })
    }

    pub(super) fn aardvark_dns(&self) -> Result<PathBuf> {
        let path = self.aardvark_dns.clone().or_else(|| find("aardvark-dns"));
        path.filter(|p| p.exists()).ok_or_else(|| {
            let what = "aardvark-dns, which resolves names of containers,";
            missing(what, "aardvark-dns", self.aardvark_dns.as_deref())
        })
    }

    /// Runs netavark for the namespace at `netns`; `dir` is where aardvark-dns is told about it.
    pub(super) fn run(
        &self,
        verb: Verb,
        dir: &Path,
        netns: &Path,
        job: &Job<'_>,
    ) -> Result<BTreeMap<String, Status>> {
        let program = self.netavark()?;
        let names = job.networks.iter().any(|(network, _)| network.dns);
        let aardvark = match self.aardvark_dns() {
            Ok(path) => path,
            // It would go on without and say nothing.
            Err(e) if names && verb == Verb::Setup => return Err(e),
            Err(_) => PathBuf::from("/nonexistent/aardvark-dns"),
        };
        let word = match verb {
            Verb::Setup => "setup",
            Verb::Teardown => "teardown",
        };
        let failed = |what: &str| {
            let doing = format!("{what} `{}`", program.display());
            move |e: std::io::Error| Error::host(doing, e)
        };
        let memory = |content: &[u8]| -> Result<File> {
            let fd = memfd_create("netavark", MemfdFlags::CLOEXEC)
                .map_err(|e| Error::host("make a file in memory", e))?;
            let mut file = File::from(fd);
            file.write_all(content)
                .and_then(|()| file.rewind())
                .map_err(|e| Error::host("write to a file in memory", e))?;
            Ok(file)
        };
        // Files, not pipes: aardvark-dns stays and would keep the other ends of those open.
        let (mut out, mut complaints) = (memory(b"")?, memory(b"")?);
        let share = |file: &File| file.try_clone().map(Stdio::from).map_err(failed("start"));
        let _alone = alone()?;
        aardvark::forget_reused(dir)?;
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(dir)
            .arg("--aardvark-binary")
            .arg(&aardvark)
            .arg(word)
            .arg(netns)
            .env("PATH", path())
            .current_dir("/")
            // Half of its work is worse than all of it: Ctrl-C is not for it.
            .process_group(0)
            .stdin(memory(&document(job)?)?)
            .stdout(share(&out)?)
            .stderr(share(&complaints)?);
        // Whoever finds that we were killed must not find it at work.
        sys::die_with_parent(&mut command);
        let mut child = command.spawn().map_err(failed("start"))?;
        let status = wait(&mut child).map_err(failed("wait for"))?;
        let out = text(&mut out)?;
        if !status {
            let complaints = text(&mut complaints)?;
            return Err(refused(word, &out, &complaints));
        }
        if verb == Verb::Teardown {
            return Ok(BTreeMap::new());
        }
        serde_json::from_str(&out).map_err(|e| {
            let m = format!(
                "what `{}` answered is not understood: {e}",
                program.display()
            );
            Error::new(Kind::Host, m).with_hint("unlade knows netavark 1.4 and later")
        })
    }
}

/// Held while it runs: it is not made for others of its kind changing the same firewall. Being on
/// the host's network namespace, the lock is the same for all stores.
pub(super) fn alone() -> Result<File> {
    let path = "/proc/thread-self/ns/net";
    let failed = |e: std::io::Error| Error::host(format!("lock `{path}`"), e);
    let file = File::open(path).map_err(failed)?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(failed(e.into())),
        }
    }
}

/// Waits until it ends, or kills it; whether it was content.
fn wait(child: &mut Child) -> std::io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let fd = pidfd_open(pid, PidfdFlags::empty())?;
        let fd = fd.as_fd();
        let time = Timespec {
            tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let ready = loop {
            match poll(&mut fds, Some(&time)) {
                Err(rustix::io::Errno::INTR) => {}
                done => break done?,
            }
        };
        if ready == 0 {
            child.kill()?;
            child.wait()?;
            return Err(std::io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }
    Ok(child.wait()?.success())
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(MOST_OUTPUT).read_to_end(&mut bytes))
        .map_err(|e| Error::host("read what netavark wrote", e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `PATH` with the directories that iptables and nft are in: users who became root may lack them.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}

/// Its complaint as an error, with what can be done where that is known.
fn refused(word: &str, out: &str, complaints: &str) -> Error {
    let json: Complaint = serde_json::from_str(out.trim()).unwrap_or_default();
    let said = match json.error.trim() {
        "" => complaints.trim(),
        error => error,
    };
    let mut said: String = said
        .chars()
        .filter(|c| !c.is_control())
        .take(1000)
        .collect();
    if said.is_empty() {
        said = "it gave no reason".to_owned();
    }
    let installed = |name: &str| {
        let dirs: Vec<PathBuf> = std::env::split_paths(&path()).collect();
        dirs.iter().any(|d| fs::metadata(d.join(name)).is_ok())
    };
    let hint = if !installed("iptables") && !installed("nft") {
        "it needs a firewall program: install the package `iptables` (or `nftables` for netavark \
         from 1.10)"
    } else if said.contains("dns") || said.contains("aardvark") {
        "does another program answer on port 53? A network without names has \
         `network create --disable-dns`"
    } else {
        "`unlade network inspect` shows the network; does this machine's firewall work?"
    };
    Error::new(Kind::Host, format!("netavark {word}: {said}")).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(protocol: &str, ip: Option<&str>, container_port: u16, host_port: u16) -> Mapping {
        Mapping {
            protocol: protocol.to_owned(),
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            container_port,
            host_port,
        }
    }

    #[test]
    fn consecutive_ports_are_one() {
        let all = [
            mapping("tcp", None, 80, 8080),
            mapping("tcp", None, 81, 8081),
            mapping("tcp", None, 82, 9000),
            mapping("tcp", Some("::1"), 83, 9001),
            mapping("udp", None, 65535, 65535),
        ];
        let merged = merged(&all);
        let shown: Vec<_> = merged
            .iter()
            .map(|m| (m.container_port, m.host_port, m.range, &*m.host_ip))
            .collect();
        assert_eq!(
            shown,
            [
                (80, 8080, 2, ""),
                (82, 9000, 1, ""),
                (83, 9001, 1, "::1"),
                (65535, 65535, 1, "")
            ]
        );
    }

    #[test]
    fn complaints() {
        let e = refused("setup", "{\"error\":\"no\\nway\"}\n", "x");
        assert_eq!(e.message(), "netavark setup: noway");
        let e = refused("teardown", "", " bad thing \n");
        assert_eq!(e.message(), "netavark teardown: bad thing");
        assert!(refused("setup", "", "").message().ends_with("no reason"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let programs = Programs::new(&config::Network {
            netavark: Some("/nonexistent/netavark".into()),
            ..config::Network::default()
        });
        let e = programs.netavark().unwrap_err();
        assert!(e.message().contains("/nonexistent/netavark"), "{e}");
        let e = missing("netavark", "netavark", None);
        assert!(e.hint().unwrap().contains("apt-get install netavark"));
    }
}
