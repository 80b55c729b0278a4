//! A filter as the program that the kernel runs (seccomp(2), classic BPF).
//!
//! Runtimes have libseccomp compile filters: one comparison for each call, again for each
//! architecture, in time that grows with the square of their number, tens of milliseconds for ours.
//! Here calls are ranges of numbers that have one answer, found by halving. crun takes a finished
//! program; what is not certain to be what libseccomp would make of it is left to the runtime.

use std::{collections::BTreeMap, str::FromStr};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};

use super::intervals::Cases;

/// Longest program that the kernel takes, in instructions (`BPF_MAXINSNS`).
const MOST: usize = 4096;
/// Numbers of the x32 ABI have this bit.
const X32: u32 = 0x4000_0000;
/// What a tracer sets to have a call skipped; no call of x32.
const SKIPPED: u32 = u32::MAX;

/// `SECCOMP_RET_…`: linux/seccomp.h.
mod answer {
    pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(super) const KILL_THREAD: u32 = 0;
    pub(super) const TRAP: u32 = 0x0003_0000;
    pub(super) const ERRNO: u32 = 0x0005_0000;
    pub(super) const LOG: u32 = 0x7ffc_0000;
    pub(super) const ALLOW: u32 = 0x7fff_0000;
}

/// Opcodes: linux/bpf_common.h.
mod op {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const AND: u16 = 0x54;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const EQUAL: u16 = 0x15;
    pub(super) const ABOVE: u16 = 0x25;
    pub(super) const AT_LEAST: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Insn {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

const fn insn(code: u16, k: u32) -> Insn {
    let (yes, no) = (0, 0);
    Insn { code, yes, no, k }
}

/// An architecture that filters of this machine are made for.
struct Abi {
    /// `AUDIT_ARCH_…`.
    token: u32,
    number: fn(&str) -> Option<u32>,
    /// Calls that stand for many, whose filters libseccomp makes of those for the many.
    gathered: &'static [(&'static str, &'static [&'static str])],
    wide: bool,
}

static X86_64: Abi = Abi {
    token: 0xc000_003e,
    number: |name| Some(syscalls::x86_64::Sysno::from_str(name).ok()? as u32),
    gathered: &[],
    wide: true,
};
static X86: Abi = Abi {
    token: 0x4000_0003,
    number: |name| Some(syscalls::x86::Sysno::from_str(name).ok()? as u32),
    gathered: &[
        (
            "socketcall",
            &[
                "socket",
                "bind",
                "connect",
                "listen",
                "accept",
                "getsockname",
                "getpeername",
                "socketpair",
                "send",
                "recv",
                "sendto",
                "recvfrom",
                "shutdown",
                "setsockopt",
                "getsockopt",
                "sendmsg",
                "recvmsg",
                "accept4",
                "recvmmsg",
                "sendmmsg",
            ],
        ),
        (
            "ipc",
            &[
                "semop",
                "semget",
                "semctl",
                "semtimedop",
                "msgsnd",
                "msgrcv",
                "msgget",
                "msgctl",
                "shmat",
                "shmdt",
                "shmget",
                "shmctl",
            ],
        ),
    ],
    wide: false,
};

/// What is done about one call.
#[derive(Debug, Clone, PartialEq)]
enum Rule {
    Always(u32),
    /// The first that fits, else the default.
    Given(Vec<(Vec<LinuxSeccompArg>, u32)>),
}

/// The program of `filter` in the kernel's layout on this machine, x86-64; `None` where it is left
/// to the runtime.
pub(super) fn compile(filter: &LinuxSeccomp) -> Option<Vec<u8>> {
    let default = answer(filter.default_action(), filter.default_errno_ret())?;
    if filter.listener_path().is_some() {
        return None;
    }
    let mut abis = vec![&X86_64];
    for name in filter.architectures().iter().flatten() {
        match name {
            Arch::ScmpArchX86_64 | Arch::ScmpArchNative => {}
            Arch::ScmpArchX86 if abis.len() == 1 => abis.push(&X86),
            Arch::ScmpArchX86 => {}
            _ => return None,
        }
    }
    let syscalls = filter.syscalls().as_deref().unwrap_or_default();
    let mut code = vec![insn(op::RETURN, answer::KILL_THREAD)];
    for abi in abis.into_iter().rev() {
        let mut all = vec![Insn {
            code: op::EQUAL,
            yes: 0,
            no: 1,
            k: abi.token,
        }];
        let calls = calls(abi, &rules(abi, syscalls, default)?, default)?;
        // Jumps on a condition are short ones.
        all.push(insn(op::JUMP, 1));
        all.push(insn(op::JUMP, u32::try_from(calls.len()).ok()?));
        all.extend(calls);
        all.append(&mut code);
        code = all;
    }
    code.insert(0, insn(op::LOAD, ARCH));
    let bytes = |i: &Insn| {
        let [a, b] = i.code.to_ne_bytes();
        let [c, d, e, f] = i.k.to_ne_bytes();
        [a, b, i.yes, i.no, c, d, e, f]
    };
    (code.len() <= MOST).then(|| code.iter().flat_map(bytes).collect())
}

fn answer(action: Action, errno: Option<u32>) -> Option<u32> {
    const EPERM: u32 = 1;
    Some(match action {
        Action::ScmpActAllow => answer::ALLOW,
        Action::ScmpActErrno => answer::ERRNO | errno.unwrap_or(EPERM).min(0xfff),
        Action::ScmpActKill | Action::ScmpActKillThread => answer::KILL_THREAD,
        Action::ScmpActKillProcess => answer::KILL_PROCESS,
        Action::ScmpActTrap => answer::TRAP,
        Action::ScmpActLog => answer::LOG,
        Action::ScmpActTrace | Action::ScmpActNotify => return None,
    })
}

/// The rules by number.
fn rules(abi: &Abi, syscalls: &[LinuxSyscall], default: u32) -> Option<BTreeMap<u32, Rule>> {
    let lets = |answer| matches!(answer, answer::ALLOW | answer::LOG);
    let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
    let mut gathered = Vec::new();
    for rule in syscalls {
        let answer = answer(rule.action(), rule.errno_ret())?;
        // As libseccomp, which has nothing to do for these.
        if answer == default {
            continue;
        }
        let args = rule.args().as_deref().unwrap_or_default();
        for name in rule.names() {
            let of = abi
                .gathered
                .iter()
                .find(|(_, many)| many.contains(&&**name));
            gathered.extend(of.map(|(one, _)| *one));
            let Some(number) = (abi.number)(name) else {
                // A call of other machines, or one that is newer than the table: nothing but
                // refusing it will do.
                match lets(default) {
                    true => return None,
                    false => continue,
                }
            };
            add(&mut rules, number, args, answer, abi.wide)?;
        }
    }
    // Those are let through or not whatever is asked of them; else it is for libseccomp.
    let whole = |one: &str| {
        (abi.number)(one).is_some_and(|n| matches!(rules.get(&n), Some(Rule::Always(_))))
    };
    gathered.into_iter().all(whole).then_some(rules)
}

/// Adds what is about one call, if it does not matter in which order rules about it are looked at.
fn add(
    rules: &mut BTreeMap<u32, Rule>,
    number: u32,
    args: &[LinuxSeccompArg],
    answer: u32,
    wide: bool,
) -> Option<()> {
    let narrow = |n: u64| u32::try_from(n).is_ok();
    for arg in args {
        let fits = narrow(arg.value()) && narrow(arg.value_two().unwrap_or(0));
        if arg.index() > 5 || !(wide || fits) {
            return None;
        }
    }
    let had = rules
        .entry(number)
        .or_insert_with(|| Rule::Given(Vec::new()));
    match had {
        Rule::Always(had) => (args.is_empty() && *had == answer).then_some(()),
        Rule::Given(list) if args.is_empty() => {
            list.is_empty().then(|| *had = Rule::Always(answer))
        }
        Rule::Given(list) => {
            // Of several conditions on one argument a runtime makes alternatives.
            let mut indexes: Vec<usize> = args.iter().map(LinuxSeccompArg::index).collect();
            indexes.sort_unstable();
            if indexes.windows(2).any(|w| matches!(w, [a, b] if a == b)) {
                return None;
            }
            let cases = |args: &[LinuxSeccompArg]| {
                let mut cases = Cases::never();
                cases.add(args);
                cases
            };
            let new = cases(args);
            let apart = |(other, theirs): &(Vec<LinuxSeccompArg>, u32)| {
                *theirs == answer || new.and(&cases(other)).is_never()
            };
            if !list.iter().all(apart) {
                return None;
            }
            list.push((args.to_vec(), answer));
            Some(())
        }
    }
}

/// What is done about calls of one architecture, from loading the number to an answer.
fn calls(abi: &Abi, rules: &BTreeMap<u32, Rule>, default: u32) -> Option<Vec<Insn>> {
    // From each number on, up to the next.
    let mut ranges: Vec<(u32, Rule)> = Vec::new();
    let mut put = |from: u32, rule: Rule| {
        ranges.pop_if(|(at, _)| *at == from);
        let goes_on =
            matches!(rule, Rule::Always(_)) && ranges.last().is_some_and(|(_, r)| *r == rule);
        if !goes_on {
            ranges.push((from, rule));
        }
    };
    put(0, Rule::Always(default));
    for (number, rule) in rules {
        put(*number, rule.clone());
        put(number.checked_add(1)?, Rule::Always(default));
    }
    if abi.wide {
        put(X32, Rule::Always(answer::KILL_THREAD));
        put(SKIPPED, Rule::Always(default));
    }
    let mut code = vec![insn(op::LOAD, NUMBER)];
    code.extend(halved(&ranges, default)?);
    Some(code)
}

/// Finds the range by halving, with the number loaded.
fn halved(ranges: &[(u32, Rule)], default: u32) -> Option<Vec<Insn>> {
    if let [(_, rule)] = ranges {
        return match rule {
            Rule::Always(answer) => Some(vec![insn(op::RETURN, *answer)]),
            Rule::Given(list) => given(list, default),
        };
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let from = high.first()?.0;
    let (low, high) = (halved(low, default)?, halved(high, default)?);
    let mut code = Vec::new();
    match u8::try_from(low.len()) {
        Ok(yes) => code.push(Insn {
            code: op::AT_LEAST,
            yes,
            no: 0,
            k: from,
        }),
        Err(_) => {
            code.push(Insn {
                code: op::AT_LEAST,
                yes: 0,
                no: 1,
                k: from,
            });
            code.push(insn(op::JUMP, u32::try_from(low.len()).ok()?));
        }
    }
    code.extend(low);
    code.extend(high);
    Some(code)
}

/// Where a comparison goes.
#[derive(Clone, Copy)]
enum To {
    /// On.
    On,
    /// To what comes after this condition.
    Holds,
    /// To the next rule.
    Fails,
}

fn given(list: &[(Vec<LinuxSeccompArg>, u32)], default: u32) -> Option<Vec<Insn>> {
    let mut code = Vec::new();
    for (args, answer) in list {
        let conditions: Vec<Vec<(Insn, To, To)>> = args.iter().map(condition).collect();
        let length: usize = conditions.iter().map(Vec::len).sum::<usize>() + 1;
        let (mut at, mut end) = (0, 0);
        for condition in &conditions {
            end += condition.len();
            for (insn, yes, no) in condition {
                let distance = |to: &To| {
                    let to = match to {
                        To::On => at + 1,
                        To::Holds => end,
                        To::Fails => length,
                    };
                    u8::try_from(to - at - 1).ok()
                };
                let jumps = matches!(insn.code, op::EQUAL | op::ABOVE | op::AT_LEAST);
                let (yes, no) = match jumps {
                    true => (distance(yes)?, distance(no)?),
                    false => (0, 0),
                };
                code.push(Insn { yes, no, ..*insn });
                at += 1;
            }
        }
        code.push(insn(op::RETURN, *answer));
    }
    code.push(insn(op::RETURN, default));
    Some(code)
}

/// One comparison of an argument, its upper half first.
fn condition(arg: &LinuxSeccompArg) -> Vec<(Insn, To, To)> {
    let halves = |n: u64| ((n >> 32) as u32, (n & 0xffff_ffff) as u32);
    let low = ARGS + 8 * u32::try_from(arg.index()).unwrap_or(0);
    let (low, high) = match cfg!(target_endian = "little") {
        true => (low, low + 4),
        false => (low + 4, low),
    };
    let plain = |code, k| (insn(code, k), To::On, To::On);
    let (h, l) = halves(arg.value());
    let (fails, holds) = (To::Fails, To::Holds);
    let equal = |h: u32, l: u32, same: To, differs: To| {
        vec![
            plain(op::LOAD, high),
            (insn(op::EQUAL, h), To::On, differs),
            plain(op::LOAD, low),
            (insn(op::EQUAL, l), same, differs),
        ]
    };
    // Above or, with `or_equal`, not below.
    let above = |last: u16, yes: To, no: To| {
        vec![
            plain(op::LOAD, high),
            (insn(op::ABOVE, h), yes, To::On),
            (insn(op::EQUAL, h), To::On, no),
            plain(op::LOAD, low),
            (insn(last, l), yes, no),
        ]
    };
    match arg.op() {
        Op::ScmpCmpEq => equal(h, l, holds, fails),
        Op::ScmpCmpNe => equal(h, l, fails, holds),
        Op::ScmpCmpGt => above(op::ABOVE, holds, fails),
        Op::ScmpCmpLe => above(op::ABOVE, fails, holds),
        Op::ScmpCmpGe => above(op::AT_LEAST, holds, fails),
        Op::ScmpCmpLt => above(op::AT_LEAST, fails, holds),
        Op::ScmpCmpMaskedEq => {
            let (wanted_h, wanted_l) = halves(arg.value_two().unwrap_or(0));
            vec![
                plain(op::LOAD, high),
                plain(op::AND, h),
                (insn(op::EQUAL, wanted_h), To::On, fails),
                plain(op::LOAD, low),
                plain(op::AND, l),
                (insn(op::EQUAL, wanted_l), holds, fails),
            ]
        }
    }
}

#[cfg(test)]
mod tests;
