use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};
use proptest::{collection::vec, prelude::*};

use super::{
    super::tests::{holds, own, resolve},
    *,
};

/// What the kernel makes of a call.
fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    data.extend(args.iter().flat_map(|a| a.to_ne_bytes()));
    let word = |at: u32| {
        let at = at as usize;
        u32::from_ne_bytes(data[at..at + 4].try_into().unwrap())
    };
    let (mut at, mut a) = (0, 0);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let code = u16::from_ne_bytes([i[0], i[1]]);
        let k = u32::from_ne_bytes(i[4..8].try_into().unwrap());
        at += 1;
        let holds = match code {
            op::LOAD => {
                a = word(k);
                continue;
            }
            op::AND => {
                a &= k;
                continue;
            }
            op::JUMP => {
                at += k as usize;
                continue;
            }
            op::RETURN => return k,
            op::EQUAL => a == k,
            op::ABOVE => a > k,
            op::AT_LEAST => a >= k,
            other => panic!("{other:#x} is no instruction of ours"),
        };
        at += usize::from(if holds { i[2] } else { i[3] });
    }
}

/// What the rules say of it, one after another.
fn meant(filter: &LinuxSeccomp, abi: &Abi, number: u32, args: [u64; 6]) -> u32 {
    let default = answer(filter.default_action(), filter.default_errno_ret()).unwrap();
    if abi.wide && number >= X32 && number != SKIPPED {
        return answer::KILL_THREAD;
    }
    for rule in filter.syscalls().iter().flatten() {
        // Runtimes pass over those that say what is so in any case.
        if answer(rule.action(), rule.errno_ret()) == Some(default) {
            continue;
        }
        let about = rule.names().iter().any(|n| (abi.number)(n) == Some(number));
        if about && rule.args().iter().flatten().all(|a| holds(a, &args)) {
            return answer(rule.action(), rule.errno_ret()).unwrap();
        }
    }
    default
}

/// Compares the two for all calls, with arguments around all that the filter compares with.
fn hold_against_rules(filter: &LinuxSeccomp) {
    let program = compile(filter).expect("a filter that can be compiled");
    let mut values = vec![0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX];
    let conditions = filter.syscalls().iter().flatten();
    for arg in conditions.flat_map(|r| r.args().iter().flatten()) {
        for v in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([v.wrapping_sub(1), v, v.wrapping_add(1), v ^ (1 << 32), !v]);
        }
    }
    values.sort_unstable();
    values.dedup();
    let has_x86 = filter
        .architectures()
        .iter()
        .flatten()
        .any(|a| *a == Arch::ScmpArchX86);
    let edges = [X32 - 1, X32, X32 + 59, SKIPPED - 1, SKIPPED];
    for abi in [&X86_64, &X86] {
        let conditional = filter
            .syscalls()
            .iter()
            .flatten()
            .filter(|r| r.args().is_some());
        let numbers = conditional
            .flat_map(|r| r.names())
            .filter_map(|n| (abi.number)(n));
        let conditional: Vec<u32> = numbers.collect();
        for number in (0..600).chain(edges) {
            let few = if conditional.contains(&number) {
                values.len()
            } else {
                2
            };
            for value in values.iter().take(few) {
                // Programs of 32 bits have no longer arguments.
                let value = if abi.wide {
                    *value
                } else {
                    *value & 0xffff_ffff
                };
                for args in [[value; 6], [value, 0, 0, 0, 0, 0], [0, value, 7, 0, 0, 0]] {
                    let got = run(&program, abi.token, number, args);
                    let want = match abi.wide || has_x86 {
                        true => meant(filter, abi, number, args),
                        false => answer::KILL_THREAD,
                    };
                    assert_eq!(got, want, "{} {number} {args:x?}", abi.token);
                }
            }
        }
    }
    assert_eq!(run(&program, 0xc000_00b7, 1, [0; 6]), answer::KILL_THREAD);
}

#[test]
fn our_own_filters() {
    for caps in [
        "",
        "SYS_ADMIN",
        "SYS_PTRACE NET_ADMIN SYSLOG BPF PERFMON SYS_CHROOT",
    ] {
        hold_against_rules(&super::super::tests::own_where(caps, "amd64", false));
    }
    // x32 is libseccomp's.
    assert_eq!(compile(&own("", "amd64")), None);
    assert_eq!(compile(&own("", "arm64")), None);
}

fn filter(json: &str) -> LinuxSeccomp {
    resolve(json, "", "amd64", (6, 1))
}

#[test]
fn what_is_left_to_the_runtime() {
    let with = |rules: &str| {
        let text = format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[{rules}]}}"#
        );
        compile(&filter(&text))
    };
    let allow = r#"{"names":["read"],"action":"SCMP_ACT_ALLOW"}"#;
    let is = |v: u32| {
        format!(
            r#"{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":0,"value":{v},"op":"SCMP_CMP_EQ"}}]}}"#
        )
    };
    let not = r#"{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"value":3,"op":"SCMP_CMP_GE"}]}"#;
    assert!(with(allow).is_some());
    assert!(with(&format!("{allow},{allow}")).is_some());
    assert!(with(&format!("{},{not}", is(2))).is_some());
    // Two answers to one call, or a part of what is always so.
    assert_eq!(with(&format!("{},{not}", is(4))), None);
    assert_eq!(with(&format!("{allow},{not}")), None);
    assert_eq!(with(&format!("{not},{allow}")), None);
    // Nobody to tell, and nobody who traces.
    for action in ["NOTIFY", "TRACE"] {
        assert_eq!(with(&allow.replace("ALLOW", action)), None);
    }
    // An unknown call that is to be refused where others are not.
    let refuse = |name: &str| {
        compile(&filter(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["{name}"],"action":"SCMP_ACT_ERRNO"}}]}}"#
        )))
    };
    assert!(refuse("reboot").is_some());
    assert_eq!(refuse("a_call_of_tomorrow"), None);
    // One door to many calls.
    let sockets = |rules: &str| {
        compile(&filter(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],
            "syscalls":[{{"names":[{rules}],"action":"SCMP_ACT_ALLOW"}}]}}"#
        )))
    };
    assert_eq!(sockets(r#""socket""#), None);
    assert!(sockets(r#""socket","socketcall""#).is_some());
}

prop_compose! {
    fn an_arg()(index in 0_usize..3, value in prop_oneof![0_u64..4, Just(1 << 33), Just(u64::MAX)],
        two in 0_u64..3, op in prop::sample::select(vec![Op::ScmpCmpEq, Op::ScmpCmpNe,
            Op::ScmpCmpLt, Op::ScmpCmpLe, Op::ScmpCmpGe, Op::ScmpCmpGt, Op::ScmpCmpMaskedEq]))
        -> LinuxSeccompArg {
        LinuxSeccompArgBuilder::default().index(index).value(value).value_two(two).op(op).build().unwrap()
    }
}

prop_compose! {
    fn a_rule()(names in vec(prop::sample::select(vec!["read", "write", "mount", "clone", "open"]), 1..3),
        action in prop::sample::select(vec![Action::ScmpActAllow, Action::ScmpActErrno,
            Action::ScmpActKillProcess, Action::ScmpActLog]),
        errno in 0_u32..5000, args in vec(an_arg(), 0..3)) -> LinuxSyscall {
        let mut rule = LinuxSyscallBuilder::default()
            .names(names.into_iter().map(str::to_owned).collect::<Vec<_>>())
            .action(action)
            .errno_ret(errno)
            .build()
            .unwrap();
        rule.set_args(Some(args).filter(|a| !a.is_empty()));
        rule
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_filter_means_its_rules(rules in vec(a_rule(), 0..6), lets in any::<bool>()) {
        let action = if lets { Action::ScmpActAllow } else { Action::ScmpActErrno };
        let filter = LinuxSeccompBuilder::default()
            .default_action(action)
            .syscalls(rules)
            .build()
            .unwrap();
        if compile(&filter).is_some() {
            hold_against_rules(&filter);
        }
    }
}
