//! Kernel parameters that belong to a container's own namespaces, and no others.

use std::collections::BTreeMap;

use super::{
    check::bad,
    explain::{Notes, Origin},
    place::{Ns, Placement},
    request::Request,
};
use crate::{error::Result, image::json::show};

/// Parameters of an IPC namespace.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

/// Checks names and values of the request. A runtime makes a path of the name and writes the
/// value there: what is neither of a namespace nor plain text is refused (CVE-2022-0811).
pub(super) fn check(request: &Request) -> Result<()> {
    let h = &request.host_config;
    for (name, value) in &h.sysctls {
        let part = |p: &str| {
            !p.is_empty()
                && p.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if !name.split('.').all(part) {
            let m = format!("`{}` is no kernel parameter", show(name));
            return bad(m, "write it with dots, such as net.core.somaxconn");
        }
        if value.contains('+') || value.chars().any(|c| c.is_control() && c != '\t') {
            let m = format!(
                "the value of {name} has a character that none needs: `{}`",
                show(value)
            );
            return bad(m, "give numbers or words");
        }
        let of_ipc = IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.");
        let of_net = name.starts_with("net.");
        if !of_ipc && !of_net {
            let m = format!("{name} is not of a namespace: it would change the host");
            return bad(
                m,
                "only kernel.msg*, kernel.sem, kernel.shm*, fs.mqueue.* and net.* can be set",
            );
        }
        if of_net && h.network_mode == "host" {
            let m = format!("{name} would change the host's network");
            return bad(m, "give the container a network of its own");
        }
        if of_ipc && (h.ipc_mode == "host" || h.ipc_mode.starts_with("container:")) {
            let m = format!("{name} would change an IPC namespace of another");
            return bad(m, "give the container an IPC namespace of its own");
        }
    }
    Ok(())
}

/// The parameters of a container.
pub(super) fn assemble(
    request: &Request,
    place: &Placement,
    in_user_namespace: bool,
    notes: &mut Notes,
) -> Result<BTreeMap<String, String>> {
    check(request)?;
    let h = &request.host_config;
    let mut out = BTreeMap::new();
    let mut default = |name: &str, value: &str, notes: &mut Notes| {
        notes.set(format!("linux.sysctl[{name}]"), Origin::Default, "");
        out.insert(name.to_owned(), value.to_owned());
    };
    // Its own network: ports below 1024 and ping are for everybody in it.
    let owns_network = place.network != Ns::Host && !h.network_mode.starts_with("container:");
    if owns_network {
        default("net.ipv4.ip_unprivileged_port_start", "0", notes);
        if !in_user_namespace {
            default("net.ipv4.ping_group_range", "0 2147483647", notes);
        }
    }
    let domain = &request.config.domainname;
    if !domain.is_empty() && place.uts == Ns::New {
        notes.set(
            "linux.sysctl[kernel.domainname]",
            Origin::User,
            "--domainname",
        );
        out.insert("kernel.domainname".to_owned(), domain.clone());
    }
    for (name, value) in &h.sysctls {
        notes.set(format!("linux.sysctl[{name}]"), Origin::User, "--sysctl");
        out.insert(name.clone(), value.clone());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &str, value: &str) -> Request {
        let mut request = Request::default();
        let sysctls = &mut request.host_config.sysctls;
        sysctls.insert(name.to_owned(), value.to_owned());
        request
    }

    #[test]
    fn the_list() {
        for (name, value) in [
            ("kernel.msgmax", "65536"),
            ("kernel.sem", "250\t32000 32 128"),
            ("fs.mqueue.msg_max", "1"),
            ("net.core.somaxconn", "1024"),
            ("net.ipv4.conf.eth-0.rp_filter", "1"),
        ] {
            check(&request(name, value)).unwrap();
        }
        for (name, value, part) in [
            ("kernel.core_pattern", "|/x", "not of a namespace"),
            ("kernel.shm_rmid_forcedx", "1", "not of a namespace"),
            ("kernel.domainname", "x", "not of a namespace"),
            ("vm.overcommit_memory", "1", "not of a namespace"),
            ("net/../kernel/core_pattern", "|/x", "no kernel parameter"),
            (
                "net.ipv4/../../kernel/core_pattern",
                "|/x",
                "no kernel parameter",
            ),
            ("net..core", "1", "no kernel parameter"),
            ("net.", "1", "no kernel parameter"),
            ("", "1", "no kernel parameter"),
            ("net.core.a\n", "1", "no kernel parameter"),
            (
                "kernel.shm_rmid_forced",
                "1+kernel.core_pattern=|/x",
                "character",
            ),
            ("net.core.somaxconn", "1\n2", "character"),
        ] {
            let e = check(&request(name, value)).unwrap_err();
            assert!(e.message().contains(part), "{name}: {e}");
        }
    }

    #[test]
    fn only_in_namespaces_of_its_own() {
        let mut net = request("net.core.somaxconn", "1");
        net.host_config.network_mode = "host".into();
        assert!(check(&net).unwrap_err().message().contains("network"));
        for mode in ["host", "container:x"] {
            let mut ipc = request("kernel.msgmax", "1");
            ipc.host_config.ipc_mode = mode.into();
            assert!(check(&ipc).unwrap_err().message().contains("IPC"));
        }
    }

    #[test]
    fn defaults() {
        let all = |r: &Request, place: &Placement, user| {
            assemble(r, place, user, &mut Notes::default()).unwrap()
        };
        let mut r = request("net.ipv4.ip_unprivileged_port_start", "80");
        let place = Placement::default();
        let out = all(&r, &place, false);
        assert_eq!(out["net.ipv4.ip_unprivileged_port_start"], "80");
        assert_eq!(out["net.ipv4.ping_group_range"], "0 2147483647");
        assert_eq!(all(&Request::default(), &place, true).len(), 1);
        r.host_config.sysctls.clear();
        r.config.domainname = "d".into();
        let host = Placement {
            network: Ns::Host,
            uts: Ns::Host,
            ..Placement::default()
        };
        assert!(all(&r, &host, false).is_empty());
        r.host_config.network_mode = "container:x".into();
        assert_eq!(
            all(&r, &place, false).into_iter().collect::<Vec<_>>(),
            [("kernel.domainname".to_owned(), "d".to_owned())]
        );
    }
}
