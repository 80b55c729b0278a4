//! What this host is like, as far as a spec depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::caps;
use crate::sys;

/// What this host is like. Gathered once a process; [`super::assemble`] reads nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HostFacts {
    /// Its name.
    pub hostname: String,
    /// Whether control groups can have real-time CPU time, which only those of v1 can.
    pub realtime: bool,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Go's name of the architecture: `amd64`, `arm64`, …
    pub arch: String,
    /// Whether control groups are of version 2 alone.
    pub cgroup_v2: bool,
    /// Controllers that there are (`memory`, `cpu`, `pids`, …).
    pub controllers: BTreeSet<String>,
    /// Whether swap is counted (`memory.memsw.*`, `memory.swap.max`).
    pub swap_limit: bool,
    /// Whether block I/O can be weighted.
    pub blkio_weight: bool,
    /// Whether it can be weighted for single disks.
    pub blkio_weight_device: bool,
    /// The engine's bounding set, as `CAP_…`.
    pub bounding: BTreeSet<String>,
    /// Whether the kernel has time namespaces.
    pub time_namespace: bool,
    /// Whether the kernel has namespaces of control groups.
    pub cgroup_namespace: bool,
    /// Whether the engine is in a user namespace (rootless).
    pub in_user_namespace: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// The profile for containers that is loaded, if one is.
    pub apparmor_profile: Option<String>,
    /// All profiles that are loaded, where the kernel lists them.
    pub apparmor_loaded: Option<BTreeSet<String>>,
    /// Whether SELinux is on.
    pub selinux: bool,
    /// CPUs that there are, as `0-3,7`.
    pub cpus: String,
    /// Memory nodes that there are.
    pub mems: String,
    /// Directories that show when CPUs are throttled: masked, since they are a side channel.
    pub thermal_throttle: Vec<String>,
    /// Whether the engine may raise hard limits (CAP_SYS_RESOURCE).
    pub may_raise_limits: bool,
    /// The engine's hard limits by name (`nofile`); no entry for unlimited.
    pub hard_limits: BTreeMap<String, u64>,
    /// The engine's own OOM score adjustment.
    pub oom_score_adj: i32,
    /// Whether the kernel has, or may have, system calls of the x32 ABI.
    pub x32: bool,
}

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Longest file of `/proc` or `/sys` that is read here.
const MAX_FILE: u64 = 64 << 10;

impl HostFacts {
    /// Looks at this host. Nothing that is not there is an error: what cannot be found out is not
    /// used.
    pub fn gather() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let in_user_namespace = in_user_namespace(&text("/proc/self/uid_map").unwrap_or_default());
        let rootless = in_user_namespace || !rustix::process::geteuid().is_root();
        let (cgroup_v2, controllers) = cgroups(rootless);
        let status = text("/proc/self/status").unwrap_or_default();
        let bounding = bounding(&status);
        let own_caps = mask(&status, "CapEff:").unwrap_or(0);
        const SYS_RESOURCE: u64 = 1 << 24;
        let there = |path: &str| Path::new(path).exists();
        let swap_limit = if cgroup_v2 {
            groups_have("memory.swap.max")
        } else {
            there("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        };
        let weighs = |v2: &str, v1: &[&str]| match cgroup_v2 {
            true => controllers.contains("io") && groups_have(v2),
            false => v1.iter().any(|file| below_has("blkio", file)),
        };
        let blkio_weight = weighs("io.bfq.weight", &["blkio.weight", "blkio.bfq.weight"]);
        let blkio_weight_device = weighs(
            "io.bfq.weight",
            &["blkio.weight_device", "blkio.bfq.weight_device"],
        );
        let apparmor = line("/sys/module/apparmor/parameters/enabled").as_deref() == Some("Y");
        let apparmor_loaded = apparmor.then(apparmor_loaded).flatten();
        let selinux = there("/sys/fs/selinux/enforce");
        let realtime = !cgroup_v2
            && controllers.contains("cpu")
            && there("/sys/fs/cgroup/cpu/cpu.rt_runtime_us");
        Self {
            realtime,
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: version(&release),
            arch: arch(&uname.machine().to_string_lossy()).to_owned(),
            cgroup_v2,
            controllers,
            swap_limit,
            blkio_weight,
            blkio_weight_device,
            bounding,
            time_namespace: there("/proc/self/ns/time"),
            cgroup_namespace: there("/proc/self/ns/cgroup"),
            in_user_namespace,
            apparmor,
            apparmor_profile: apparmor_loaded.as_ref().and_then(apparmor_profile),
            apparmor_loaded,
            selinux,
            cpus: line("/sys/devices/system/cpu/online").unwrap_or_default(),
            mems: line("/sys/devices/system/node/online").unwrap_or_default(),
            thermal_throttle: thermal_throttle(),
            may_raise_limits: own_caps & SYS_RESOURCE != 0,
            hard_limits: hard_limits(&text("/proc/self/limits").unwrap_or_default()),
            oom_score_adj: line("/proc/self/oom_score_adj")
                .and_then(|t| t.parse().ok())
                .unwrap_or(0),
            // Under a filter the question could be the end of this process.
            x32: mask(&status, "Seccomp:") != Some(0) || sys::x32_calls(),
        }
    }
}

fn text(path: &str) -> Option<String> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

fn line(path: &str) -> Option<String> {
    Some(text(path)?.lines().next()?.trim().to_owned())
}

/// Major and minor version of `6.18.5-foo`.
fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// Go's name for a machine.
fn arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i586" | "i686" => "386",
        "loongarch64" => "loong64",
        m if m.starts_with("arm") => "arm",
        m => m,
    }
}

/// Whether control groups are of version 2 alone, and which controllers there are. Without being
/// root on the host, those that the own group was given.
fn cgroups(rootless: bool) -> (bool, BTreeSet<String>) {
    let base = Path::new(CGROUPS);
    let top = base.join("cgroup.controllers");
    if top.exists() {
        let own = own_group().filter(|_| rootless);
        let file = own.map_or(top, |own| own.join("cgroup.controllers"));
        let list = file.to_str().and_then(line).unwrap_or_default();
        return (true, list.split_whitespace().map(str::to_owned).collect());
    }
    // Nobody but root gets groups of the first version.
    if rootless {
        return (false, BTreeSet::new());
    }
    let table = text("/proc/cgroups").unwrap_or_default();
    (false, controllers_v1(&table))
}

/// Enabled controllers of `/proc/cgroups` that have a hierarchy of their own.
fn controllers_v1(table: &str) -> BTreeSet<String> {
    let rows = table.lines().filter(|l| !l.starts_with('#'));
    let enabled = rows.filter_map(|l| {
        let f: Vec<&str> = l.split_whitespace().collect();
        let [name, hierarchy, _, enabled] = f[..] else {
            return None;
        };
        (enabled == "1" && hierarchy != "0").then(|| name.to_owned())
    });
    enabled.collect()
}

/// The control group that this process is in, with cgroup v2.
fn own_group() -> Option<PathBuf> {
    let own = text("/proc/self/cgroup")?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::/"))?;
    Some(Path::new(CGROUPS).join(path))
}

/// Whether control groups have a file, with cgroup v2. The topmost one has none of them: then one
/// below it is looked at.
fn groups_have(file: &str) -> bool {
    let Some(own) = own_group() else { return false };
    if own.join(file).exists() {
        return true;
    }
    below_has("", file)
}

/// Whether a group below the topmost one of a hierarchy has a file: some files only those have.
fn below_has(hierarchy: &str, file: &str) -> bool {
    let entries = fs::read_dir(Path::new(CGROUPS).join(hierarchy)).ok();
    let below = entries.and_then(|entries| {
        let mut entries = entries.flatten().map(|e| e.path());
        entries.find(|p| p.join("cgroup.procs").exists())
    });
    below.is_some_and(|p| p.join(file).exists())
}

fn mask(status: &str, field: &str) -> Option<u64> {
    let hex = status.lines().find_map(|l| l.strip_prefix(field))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn bounding(status: &str) -> BTreeSet<String> {
    let set = mask(status, "CapBnd:").unwrap_or(0);
    let has = |n: &usize| set & (1 << n) != 0;
    (0..caps::ALL.len())
        .filter(has)
        .map(|n| format!("CAP_{}", caps::ALL[n]))
        .collect()
}

/// Whether ids are mapped other than one to one.
fn in_user_namespace(map: &str) -> bool {
    let words: Vec<&str> = map.split_whitespace().collect();
    !words.is_empty() && words != ["0", "0", "4294967295"]
}

/// The profiles that are loaded. Only root may list them.
fn apparmor_loaded() -> Option<BTreeSet<String>> {
    let mut list = String::new();
    let file = File::open("/sys/kernel/security/apparmor/profiles").ok()?;
    file.take(1 << 20).read_to_string(&mut list).ok()?;
    Some(profiles(&list))
}

/// The names in a list of `name (mode)`; names may have blanks.
fn profiles(list: &str) -> BTreeSet<String> {
    let lines = list.lines();
    let names = lines.filter_map(|l| l.rsplit_once(" (").map(|(name, _)| name.to_owned()));
    names.collect()
}

/// A profile for containers that is loaded: one that an administrator has made for us, or docker's.
fn apparmor_profile(loaded: &BTreeSet<String>) -> Option<String> {
    ["unlade-default", "docker-default"]
        .into_iter()
        .find(|name| loaded.contains(*name))
        .map(str::to_owned)
}

fn thermal_throttle() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else {
        return Vec::new();
    };
    let is_cpu = |name: &str| {
        name.strip_prefix("cpu")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut out: Vec<String> = entries
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(is_cpu))
        .map(|e| e.path().join("thermal_throttle"))
        .filter(|p| p.exists())
        .filter_map(|p| p.to_str().map(str::to_owned))
        .collect();
    out.sort();
    out
}

/// Hard limits of `/proc/self/limits` by the names of `--ulimit`.
fn hard_limits(table: &str) -> BTreeMap<String, u64> {
    const ROWS: [(&str, &str); 16] = [
        ("Max address space", "as"),
        ("Max core file size", "core"),
        ("Max cpu time", "cpu"),
        ("Max data size", "data"),
        ("Max file size", "fsize"),
        ("Max file locks", "locks"),
        ("Max locked memory", "memlock"),
        ("Max msgqueue size", "msgqueue"),
        ("Max nice priority", "nice"),
        ("Max open files", "nofile"),
        ("Max processes", "nproc"),
        ("Max resident set", "rss"),
        ("Max realtime priority", "rtprio"),
        ("Max realtime timeout", "rttime"),
        ("Max pending signals", "sigpending"),
        ("Max stack size", "stack"),
    ];
    let mut out = BTreeMap::new();
    for (row, name) in ROWS {
        let rest = table.lines().find_map(|l| l.strip_prefix(row));
        let hard = rest.and_then(|r| r.split_whitespace().nth(1));
        if let Some(Ok(hard)) = hard.map(str::parse) {
            out.insert(name.to_owned(), hard);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host() {
        let facts = HostFacts::gather();
        assert!(facts.kernel >= (5, 6), "{facts:?}");
        assert!(!facts.hostname.is_empty() && !facts.cpus.is_empty());
        assert!(super::super::bounds::cpuset(&facts.cpus).is_some());
        assert!(!facts.arch.contains('_'));
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<HostFacts>(&text).unwrap(), facts);
    }

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(version("6.18.5-foo"), (6, 18));
        assert_eq!((version("5"), version("x")), ((5, 0), (0, 0)));
        assert_eq!(
            (arch("x86_64"), arch("armv7l"), arch("riscv64")),
            ("amd64", "arm", "riscv64")
        );
        assert!(!in_user_namespace("         0          0 4294967295\n"));
        assert!(in_user_namespace("0 1000 1\n") && !in_user_namespace(""));
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t5\t1\nmemory\t0\t5\t1\npids\t2\t1\t0\n";
        assert_eq!(controllers_v1(table), ["cpu".to_owned()].into());
        assert_eq!(
            bounding("CapBnd:\t0000000000000003\n"),
            ["CAP_CHOWN".to_owned(), "CAP_DAC_OVERRIDE".to_owned()].into()
        );
        let loaded =
            profiles("a b (enforce)\ndocker-default (enforce)\n/usr/bin/x//y (complain)\n");
        assert!(loaded.contains("a b") && loaded.contains("/usr/bin/x//y"));
        assert_eq!(apparmor_profile(&loaded).unwrap(), "docker-default");
        let limits = hard_limits(
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\nMax cpu time              unlimited            unlimited            seconds\n",
        );
        assert_eq!(limits, [("nofile".to_owned(), 4096)].into());
    }
}
