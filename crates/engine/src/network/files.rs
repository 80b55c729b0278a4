//! A container's `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`, by Docker's rules.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use unlade_unpack::{Algorithm, Digest};

use super::{Attached, Dns, Member};
use crate::{
    error::{Error, Kind, Result},
    spec::{Files, request::Request},
};

/// Longest file of the host that is read, in bytes.
const MOST: u64 = 1 << 20;
/// Who is asked if the host's own servers cannot be.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// What systemd-resolved asks, behind its own address.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

const LOCAL: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Writes the files into `dir`, or those that are not as they should be. A `resolv.conf` that
/// was changed since is left alone.
///
/// # Errors
/// [`Kind::BadInput`] for values that would be more than one line or word; [`Kind::Host`].
pub fn write(
    dir: &Path,
    who: &Member<'_>,
    request: &Request,
    attached: &Attached,
) -> Result<Files> {
    let name = full_name(who, request)?;
    let host_file = |path: &str| read(Path::new(path));
    let texts = [
        ("hostname", format!("{name}\n")),
        ("hosts", hosts(&name, request, attached, &host_file)?),
    ];
    for (file, text) in &texts {
        put(&dir.join(file), text)?;
    }
    let resolv_conf = resolv_conf(request, &attached.dns, &host_file)?;
    let (path, sum) = (dir.join("resolv.conf"), dir.join("resolv.conf.hash"));
    let now = digest(&read(&path)?);
    let ours = read(&sum)?;
    if ours.is_empty() || ours.trim() == now {
        put(&path, &resolv_conf)?;
        put(&sum, &digest(&resolv_conf))?;
    }
    Ok(Files {
        hostname: Some(dir.join("hostname")),
        hosts: Some(dir.join("hosts")),
        resolv_conf: Some(path),
    })
}

fn digest(text: &str) -> String {
    Digest::of(Algorithm::Sha256, text.as_bytes()).to_string()
}

/// The text of a file; empty if it is not there.
fn read(path: &Path) -> Result<String> {
    let failed = |e| Error::host(format!("read `{}`", path.display()), e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a file that the container may have written to: in place, since it is mounted there.
fn put(path: &Path, text: &str) -> Result<()> {
    let failed = |e| Error::host(format!("write `{}`", path.display()), e);
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    // Whatever the umask is: users of the container read it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed)
}

/// A word of a file's line.
fn word<'a>(text: &'a str, what: &str) -> Result<&'a str> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '#';
    if text.is_empty() || text.contains(bad) {
        let m = format!("{what} `{}` is not one word", text.escape_debug());
        return Err(Error::new(Kind::BadInput, m));
    }
    Ok(text)
}

fn full_name(who: &Member<'_>, request: &Request) -> Result<String> {
    let host = word(who.hostname, "the host name")?;
    match &*request.config.domainname {
        "" => Ok(host.to_owned()),
        domain => Ok(format!("{host}.{}", word(domain, "the domain name")?)),
    }
}

type HostFile<'a> = &'a dyn Fn(&str) -> Result<String>;

fn hosts(name: &str, request: &Request, attached: &Attached, host: HostFile<'_>) -> Result<String> {
    let mut text = match attached.dns {
        Dns::Host => host("/etc/hosts")?,
        _ => LOCAL.to_owned(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for extra in &request.host_config.extra_hosts {
        let (names, address) = extra
            .split_once('=')
            .or_else(|| extra.split_once(':'))
            .ok_or_else(|| {
                let m = format!("invalid --add-host `{}`", extra.escape_debug());
                Error::new(Kind::BadInput, m).with_hint("write name:address")
            })?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = match address {
            "host-gateway" => attached.gateway.ok_or_else(|| {
                let m = "host-gateway: a container without a bridge has no gateway to the host";
                Error::new(Kind::BadInput, m)
            })?,
            text => text.parse().map_err(|_| {
                let m = format!("invalid --add-host `{}`: no address", extra.escape_debug());
                Error::new(Kind::BadInput, m)
            })?,
        };
        let name = word(names, "the host of --add-host")?;
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for (address, names) in &attached.links {
        for name in names.split(' ') {
            word(name, "a name of a link")?;
        }
        text.push_str(&format!("{address}\t{names}\n"));
    }
    for address in &attached.hosts {
        let short = name.split('.').next().unwrap_or(name);
        let shown = if short == name || short.is_empty() {
            name.to_owned()
        } else {
            format!("{name} {short}")
        };
        text.push_str(&format!("{address}\t{shown}\n"));
    }
    Ok(text)
}

/// What a file says about the resolver.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolver {
    let mut found = Resolver::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => found.servers.extend(words.next()),
            // The last one holds.
            Some("search" | "domain") => found.search = words.collect(),
            Some("options") => found.options.extend(words),
            _ => {}
        }
    }
    found
}

/// Whether a server is on the host itself; its zone does not matter.
fn is_local(server: &str) -> bool {
    let address = server.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn resolv_conf(request: &Request, dns: &Dns, host: HostFile<'_>) -> Result<String> {
    let asked = &request.host_config;
    let text = host("/etc/resolv.conf")?;
    let said = !asked.dns.is_empty() || !asked.dns_search.is_empty();
    let said = said || !asked.dns_options.is_empty();
    if *dns == Dns::Host && !said {
        return Ok(text);
    }
    let mut found = parse(&text);
    if *dns != Dns::Host && found.servers == ["127.0.0.53"] {
        let behind = parse(&host(RESOLVED)?);
        if !behind.servers.is_empty() {
            found = behind;
        }
    }
    match dns {
        Dns::Host => {}
        Dns::Filtered => {
            found.servers.retain(|s| !is_local(s));
            if found.servers.is_empty() {
                found.servers = FALLBACK.map(str::to_owned).to_vec();
            }
        }
        Dns::Servers(servers) => {
            found.servers = servers.iter().map(ToString::to_string).collect();
            // Names of containers have no dots.
            found.options.retain(|o| !o.starts_with("ndots:"));
            found.options.push("ndots:0".to_owned());
        }
    }
    // Servers that know the names of containers ask those that were given.
    if !asked.dns.is_empty() && !matches!(dns, Dns::Servers(_)) {
        found.servers.clone_from(&asked.dns);
    }
    if !asked.dns_search.is_empty() {
        let search = asked.dns_search.iter();
        found.search = search.filter(|s| *s != ".").cloned().collect();
    }
    if !asked.dns_options.is_empty() {
        let ndots = |list: &[String]| list.iter().any(|o| o.starts_with("ndots:"));
        let keep = matches!(dns, Dns::Servers(_)) && !ndots(&asked.dns_options);
        found.options.clone_from(&asked.dns_options);
        if keep {
            found.options.push("ndots:0".to_owned());
        }
    }
    let mut text = String::from("# Made by unlade; changes inside of the container stay.\n");
    for server in &found.servers {
        text.push_str(&format!("nameserver {}\n", word(server, "the server")?));
    }
    for (key, words) in [("search", &found.search), ("options", &found.options)] {
        if !words.is_empty() {
            for w in words {
                word(w, "the word for the resolver")?;
            }
            text.push_str(&format!("{key} {}\n", words.join(" ")));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{network::NetworkSettings, spec::Ns};

    fn attached(dns: Dns) -> Attached {
        Attached {
            ns: Ns::New,
            settings: NetworkSettings::default(),
            links: Vec::new(),
            hosts: vec!["172.17.0.2".parse().unwrap()],
            gateway: "172.17.0.1".parse().ok(),
            dns,
            held: Vec::new(),
        }
    }

    const WHO: Member<'_> = Member {
        id: "0123456789abcdef",
        name: "web",
        hostname: "web",
        other: None,
        links: &[],
    };

    fn host(path: &str) -> Result<String> {
        Ok(match path {
            "/etc/hosts" => "10.0.0.1 host",
            "/etc/resolv.conf" => {
                "nameserver 127.0.0.53 # stub\nsearch a.example\noptions edns0 ndots:2\n"
            }
            _ => "nameserver 192.0.2.53\nnameserver ::1\nsearch b.example\n",
        }
        .to_owned())
    }

    fn conf(dns: &Dns, change: impl Fn(&mut Request)) -> String {
        let mut request = Request::default();
        change(&mut request);
        let text = resolv_conf(&request, dns, &host).unwrap();
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        lines.collect::<Vec<_>>().join("|")
    }

    #[test]
    fn resolvers() {
        let none = |_: &mut Request| {};
        assert_eq!(
            resolv_conf(&Request::default(), &Dns::Host, &host).unwrap(),
            host("/etc/resolv.conf").unwrap()
        );
        assert_eq!(
            conf(&Dns::Filtered, none),
            "nameserver 192.0.2.53|search b.example"
        );
        let servers = Dns::Servers(vec!["10.89.0.1".parse().unwrap()]);
        assert_eq!(
            conf(&servers, none),
            "nameserver 10.89.0.1|search b.example|options ndots:0"
        );
        let own = |r: &mut Request| {
            r.host_config.dns = vec!["192.0.2.9".to_owned()];
            r.host_config.dns_search = vec![".".to_owned()];
            r.host_config.dns_options = vec!["rotate".to_owned()];
        };
        assert_eq!(
            conf(&Dns::Filtered, own),
            "nameserver 192.0.2.9|options rotate"
        );
        assert_eq!(conf(&Dns::Host, own), "nameserver 192.0.2.9|options rotate");
        assert_eq!(
            conf(&servers, own),
            "nameserver 10.89.0.1|options rotate ndots:0"
        );
        let local = |_: &str| Ok("nameserver 127.0.0.1\nnameserver ::1%lo\n".to_owned());
        let text = resolv_conf(&Request::default(), &Dns::Filtered, &local).unwrap();
        assert!(
            text.ends_with("nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
            "{text}"
        );
        let mut request = Request::default();
        request.host_config.dns_search = vec!["a\nnameserver 6.6.6.6".to_owned()];
        assert!(resolv_conf(&request, &servers, &host).is_err());
    }

    #[test]
    fn host_names() {
        let mut request = Request::default();
        request.host_config.extra_hosts = ["db:10.0.0.7", "six:[::7]", "gw=host-gateway"]
            .map(str::to_owned)
            .to_vec();
        let text = hosts("web.example", &request, &attached(Dns::Filtered), &host).unwrap();
        let tail = "10.0.0.7\tdb\n::7\tsix\n172.17.0.1\tgw\n172.17.0.2\tweb.example web\n";
        assert_eq!(text, format!("{LOCAL}{tail}"));
        let mut bare = attached(Dns::Host);
        bare.hosts.clear();
        let text = hosts("web", &Request::default(), &bare, &host).unwrap();
        assert_eq!(text, "10.0.0.1 host\n");
        for bad in [
            "x",
            "x:y",
            "a b:1.2.3.4",
            "x\n1.2.3.4 y:1.2.3.4",
            ":1.2.3.4",
        ] {
            request.host_config.extra_hosts = vec![bad.to_owned()];
            assert!(hosts("web", &request, &bare, &host).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_was_edited_stays() {
        let dir = tempfile::tempdir().unwrap();
        let request = Request::default();
        let attached = attached(Dns::Servers(vec!["10.89.0.1".parse().unwrap()]));
        let files = write(dir.path(), &WHO, &request, &attached).unwrap();
        let path = files.resolv_conf.unwrap();
        let text = |p: &Path| fs::read_to_string(p).unwrap();
        assert_eq!(text(&files.hostname.unwrap()), "web\n");
        assert!(text(&path).contains("nameserver 10.89.0.1"));
        // What nobody has touched follows.
        let mut other = attached;
        other.dns = Dns::Servers(vec!["10.89.9.1".parse().unwrap()]);
        write(dir.path(), &WHO, &request, &other).unwrap();
        assert!(text(&path).contains("nameserver 10.89.9.1"));
        fs::write(&path, "nameserver 1.2.3.4\n").unwrap();
        write(dir.path(), &WHO, &request, &other).unwrap();
        assert_eq!(text(&path), "nameserver 1.2.3.4\n");
        // A name that would be more than a name.
        let evil = Member {
            hostname: "x\n6.6.6.6 example.com",
            ..WHO
        };
        assert!(write(dir.path(), &evil, &request, &other).is_err());
    }
}
