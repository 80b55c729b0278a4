//! Docker's `--tmpfs`.

use super::{bad, target};
use crate::error::Result;

/// One `--tmpfs`: the path, and options of the mount.
///
/// # Errors
/// [`Kind::BadInput`](crate::error::Kind::BadInput) if it is no path of a container.
pub fn tmpfs(text: &str) -> Result<(String, String)> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    tmpfs_options(options)?;
    Ok((target(path)?, options.to_owned()))
}

/// Options of a tmpfs, over Docker's defaults.
pub(in crate::volume) fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    /// Words, with what they undo.
    const WORDS: [(&str, &str); 14] = [
        ("exec", "noexec"),
        ("noexec", "exec"),
        ("suid", "nosuid"),
        ("nosuid", "suid"),
        ("dev", "nodev"),
        ("nodev", "dev"),
        ("ro", "rw"),
        ("rw", "ro"),
        ("atime", "noatime"),
        ("noatime", "atime"),
        ("diratime", "nodiratime"),
        ("nodiratime", "diratime"),
        ("relatime", "norelatime"),
        ("strictatime", "nostrictatime"),
    ];
    const KEYS: [&str; 6] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"];
    let mut all: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for word in text.split(',').filter(|w| !w.is_empty()) {
        let undone = WORDS.iter().find(|(w, _)| *w == word).map(|(_, u)| *u);
        let key = word.split_once('=').map(|(key, _)| key);
        match (undone, key) {
            (Some(undone), _) => all.retain(|o| o != undone && o != word),
            (None, Some(key)) if KEYS.contains(&key) => {
                all.retain(|o| o.split_once('=').map(|(k, _)| k) != Some(key));
            }
            _ => {
                return Err(
                    bad(format!("invalid tmpfs option \"{}\"", word.escape_debug()))
                        .with_hint("there are size=, mode=, uid=, gid=, nr_inodes=, exec, ro, …"),
                );
            }
        }
        all.push(word.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_ones() {
        assert_eq!(tmpfs("/run").unwrap(), ("/run".to_owned(), String::new()));
        let all = |text: &str| tmpfs_options(text).map(|o| o.join(","));
        assert_eq!(all("").unwrap(), "noexec,nosuid,nodev");
        assert_eq!(
            all("exec,size=1m,size=2m,ro,rw").unwrap(),
            "nosuid,nodev,exec,size=2m,rw"
        );
        for bad in ["x", "size", "context=system_u", "bind", "/a"] {
            assert!(all(bad).is_err(), "{bad}");
        }
        assert!(tmpfs("run").is_err() && tmpfs("/a/..:rw").is_err());
    }
}
