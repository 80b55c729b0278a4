//! Who a user is in a container's root: names and numbers of its `passwd` and `group`, which are
//! as hostile as the rest of an image.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};

use super::{
    check::{MAX_ID, bad, no_controls},
    place::ResolvedUser,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// Longest `passwd` or `group`, in bytes (CVE-2026-47262).
const MAX_FILE: u64 = 1 << 20;
/// Longest line of them.
const MAX_LINE: usize = 64 << 10;
/// The kernel's limit on groups of a process.
const MAX_GROUPS: usize = 65_536;

/// Finds out who `user` (`name|uid[:group|gid]`, empty for root) is in the root that `rootfs` is
/// open on, and of which groups, with `group_add` among them.
///
/// What is all digits is an id, never a name: one that is out of range is an error and not looked
/// up (CVE-2024-40635). Paths are resolved inside the root, whatever links it has.
///
/// # Errors
/// [`Kind::NotFound`] for names that are not there, [`Kind::BadInput`] for ids out of range and
/// entries that make no sense, [`Kind::Limit`] for files that are too long.
pub fn resolve(rootfs: BorrowedFd<'_>, user: &str, group_add: &[String]) -> Result<ResolvedUser> {
    let passwd = read(rootfs, "etc/passwd")?;
    let names_group = user.contains(':') || !group_add.is_empty();
    let by_passwd = find_user(&passwd, user)?;
    // `group` can be large: it is read only where it can say something.
    let group = if by_passwd.name.is_some() || names_group {
        read(rootfs, "etc/group")?
    } else {
        String::new()
    };
    finish(by_passwd, &group, user, group_add)
}

/// What `passwd` says.
struct Found {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: String,
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.split(':').collect())
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The number of `text` if it is one; an error if it is one that no id can be.
fn id(what: &str, text: &str) -> Result<Option<u32>> {
    // What Go's parser takes for a number is none of a name either.
    let signed = text.strip_prefix(['-', '+']).is_some_and(all_digits);
    if !all_digits(text) && !signed {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(n) if !signed && n <= MAX_ID => Ok(Some(n)),
        _ => bad(
            format!("the {what} `{}` is out of range", show(text)),
            format!("ids are numbers from 0 to {MAX_ID}"),
        ),
    }
}

fn find_user(passwd: &str, user: &str) -> Result<Found> {
    no_controls("the user", user)?;
    let name = user.split(':').next().unwrap_or_default();
    let number = if name.is_empty() {
        Some(0)
    } else {
        id("user", name)?
    };
    let entry = lines(passwd).find(|f| match number {
        Some(n) => f.get(2).and_then(|t| t.parse().ok()) == Some(n),
        None => f.first() == Some(&name),
    });
    let Some(fields) = entry else {
        let Some(uid) = number else {
            let m = format!(
                "there is no user `{}` in the container's /etc/passwd",
                show(name)
            );
            let e = Error::new(Kind::NotFound, m);
            return Err(e.with_hint("name one that the image has, or give a number"));
        };
        return Ok(Found {
            name: None,
            uid,
            gid: 0,
            home: "/".to_owned(),
        });
    };
    let field = |n: usize| fields.get(n).copied().unwrap_or_default();
    let number = |what: &str, text: &str| {
        id(what, text)?.map_or_else(
            || {
                let m = format!(
                    "the {what} of `{}` in the container's /etc/passwd is no number",
                    show(name)
                );
                bad(m, "the image is damaged: give the user as a number")
            },
            Ok,
        )
    };
    let home = field(5);
    let plain = home.starts_with('/') && !home.chars().any(char::is_control);
    Ok(Found {
        name: Some(field(0).to_owned()),
        uid: number("user", field(2))?,
        gid: number("group", field(3))?,
        home: if plain { home } else { "/" }.to_owned(),
    })
}

fn find_group(group: &str, name: &str) -> Result<u32> {
    no_controls("the group", name)?;
    if let Some(n) = id("group", name)? {
        return Ok(n);
    }
    let found = lines(group).find(|f| f.first() == Some(&name) && !name.is_empty());
    let number = found.and_then(|f| f.get(2).copied());
    let number = match number {
        Some(text) => id("group", text)?,
        None => None,
    };
    number.ok_or_else(|| {
        let m = format!(
            "there is no group `{}` in the container's /etc/group",
            show(name)
        );
        Error::new(Kind::NotFound, m).with_hint("name one that the image has, or give a number")
    })
}

fn finish(found: Found, group: &str, user: &str, group_add: &[String]) -> Result<ResolvedUser> {
    let mut gid = found.gid;
    let mut gids = Vec::new();
    match user.split_once(':') {
        Some((_, named)) if !named.is_empty() => gid = find_group(group, named)?,
        _ => {
            // Groups that the user is in count unless a group was given.
            let member = |f: &Vec<&str>| {
                let names = f.get(3).copied().unwrap_or_default();
                found
                    .name
                    .as_deref()
                    .is_some_and(|n| !n.is_empty() && names.split(',').any(|m| m == n))
            };
            for fields in lines(group).filter(member) {
                // A line that makes no sense gives no group.
                if let Some(Ok(Some(n))) = fields.get(2).map(|t| id("group", t)) {
                    gids.push(n);
                }
            }
        }
    }
    for name in group_add {
        gids.push(find_group(group, name)?);
    }
    gids.push(gid);
    gids.sort_unstable();
    gids.dedup();
    if gids.len() > MAX_GROUPS {
        let m = format!("the user is in {} groups", gids.len());
        let e = Error::new(Kind::Limit, m);
        return Err(e.with_hint(format!("the kernel takes {MAX_GROUPS} at most")));
    }
    Ok(ResolvedUser {
        uid: found.uid,
        gid,
        additional_gids: gids,
        home: found.home,
    })
}

/// Reads a file of the root; nothing where there is none.
fn read(rootfs: BorrowedFd<'_>, path: &str) -> Result<String> {
    let doing = || format!("read /{path} of the container");
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // First without effect: opening a pipe or a device of the image has one.
    let found = match openat2(
        rootfs,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        inside,
    ) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(Error::host(doing(), e)),
    };
    let stat = fstat(&found).map_err(|e| Error::host(doing(), e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let m = format!("/{path} of the container is no regular file");
        return bad(m, "give the user as a number, and mend the image");
    }
    let too_long = |what: &str| {
        let e = Error::new(Kind::Limit, format!("/{path} of the container {what}"));
        Err(e.with_hint("no image needs that: do not trust this one"))
    };
    if stat.st_size > MAX_FILE.cast_signed() {
        return too_long("is longer than 1 MiB");
    }
    let same = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::open(same).map_err(|e| Error::host(doing(), e))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::host(doing(), e))?;
    if bytes.len() as u64 > MAX_FILE {
        return too_long("is longer than 1 MiB");
    }
    if bytes.split(|b| *b == b'\n').any(|l| l.len() > MAX_LINE) {
        return too_long("has a line longer than 64 KiB");
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, os::unix::fs::symlink};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PASSWD: &str = "# comment\nroot:x:0:0:root:/root:/bin/sh\nme:x:1000:100::/home/me:/bin/sh\n\
        123:x:5:5::/evil:/bin/sh\nfar:x:4294967296:0::/:\nneg:x:-1:0::/:\nshort\nbad:x:zz:0::/:\n\
        2147483648:x:0:0::/:\nctl:x:7:7::/a\u{1}b:\nrel:x:8:8::home:\n";
    const GROUP: &str = "root:x:0:root\nwheel:x:10:root,me\nusers:x:100:\nodd:x:oops:me\n77:x:1:me\nfar:x:4294967295:me\n";

    fn root(passwd: &str, group: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), group).unwrap();
        dir
    }

    fn in_dir(dir: &tempfile::TempDir, user: &str, add: &[&str]) -> Result<ResolvedUser> {
        let fd = File::open(dir.path()).unwrap();
        let add: Vec<String> = add.iter().map(|a| a.to_string()).collect();
        resolve(fd.as_fd(), user, &add)
    }

    #[test]
    fn names_and_numbers() {
        let dir = root(PASSWD, GROUP);
        for (user, add, uid, gid, gids, home) in [
            ("", &[][..], 0, 0, &[0, 10][..], "/root"),
            ("root", &[], 0, 0, &[0, 10], "/root"),
            ("me", &[], 1000, 100, &[1, 10, 100], "/home/me"),
            ("1000", &[], 1000, 100, &[1, 10, 100], "/home/me"),
            ("me:wheel", &[], 1000, 10, &[10], "/home/me"),
            (
                "me:7",
                &["wheel", "9", "9"],
                1000,
                7,
                &[7, 9, 10],
                "/home/me",
            ),
            ("me:", &[], 1000, 100, &[1, 10, 100], "/home/me"),
            (":7", &[], 0, 7, &[7], "/root"),
            ("4242", &[], 4242, 0, &[0], "/"),
            ("4242:43", &[], 4242, 43, &[43], "/"),
            // Digits are a number, whatever the image calls its users.
            ("123", &[], 123, 0, &[0], "/"),
            ("7:77", &[], 7, 77, &[77], "/"),
            ("2147483647", &[], MAX_ID, 0, &[0], "/"),
            ("rel", &[], 8, 8, &[8], "/"),
        ] {
            let found = in_dir(&dir, user, add).unwrap();
            assert_eq!(
                (found.uid, found.gid, &*found.home),
                (uid, gid, home),
                "{user}"
            );
            assert_eq!(found.additional_gids, gids, "{user}");
        }
    }

    #[test]
    fn overflow_and_nonsense() {
        let dir = root(PASSWD, GROUP);
        for (user, add, kind) in [
            ("2147483648", &[][..], Kind::BadInput),
            ("4294967295", &[], Kind::BadInput),
            ("4294967296", &[], Kind::BadInput),
            ("18446744073709551616", &[], Kind::BadInput),
            ("-1", &[], Kind::BadInput),
            ("+5", &[], Kind::BadInput),
            ("far", &[], Kind::BadInput),
            ("neg", &[], Kind::BadInput),
            ("bad", &[], Kind::BadInput),
            ("short", &[], Kind::BadInput),
            ("me:2147483648", &[], Kind::BadInput),
            ("me:far", &[], Kind::BadInput),
            ("me", &["4294967296"], Kind::BadInput),
            ("me", &["-1"], Kind::BadInput),
            ("a\nb", &[], Kind::BadInput),
            ("nobody", &[], Kind::NotFound),
            ("me:none", &[], Kind::NotFound),
            ("me", &["none"], Kind::NotFound),
            ("me", &[""], Kind::NotFound),
            ("#", &[], Kind::NotFound),
        ] {
            assert_eq!(
                in_dir(&dir, user, add).unwrap_err().kind(),
                kind,
                "{user} {add:?}"
            );
        }
    }

    #[test]
    fn without_files() {
        let dir = tempfile::tempdir().unwrap();
        let found = in_dir(&dir, "", &[]).unwrap();
        assert_eq!((found.uid, found.gid, &*found.home), (0, 0, "/"));
        assert_eq!(in_dir(&dir, "5:6", &["7"]).unwrap().additional_gids, [6, 7]);
        assert_eq!(in_dir(&dir, "me", &[]).unwrap_err().kind(), Kind::NotFound);
        fs::write(dir.path().join("etc"), "").unwrap();
        assert_eq!(in_dir(&dir, "5", &[]).unwrap().uid, 5);
    }

    #[test]
    fn links_stay_in_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("passwd"), "me:x:1:1::/out:\n").unwrap();
        // An absolute link is of the root; so is one that climbs.
        let target = outside.path().to_str().unwrap();
        for link in [
            target.to_owned(),
            format!("../../../../../../../..{target}"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            symlink(&link, dir.path().join("etc")).unwrap();
            assert_eq!(in_dir(&dir, "me", &[]).unwrap_err().kind(), Kind::NotFound);
            fs::create_dir_all(format!("{}{target}", dir.path().display())).unwrap();
            fs::write(
                format!("{}{target}/passwd", dir.path().display()),
                "me:x:2:2::/in:\n",
            )
            .unwrap();
            assert_eq!(in_dir(&dir, "me", &[]).unwrap().home, "/in");
        }
        let dir = root("", "");
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        symlink("/proc/self/environ", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(in_dir(&dir, "me", &[]).unwrap_err().kind(), Kind::NotFound);
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        symlink("passwd", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(in_dir(&dir, "me", &[]).unwrap_err().kind(), Kind::Host);
    }

    #[test]
    fn no_pipe_and_no_end_of_lines() {
        let dir = root("", GROUP);
        let passwd = dir.path().join("etc/passwd");
        fs::remove_file(&passwd).unwrap();
        let fifo = rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, Mode::RUSR, 0);
        fifo.unwrap();
        let e = in_dir(&dir, "me", &[]).unwrap_err();
        assert!(e.message().contains("no regular file"), "{e}");
        for (text, part) in [
            ("x".repeat(MAX_LINE + 1), "64 KiB"),
            ("x\n".repeat(1 << 20), "1 MiB"),
        ] {
            let dir = root(&text, "");
            let e = in_dir(&dir, "0", &[]).unwrap_err();
            assert!(e.kind() == Kind::Limit && e.message().contains(part), "{e}");
            let dir = root(PASSWD, &text);
            assert_eq!(in_dir(&dir, "me", &[]).unwrap_err().kind(), Kind::Limit);
        }
    }

    /// A word of what such files have, and of what they should not.
    fn word() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("me".to_owned()),
            Just("root".to_owned()),
            "[0-9]{1,11}",
            "[-+][0-9]{1,3}",
            "[a-z#,]{0,4}",
            Just("/home".to_owned()),
            any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn any_text_gives_sound_ids_or_an_error(
            passwd in vec(vec(word(), 0..8), 0..6),
            group in vec(vec(word(), 0..5), 0..6),
            user in vec(word(), 0..3),
            add in vec(word(), 0..3),
        ) {
            let text = |lines: Vec<Vec<String>>| {
                lines.iter().map(|l| l.join(":") + "\n").collect::<String>()
            };
            let (passwd, group, user) = (text(passwd), text(group), user.join(":"));
            let done = find_user(&passwd, &user).and_then(|f| finish(f, &group, &user, &add));
            let name = user.split(':').next().unwrap();
            match done {
                Ok(found) => {
                    prop_assert!(found.uid <= MAX_ID && found.additional_gids.iter().all(|g| *g <= MAX_ID));
                    prop_assert!(found.additional_gids.contains(&found.gid));
                    prop_assert!(found.home.starts_with('/') && !found.home.contains('\n'));
                    if all_digits(name) {
                        prop_assert_eq!(Ok(found.uid), name.parse());
                    }
                }
                Err(e) => prop_assert!(e.hint().is_some() && !e.message().contains('\n')),
            }
        }
    }
}
