//! Docker's format of seccomp profiles: OCI's, and rules that hold only with certain
//! capabilities, architectures and kernels.

use std::str::FromStr;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::{Deserialize, Deserializer};

use super::super::{caps::Names, check::bad};
use crate::{
    error::{Error, Kind, Result},
    image::json::{self, Object, Rules, show},
};

/// Most rules of a profile, and most names of a rule.
const MOST: usize = 10_000;
/// The largest error number that a filter can return.
const MAX_ERRNO: u32 = 4095;

const RULES: Rules = Rules {
    known: &[
        "defaultAction",
        "defaultErrnoRet",
        "defaultErrno",
        "architectures",
        "archMap",
        "flags",
        "listenerPath",
        "listenerMetadata",
        "syscalls",
        "names",
        "name",
        "action",
        "errnoRet",
        "errno",
        "args",
        "includes",
        "excludes",
    ],
    free: &[],
};

/// What decides which rules hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) caps: &'a Names,
    /// Go's name.
    pub(super) arch: &'a str,
    pub(super) kernel: (u32, u32),
}

/// A profile.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Profile {
    #[serde(deserialize_with = "required")]
    pub(super) default_action: Option<LinuxSeccompAction>,
    pub(super) default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(super) default_errno: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) architectures: Vec<Arch>,
    #[serde(deserialize_with = "nullable")]
    pub(super) arch_map: Vec<ArchMap>,
    #[serde(deserialize_with = "nullable")]
    pub(super) flags: Vec<LinuxSeccompFilterFlag>,
    #[serde(deserialize_with = "nullable")]
    pub(super) listener_path: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) listener_metadata: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) syscalls: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArchMap {
    pub(super) architecture: Arch,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) sub_architectures: Vec<Arch>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Rule {
    #[serde(deserialize_with = "nullable")]
    pub(super) names: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "required")]
    pub(super) action: Option<LinuxSeccompAction>,
    pub(super) errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub(super) errno: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) args: Vec<LinuxSeccompArg>,
    #[serde(deserialize_with = "nullable")]
    pub(super) includes: Filter,
    #[serde(deserialize_with = "nullable")]
    pub(super) excludes: Filter,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Filter {
    #[serde(deserialize_with = "nullable")]
    pub(super) caps: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) arches: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) min_kernel: String,
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn required<'de, D: Deserializer<'de>>(d: D) -> Result<Option<LinuxSeccompAction>, D::Error> {
    LinuxSeccompAction::deserialize(d).map(Some)
}

impl Profile {
    /// Parses a profile.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Object(profile): Object<Self> =
            json::parse("seccomp profile", text.as_bytes(), &RULES)?;
        if profile.default_action.is_none() {
            return bad(
                "the profile has no `defaultAction`",
                "SCMP_ACT_ERRNO is the usual one",
            );
        }
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return bad(
                "the profile has both `architectures` and `archMap`",
                "leave one of them out",
            );
        }
        if profile.syscalls.len() > MOST || profile.syscalls.iter().any(|r| r.names.len() > MOST) {
            let e = Error::new(
                Kind::Limit,
                format!("the profile has more than {MOST} rules or names"),
            );
            return Err(e.with_hint("no profile needs that"));
        }
        number(profile.default_errno_ret, &profile.default_errno)?;
        for rule in &profile.syscalls {
            rule.check()?;
        }
        Ok(profile)
    }

    /// The filter for one container.
    pub(super) fn resolve(&self, facts: &Facts<'_>) -> Result<LinuxSeccomp> {
        let Some(action) = self.default_action else {
            return bad(
                "the profile has no `defaultAction`",
                "SCMP_ACT_ERRNO is the usual one",
            );
        };
        let mut rules = Vec::new();
        for rule in &self.syscalls {
            if rule.holds(facts)? {
                rule.resolve(&mut rules)?;
            }
        }
        let mut out = LinuxSeccompBuilder::default()
            .default_action(action)
            .syscalls(rules)
            .build()
            .map_err(bug)?;
        let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
        out.set_default_errno_ret(number(self.default_errno_ret, &self.default_errno)?)
            .set_architectures(Some(self.arches(facts.arch)).filter(|a| !a.is_empty()))
            .set_flags(Some(self.flags.clone()).filter(|f| !f.is_empty()))
            .set_listener_path(some(&self.listener_path).map(Into::into))
            .set_listener_metadata(some(&self.listener_metadata));
        Ok(out)
    }

    fn arches(&self, host: &str) -> Vec<Arch> {
        let native = native(host);
        let mapped = self
            .arch_map
            .iter()
            .find(|m| Some(m.architecture) == native);
        match mapped {
            Some(map) => [map.architecture]
                .into_iter()
                .chain(map.sub_architectures.iter().copied())
                .collect(),
            None => self.architectures.clone(),
        }
    }
}

impl Rule {
    fn check(&self) -> Result<()> {
        if self.action.is_none() {
            return bad(
                "a rule of the profile has no `action`",
                "SCMP_ACT_ALLOW is the usual one",
            );
        }
        if self.names.is_empty() == self.name.is_empty() {
            let m = "a rule of the profile has neither or both of `name` and `names`";
            return bad(m, "`names` is a list of system calls");
        }
        for name in self.names.iter().chain(Some(&self.name)) {
            let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fine || name.len() > 64 {
                let m = format!("`{}` is no name of a system call", show(name));
                return bad(m, "they are listed in syscalls(2)");
            }
        }
        if self.args.len() > 64 || self.args.iter().any(|a| a.index() > 5) {
            return bad(
                "a rule of the profile has arguments that no system call has",
                "their index is 0 to 5",
            );
        }
        number(self.errno_ret, &self.errno)?;
        Ok(())
    }

    fn holds(&self, facts: &Facts<'_>) -> Result<bool> {
        let (inc, exc) = (&self.includes, &self.excludes);
        let cap = |c: &String| facts.caps.contains(c);
        let arch = |f: &Filter| f.arches.iter().any(|a| a == facts.arch);
        let since =
            |f: &Filter| kernel(&f.min_kernel).map(|k| k.is_some_and(|k| facts.kernel >= k));
        if exc.caps.iter().any(cap) || arch(exc) || since(exc)? {
            return Ok(false);
        }
        let old_enough = inc.min_kernel.is_empty() || since(inc)?;
        Ok(inc.caps.iter().all(cap) && (inc.arches.is_empty() || arch(inc)) && old_enough)
    }

    fn resolve(&self, out: &mut Vec<LinuxSyscall>) -> Result<()> {
        let mut names = self.names.clone();
        if !self.name.is_empty() {
            names.push(self.name.clone());
        }
        let errno = number(self.errno_ret, &self.errno)?;
        // Two conditions on one argument are alternatives to runtimes, each a rule of its own;
        // written as such they mean the same to all.
        let index = |n: usize| self.args.iter().filter(|a| a.index() == n).count();
        let alternatives = (0..=5).any(|n| index(n) > 1);
        let sets: Vec<Vec<LinuxSeccompArg>> = if alternatives {
            self.args.iter().map(|a| vec![*a]).collect()
        } else {
            vec![self.args.clone()]
        };
        for args in sets {
            let rule = rule(names.clone(), self.action.unwrap_or_default(), errno, args)?;
            out.push(rule);
        }
        Ok(())
    }
}

/// A rule of the spec.
pub(super) fn rule(
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
) -> Result<LinuxSyscall> {
    let built = LinuxSyscallBuilder::default()
        .names(names)
        .action(action)
        .build();
    let mut rule = built.map_err(bug)?;
    rule.set_errno_ret(errno)
        .set_args(Some(args).filter(|a| !a.is_empty()));
    Ok(rule)
}

fn bug(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::Bug, e.to_string())
}

/// `major.minor` of a kernel; `None` for nothing.
fn kernel(text: &str) -> Result<Option<(u32, u32)>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parse = |t: &str| u32::from_str(t).ok();
    let found = text
        .split_once('.')
        .and_then(|(a, b)| Some((parse(a)?, parse(b)?)));
    match found {
        Some(found) => Ok(Some(found)),
        None => bad(
            format!("`{}` is no version of a kernel", show(text)),
            "write it as 4.8",
        ),
    }
}

/// An error number, by number or by name as Podman writes it.
fn number(number: Option<u32>, name: &str) -> Result<Option<u32>> {
    const NAMES: [(&str, u32); 16] = [
        ("EPERM", 1),
        ("ENOENT", 2),
        ("EIO", 5),
        ("ENXIO", 6),
        ("EBADF", 9),
        ("EAGAIN", 11),
        ("ENOMEM", 12),
        ("EACCES", 13),
        ("EFAULT", 14),
        ("EBUSY", 16),
        ("ENODEV", 19),
        ("EINVAL", 22),
        ("ENOSYS", 38),
        ("EOPNOTSUPP", 95),
        ("ENOTSUP", 95),
        ("EAFNOSUPPORT", 97),
    ];
    let named = match name {
        "" => None,
        name => match NAMES.iter().find(|(n, _)| *n == name) {
            Some((_, n)) => Some(*n),
            None if number.is_some() => None,
            None => {
                return bad(
                    format!("`{}` is no error known here", show(name)),
                    "give its number as errnoRet",
                );
            }
        },
    };
    match number.or(named) {
        Some(n) if n > MAX_ERRNO => bad(format!("{n} is no error number"), "they end at 4095"),
        n => Ok(n),
    }
}

/// The architecture that Go's name stands for.
fn native(go: &str) -> Option<Arch> {
    Some(match go {
        "386" => Arch::ScmpArchX86,
        "amd64" => Arch::ScmpArchX86_64,
        "arm" => Arch::ScmpArchArm,
        "arm64" => Arch::ScmpArchAarch64,
        "loong64" => Arch::ScmpArchLoongarch64,
        "mips64" => Arch::ScmpArchMips64,
        "mips64le" => Arch::ScmpArchMipsel64,
        "ppc64le" => Arch::ScmpArchPpc64le,
        "riscv64" => Arch::ScmpArchRiscv64,
        "s390x" => Arch::ScmpArchS390x,
        _ => return None,
    })
}
