//! What was left to the engine, as values: for those who look at a container.

use super::{
    assemble, host::HostFacts, mounts, place::CgroupNs, request::HostConfig, security::Options,
};
use crate::error::Result;

/// `request` with the values that count where it names none, as [`assemble()`](super::assemble())
/// takes them. What is recorded stays as it was asked: it is what a restart or an update goes by.
///
/// # Errors
/// For a request that [`check`](super::check()) refuses.
pub fn effective(request: &HostConfig, host: &HostFacts) -> Result<HostConfig> {
    let mut shown = request.clone();
    let options = Options::parse(&request.security_opt)?;
    if shown.ipc_mode.is_empty() {
        "private".clone_into(&mut shown.ipc_mode);
    }
    if shown.cgroupns_mode.is_empty() {
        let own = assemble::cgroup_namespace("", host, CgroupNs::Auto)?;
        let mode = if own { "private" } else { "host" };
        mode.clone_into(&mut shown.cgroupns_mode);
    }
    shown.shm_size = mounts::shm_bytes(request);
    // As docker, which shows none for a container from which nothing is kept.
    if !request.privileged {
        shown.masked_paths = Some(assemble::masked_paths(request, &options, host));
        shown.readonly_paths = Some(assemble::readonly_paths(request, &options));
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_shown_and_what_was_asked_stays() {
        let host = |v2| HostFacts {
            cgroup_v2: v2,
            cgroup_namespace: true,
            ..HostFacts::default()
        };
        let of = |request: HostConfig, v2| effective(&request, &host(v2)).unwrap();
        let plain = of(HostConfig::default(), true);
        assert_eq!(
            (&*plain.ipc_mode, &*plain.cgroupns_mode),
            ("private", "private")
        );
        assert_eq!(plain.shm_size, 64 << 20);
        let has = |list: &Option<Vec<String>>, path: &str| list.iter().flatten().any(|p| p == path);
        assert!(has(&plain.masked_paths, "/proc/kcore"));
        assert!(has(&plain.readonly_paths, "/proc/sys"));
        assert_eq!(of(HostConfig::default(), false).cgroupns_mode, "host");
        let asked = HostConfig {
            ipc_mode: "shareable".to_owned(),
            cgroupns_mode: "host".to_owned(),
            shm_size: 4096,
            masked_paths: Some(Vec::new()),
            readonly_paths: Some(vec!["/x".to_owned()]),
            ..HostConfig::default()
        };
        assert_eq!(of(asked.clone(), true), asked);
        let all = HostConfig {
            privileged: true,
            ..HostConfig::default()
        };
        assert_eq!(of(all, true).masked_paths, None);
        let open = HostConfig {
            security_opt: vec!["systempaths=unconfined".to_owned()],
            ..HostConfig::default()
        };
        assert_eq!(of(open, true).masked_paths, Some(Vec::new()));
    }
}
