use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};

use super::{
    from_label, narrow,
    profile::{Facts, Profile},
};
use crate::{error::Kind, spec::caps::Names};
use proptest::{collection::vec, prelude::*};

fn caps(text: &str) -> Names {
    text.split_whitespace()
        .map(|c| format!("CAP_{c}"))
        .collect()
}

pub(super) fn resolve(text: &str, given: &str, arch: &str, kernel: (u32, u32)) -> LinuxSeccomp {
    let caps = caps(given);
    let facts = Facts {
        caps: &caps,
        arch,
        kernel,
    };
    Profile::parse(text).unwrap().resolve(&facts).unwrap()
}

pub(super) fn own(given: &str, arch: &str) -> LinuxSeccomp {
    own_where(given, arch, true)
}

pub(super) fn own_where(given: &str, arch: &str, x32: bool) -> LinuxSeccomp {
    let caps = caps(given);
    let facts = Facts {
        caps: &caps,
        arch,
        kernel: (6, 1),
    };
    super::own(&facts, x32).unwrap()
}

fn rules<'a>(filter: &'a LinuxSeccomp, name: &str) -> Vec<&'a LinuxSyscall> {
    let all = filter.syscalls().as_ref().unwrap();
    all.iter()
        .filter(|r| r.names().iter().any(|n| n == name))
        .collect()
}

/// What happens to a call without arguments: its action and error.
fn plain(filter: &LinuxSeccomp, name: &str) -> (Action, Option<u32>) {
    let found: Vec<_> = rules(filter, name)
        .into_iter()
        .filter(|r| r.args().is_none())
        .collect();
    assert!(
        found.len() <= 1,
        "{name} has {} rules without conditions",
        found.len()
    );
    match found.first() {
        Some(rule) => (rule.action(), rule.errno_ret()),
        None => (filter.default_action(), filter.default_errno_ret()),
    }
}

const ALLOW: (Action, Option<u32>) = (Action::ScmpActAllow, None);
const EPERM: (Action, Option<u32>) = (Action::ScmpActErrno, Some(1));
const ENOSYS: (Action, Option<u32>) = (Action::ScmpActErrno, Some(38));

#[test]
fn the_default_profile() {
    let filter = own("", "amd64");
    for name in [
        "read",
        "openat2",
        "execve",
        "futex_waitv",
        "ptrace",
        "mseal",
        "arch_prctl",
        "statmount",
    ] {
        assert_eq!(plain(&filter, name), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "keyctl",
        "kexec_load",
        "reboot",
        "chroot",
        "syslog",
        "pidfd_getfd",
        "userfaultfd",
    ] {
        assert_eq!(plain(&filter, name), EPERM, "{name}");
    }
    for name in [
        "clone3",
        "io_uring_setup",
        "not_invented_yet",
        "riscv_hwprobe",
    ] {
        assert_eq!(plain(&filter, name), ENOSYS, "{name}");
    }
    let sub = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
    assert_eq!(filter.architectures().as_deref(), Some(&sub[..]));
    let without = own_where("", "amd64", false);
    assert_eq!(without.architectures().as_deref(), Some(&sub[..2]));
    assert_eq!(without.syscalls(), filter.syscalls());
    assert_eq!(rules(&filter, "socket").len(), 9);
    assert_eq!(rules(&filter, "personality").len(), 5);
    assert_eq!(rules(&filter, "clone").len(), 8);
}

#[test]
fn capabilities_open_calls() {
    for (cap, names) in [
        (
            "SYS_ADMIN",
            "mount unshare clone3 clone bpf perf_event_open syslog",
        ),
        ("BPF", "bpf"),
        ("PERFMON", "perf_event_open"),
        ("SYSLOG", "syslog"),
        ("SYS_PTRACE", "kcmp pidfd_getfd"),
        ("SYS_TIME", "clock_settime"),
        ("SYS_CHROOT", "chroot"),
        ("SYS_NICE", "mbind"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
    ] {
        let filter = own(cap, "amd64");
        for name in names.split(' ') {
            assert_eq!(plain(&filter, name), ALLOW, "{cap}: {name}");
        }
    }
    assert_eq!(plain(&own("BPF SYS_ADMIN", "amd64"), "bpf"), ALLOW);
}

/// No call may be allowed and refused at once, in any combination of what decides.
#[test]
fn no_two_rules_say_different_things() {
    for arch in ["amd64", "arm64", "s390x", "ppc64le", "riscv64", "386"] {
        for given in ["", "SYS_ADMIN", "BPF PERFMON SYSLOG", "SYS_PTRACE SYS_BOOT"] {
            let filter = own(given, arch);
            let mut seen = BTreeSet::new();
            for rule in filter.syscalls().as_ref().unwrap() {
                for name in rule.names() {
                    let args = format!("{:?}", rule.args());
                    assert!(
                        seen.insert((name.clone(), args.clone())),
                        "{name} {args} twice on {arch}"
                    );
                    if rule.args().is_none() {
                        assert_eq!(rules(&filter, name).len(), 1, "{name} on {arch}");
                    }
                }
            }
        }
    }
    let clone = own("", "s390x");
    assert!(
        rules(&clone, "clone")
            .iter()
            .all(|r| r.args().as_ref().unwrap()[0].index() == 1)
    );
}

#[test]
fn dockers_format() {
    let text = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS", "comment": "x",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.0"}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
            {"names": ["f"], "action": "SCMP_ACT_ERRNO", "errno": "EPERM",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_NE"}, {"index": 0, "value": 2, "op": "SCMP_CMP_NE"}]}
        ]
    }"#;
    let has = |f: &LinuxSeccomp| -> String {
        let all = f
            .syscalls()
            .as_ref()
            .unwrap()
            .iter()
            .flat_map(|r| r.names().clone());
        all.collect::<Vec<_>>().join(" ")
    };
    let f = resolve(text, "KILL", "amd64", (4, 8));
    assert_eq!(has(&f), "read write e f f");
    assert_eq!(f.default_errno_ret(), Some(38));
    assert_eq!(f.architectures().as_ref().unwrap().len(), 2);
    // Two conditions on one argument are two rules.
    let two = rules(&f, "f");
    assert!(
        two.iter()
            .all(|r| r.args().as_ref().unwrap().len() == 1 && r.errno_ret() == Some(1))
    );
    let f = resolve(text, "KILL CHOWN", "arm64", (5, 0));
    assert_eq!(has(&f), "read write a c d f f");
    assert_eq!(f.architectures().as_ref().unwrap().len(), 1);
    let f = resolve(text, "", "amd64", (6, 0));
    assert_eq!(has(&f), "read write b c e f f");
    let f = resolve(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}"#,
        "",
        "amd64",
        (6, 0),
    );
    assert_eq!(f.architectures().as_deref(), Some(&[Arch::ScmpArchX86][..]));
}

#[test]
fn profiles_that_are_none() {
    for (text, part) in [
        ("", "EOF"),
        ("[]", "expected an object"),
        ("{}", "no `defaultAction`"),
        (r#"{"defaultAction":"ALLOW"}"#, "unknown variant"),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultAction":"SCMP_ACT_LOG"}"#,
            "twice",
        ),
        (r#"{"DefaultAction":"SCMP_ACT_ALLOW"}"#, "another spelling"),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#,
            "5000",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
            "both",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"]}]}"#,
            "no `action`",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_ALLOW"}]}"#,
            "neither or both",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "neither or both",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a b"],"action":"SCMP_ACT_ALLOW"}]}"#,
            "no name",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            "arguments",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","errno":"EWHAT"}]}"#,
            "EWHAT",
        ),
    ] {
        let e = Profile::parse(text).unwrap_err();
        assert!(e.message().contains(part), "{text}: {e}");
        assert!(e.hint().is_some(), "{text}");
    }
    let caps = Names::new();
    let facts = Facts {
        caps: &caps,
        arch: "amd64",
        kernel: (6, 1),
    };
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"x"}}]}"#;
    assert!(Profile::parse(text).unwrap().resolve(&facts).is_err());
    let listener = r#"{"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/run/x.sock"}"#;
    assert!(
        from_label(listener, &facts)
            .unwrap_err()
            .message()
            .contains("listener")
    );
    let long = " ".repeat(2 << 20);
    assert_eq!(from_label(&long, &facts).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn an_image_only_takes_away() {
    let ours = own("", "amd64");
    let theirs = |text: &str| resolve(text, "", "amd64", (6, 1));
    // An allow list: what is not on it goes, what unlade refuses stays refused.
    let list = theirs(
        r#"{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[
        {"names":["read","write","mount","clone","socket"],"action":"SCMP_ACT_ALLOW"},
        {"names":["openat"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let both = narrow::both(&ours, &list).unwrap();
    assert_eq!(both.default_action(), Action::ScmpActKillProcess);
    assert_eq!(plain(&both, "read"), ALLOW);
    assert_ne!(plain(&both, "mount").0, Action::ScmpActAllow);
    assert_eq!(plain(&both, "execve").0, Action::ScmpActKillProcess);
    assert_eq!(rules(&both, "openat")[0].args().as_ref().unwrap().len(), 1);
    let allowed = |name: &str| {
        rules(&both, name)
            .into_iter()
            .filter(|r| r.action() == Action::ScmpActAllow)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(allowed("clone").len(), 1);
    assert!(allowed("socket").iter().all(|r| r.args().is_some()) && !allowed("socket").is_empty());
    assert_eq!(narrow::refused_here(&ours, &list), ["mount"]);
    // A list of refusals.
    let deny = theirs(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["ptrace"],"action":"SCMP_ACT_KILL"},
        {"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":16,"op":"SCMP_CMP_EQ"}]},
        {"names":["keyctl"],"action":"SCMP_ACT_ALLOW"},
        {"names":["kill"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    );
    let both = narrow::both(&ours, &deny).unwrap();
    assert_eq!((both.default_action(), both.default_errno_ret()), ENOSYS);
    assert_eq!(plain(&both, "read"), ALLOW);
    assert_eq!(plain(&both, "keyctl"), EPERM);
    assert_eq!(plain(&both, "mount"), EPERM);
    assert_eq!(plain(&both, "ptrace").0, Action::ScmpActKill);
    assert_eq!(plain(&both, "chmod"), (Action::ScmpActErrno, Some(13)));
    assert_eq!(plain(&both, "kill"), EPERM);
    let families: Vec<u64> = rules(&both, "socket")
        .iter()
        .filter(|r| r.action() == Action::ScmpActAllow)
        .map(|r| r.args().as_ref().unwrap()[0].value())
        .collect();
    assert!(
        families.contains(&15) && families.contains(&17) && !families.contains(&16),
        "{families:?}"
    );
    // Allowing all changes nothing of what is let through.
    let all = theirs(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let both = narrow::both(&ours, &all).unwrap();
    let open = |f: &LinuxSeccomp| -> BTreeSet<String> {
        let open = f
            .syscalls()
            .as_ref()
            .unwrap()
            .iter()
            .filter(|r| r.action() == Action::ScmpActAllow);
        open.flat_map(|r| r.names().clone()).collect()
    };
    assert_eq!(open(&both), open(&ours));
    assert_eq!(both.architectures(), ours.architectures());
    let few = theirs(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X32","SCMP_ARCH_ARM"]}"#,
    );
    let both = narrow::both(&ours, &few).unwrap();
    let kept = [Arch::ScmpArchX86_64, Arch::ScmpArchX32];
    assert_eq!(both.architectures().as_deref(), Some(&kept[..]));
}

/// Whether a condition holds of a call's arguments: what the kernel means by it.
pub(super) fn holds(condition: &LinuxSeccompArg, call: &[u64]) -> bool {
    let (n, v) = (call[condition.index()], condition.value());
    match condition.op() {
        Op::ScmpCmpEq => n == v,
        Op::ScmpCmpNe => n != v,
        Op::ScmpCmpLt => n < v,
        Op::ScmpCmpLe => n <= v,
        Op::ScmpCmpGe => n >= v,
        Op::ScmpCmpGt => n > v,
        Op::ScmpCmpMaskedEq => n & v == condition.value_two().unwrap_or(0),
    }
}

fn matches(rule: &LinuxSyscall, call: [u64; 3]) -> bool {
    rule.args().iter().flatten().all(|a| holds(a, &call))
}

/// Whether a call comes through. Where rules for and against match, runtimes are not of one mind:
/// `doubt` is what is taken then.
fn lets(filter: &LinuxSeccomp, name: &str, call: [u64; 3], doubt: bool) -> bool {
    let through = |a: Action| matches!(a, Action::ScmpActAllow | Action::ScmpActLog);
    let found: Vec<bool> = rules(filter, name)
        .into_iter()
        .filter(|r| matches(r, call))
        .map(|r| through(r.action()))
        .collect();
    match (found.contains(&true), found.contains(&false)) {
        (true, true) => doubt,
        (false, false) => through(filter.default_action()),
        (yes, _) => yes,
    }
}

fn any_profile() -> impl Strategy<Value = String> {
    let action = prop_oneof![
        Just("ALLOW"),
        Just("ALLOW"),
        Just("ERRNO"),
        Just("KILL"),
        Just("LOG"),
        Just("TRAP"),
        Just("NOTIFY"),
    ];
    let op = prop_oneof![
        Just("EQ"),
        Just("NE"),
        Just("LT"),
        Just("LE"),
        Just("GE"),
        Just("GT"),
        Just("MASKED_EQ"),
    ];
    let value = prop_oneof![
        0..4_u64,
        36..42_u64,
        Just(0x1000_0000_u64),
        Just(0x7e02_0000_u64)
    ];
    let arg = (0..3_usize, op, value, 0..2_u64).prop_map(|(index, op, value, two)| {
        let two = if two == 1 { value } else { 0 };
        format!(r#"{{"index":{index},"op":"SCMP_CMP_{op}","value":{value},"valueTwo":{two}}}"#)
    });
    let name = prop_oneof![
        Just("socket"),
        Just("clone"),
        Just("read"),
        Just("mount"),
        Just("personality"),
        Just("unknown"),
    ];
    let rule =
        (vec(name, 1..3), action.clone(), vec(arg, 0..3)).prop_map(|(names, action, args)| {
            let args = args.join(",");
            format!(r#"{{"names":{names:?},"action":"SCMP_ACT_{action}","args":[{args}]}}"#)
        });
    (action, vec(rule, 0..6)).prop_map(|(action, rules)| {
        let rules = rules.join(",");
        format!(r#"{{"defaultAction":"SCMP_ACT_{action}","syscalls":[{rules}]}}"#)
    })
}

proptest! {
    /// Whatever an image's profile is: what comes through with it comes through without it, and
    /// through the image's own.
    #[test]
    fn narrowing_never_lets_more_through(text in any_profile(), other in any_profile(), admin in any::<bool>()) {
        let ours = own(if admin { "SYS_ADMIN" } else { "" }, "amd64");
        let theirs = resolve(&text, "", "amd64", (6, 1));
        let third = resolve(&other, "", "amd64", (6, 1));
        for (a, b) in [(&ours, &theirs), (&third, &theirs)] {
            let both = narrow::both(a, b).unwrap();
            for name in ["socket", "clone", "read", "mount", "personality", "unknown", "write"] {
                for n in [0, 1, 3, 16, 37, 38, 39, 41, 46, 0x1000_0000, 0x1000_0011, u64::MAX] {
                    for call in [[n, 0, 0], [0, n, 2], [n, n, n]] {
                        if lets(&both, name, call, true) {
                            prop_assert!(
                                lets(a, name, call, false) && lets(b, name, call, false),
                                "{name} {call:?} with {text} and {other}: {both:?}"
                            );
                        }
                    }
                }
            }
        }
    }
}
