//! The ids of a user namespace: the user's own as 0, and after it those that he was given in
//! `/etc/subuid` and `/etc/subgid`.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// First id and number of a range.
type Range = (u32, u32);

/// Gives the ids to the namespace of process `pid`. Where there are no ranges, or not the programs
/// that may write them, only the user's own.
pub(super) fn map(pid: u32, uid: u32) -> Result<()> {
    let gid = rustix::process::getegid().as_raw();
    let name = name_of(&fs::read_to_string("/etc/passwd").unwrap_or_default(), uid);
    let ranges = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        given(&text, name.as_deref(), uid)
    };
    let (uids, gids) = (ranges("/etc/subuid"), ranges("/etc/subgid"));
    if !uids.is_empty()
        && !gids.is_empty()
        && write("newuidmap", pid, uid, &uids)
        && write("newgidmap", pid, gid, &gids)
    {
        return Ok(());
    }
    let single = |file: &str, text: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).map_err(|e| Error::host(format!("write `{path}`"), e))
    };
    // Done already where only the groups were refused.
    let mapped = fs::read_to_string(format!("/proc/{pid}/uid_map"));
    if mapped.unwrap_or_default().is_empty() {
        single("uid_map", &format!("0 {uid} 1\n"))?;
    }
    single("setgroups", "deny")?;
    single("gid_map", &format!("0 {gid} 1\n"))
}

/// The account's name.
fn name_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges that a user was given, by name or by number.
fn given(text: &str, name: Option<&str>, uid: u32) -> Vec<Range> {
    let number = uid.to_string();
    let ranges = text.lines().filter_map(|line| {
        let (who, range) = line.trim().split_once(':')?;
        let (first, count) = range.split_once(':')?;
        let range: Range = (first.parse().ok()?, count.parse().ok()?);
        (Some(who) == name || who == number).then_some(range)
    });
    ranges
        .filter(|(first, count)| *count > 0 && first.checked_add(*count).is_some())
        .collect()
}

/// Has one of the programs of Debian's `uidmap` write a map; whether it did.
fn write(program: &str, pid: u32, own: u32, ranges: &[Range]) -> bool {
    let mut args = vec![pid, 0, own, 1];
    let mut next: u32 = 1;
    for (first, count) in ranges {
        let Some(after) = next.checked_add(*count) else {
            break;
        };
        args.extend([next, *first, *count]);
        next = after;
    }
    let beside = Path::new("/usr/bin").join(program);
    let program = if beside.exists() {
        beside
    } else {
        program.into()
    };
    let out = Command::new(&program)
        .args(args.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .output();
    match out {
        Ok(out) if out.status.success() => true,
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            tracing::warn!(program = %program.display(), said, "no subordinate ids");
            false
        }
        Err(e) => {
            tracing::warn!(program = %program.display(), error = %e, "no subordinate ids");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_names_and_numbers() {
        let text =
            "ann:100000:65536\n1000:300000:10\nbob:1:2\nann:x:1\nann:5:0\nann:4294967295:5\n";
        assert_eq!(
            given(text, Some("ann"), 1000),
            [(100_000, 65536), (300_000, 10)]
        );
        assert!(given(text, None, 7).is_empty());
        let passwd = "root:x:0:0::/:\nann:x:1000:100::/home/ann:/bin/sh\n";
        assert_eq!(name_of(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, 1), None);
    }
}
