//! Resource limits of a container's processes.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};

use super::{
    check::bad,
    explain::{Notes, Origin},
    host::HostFacts,
    request::Ulimit,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

use PosixRlimitType as T;

/// Names as `--ulimit` takes them.
const NAMES: [(&str, PosixRlimitType); 16] = [
    ("as", T::RlimitAs),
    ("core", T::RlimitCore),
    ("cpu", T::RlimitCpu),
    ("data", T::RlimitData),
    ("fsize", T::RlimitFsize),
    ("locks", T::RlimitLocks),
    ("memlock", T::RlimitMemlock),
    ("msgqueue", T::RlimitMsgqueue),
    ("nice", T::RlimitNice),
    ("nofile", T::RlimitNofile),
    ("nproc", T::RlimitNproc),
    ("rss", T::RlimitRss),
    ("rtprio", T::RlimitRtprio),
    ("rttime", T::RlimitRttime),
    ("sigpending", T::RlimitSigpending),
    ("stack", T::RlimitStack),
];

/// Whether there is a limit of that name.
pub fn is_name(name: &str) -> bool {
    NAMES.iter().any(|(n, _)| *n == name)
}

/// Checks limits and gives them in the spec's form, sorted by name.
///
/// # Errors
/// [`Kind::BadInput`] for names and numbers that are none, [`Kind::Denied`] for hard limits above
/// the engine's own that it may not raise.
pub(super) fn parse(limits: &[Ulimit], host: &HostFacts) -> Result<Vec<PosixRlimit>> {
    let mut out: Vec<(&str, PosixRlimit)> = Vec::new();
    for limit in limits {
        let lower = limit.name.to_ascii_lowercase();
        let name = lower.strip_prefix("rlimit_").unwrap_or(&lower);
        let Some((name, typ)) = NAMES.iter().find(|(n, _)| *n == name) else {
            let names: Vec<&str> = NAMES.iter().map(|(n, _)| *n).collect();
            let m = format!("`{}` is no limit", show(&limit.name));
            return bad(m, format!("there are {}", names.join(", ")));
        };
        let (soft, hard) = (value(name, limit.soft)?, value(name, limit.hard)?);
        if soft > hard {
            let m = format!("the soft limit of {name} is above the hard limit");
            return bad(m, "write --ulimit NAME=SOFT:HARD");
        }
        if let Some(own) = host.hard_limits.get(*name)
            && hard > *own
            && !host.may_raise_limits
        {
            let m = format!("the limit of {name} cannot be raised above {own}");
            let e = Error::new(Kind::Denied, m);
            return Err(e.with_hint("unlade lacks CAP_SYS_RESOURCE here: ask for less"));
        }
        let built = PosixRlimitBuilder::default()
            .typ(*typ)
            .hard(hard)
            .soft(soft)
            .build();
        let built = built.map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
        out.retain(|(n, _)| n != name);
        out.push((name, built));
    }
    out.sort_unstable_by_key(|(name, _)| *name);
    Ok(out.into_iter().map(|(_, limit)| limit).collect())
}

fn value(name: &str, number: i64) -> Result<u64> {
    match number {
        -1 => Ok(u64::MAX),
        n => u64::try_from(n).or_else(|_| {
            bad(
                format!("the limit of {name} is {n}"),
                "limits are not negative; -1 is none",
            )
        }),
    }
}

pub(super) fn assemble(
    limits: &[Ulimit],
    host: &HostFacts,
    notes: &mut Notes,
) -> Result<Option<Vec<PosixRlimit>>> {
    if limits.is_empty() {
        return Ok(None);
    }
    notes.set("process.rlimits", Origin::User, "--ulimit");
    parse(limits, host).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, soft: i64, hard: i64) -> Ulimit {
        Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        }
    }

    #[test]
    fn limits() {
        let host = HostFacts::default();
        let list = [
            of("nproc", 1, 2),
            of("NOFILE", 5, -1),
            of("RLIMIT_NPROC", -1, -1),
        ];
        let out = parse(&list, &host).unwrap();
        let text = serde_json::to_string(&out).unwrap();
        assert_eq!(
            text,
            r#"[{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":5},{"type":"RLIMIT_NPROC","hard":18446744073709551615,"soft":18446744073709551615}]"#
        );
        assert_eq!(parse(&[of("rttime", 1, 2)], &host).unwrap().len(), 1);
        for wrong in [
            of("files", 1, 1),
            of("core", 2, 1),
            of("core", -1, 1),
            of("core", -2, -2),
            of("", 0, 0),
        ] {
            assert_eq!(parse(&[wrong], &host).unwrap_err().kind(), Kind::BadInput);
        }
    }

    #[test]
    fn what_the_engine_may_not_raise() {
        let mut host = HostFacts::default();
        host.hard_limits.insert("nofile".to_owned(), 100);
        parse(&[of("nofile", 100, 100)], &host).unwrap();
        let e = parse(&[of("nofile", 1, 101)], &host).unwrap_err();
        assert_eq!(e.kind(), Kind::Denied);
        host.may_raise_limits = true;
        parse(&[of("nofile", 1, -1)], &host).unwrap();
    }
}
