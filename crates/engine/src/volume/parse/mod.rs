//! Docker's `-v`, `--mount` and `--tmpfs`.

mod bind;
mod mount;
mod tmpfs;

use std::{
    fmt,
    path::{Component, Path, PathBuf},
};

pub(super) use self::{bind::bind, mount::check, tmpfs::tmpfs_options};
pub use self::{
    bind::{Flag, volume},
    mount::{fields, mount},
    tmpfs::tmpfs,
};
use crate::error::{Error, Kind, Result};

const MOST_PATH: usize = 4095;
/// What `propagation` can be.
const PROPAGATIONS: [&str; 6] = [
    "private", "rprivate", "shared", "rshared", "slave", "rslave",
];

fn bad(what: impl fmt::Display) -> Error {
    Error::new(Kind::BadInput, what.to_string())
}

/// A path in a container: absolute, without `.` and `..`, not the root.
pub(super) fn target(text: &str) -> Result<String> {
    let wrong = |why: &str| {
        let shown: String = text.chars().take(200).collect();
        bad(format!(
            "invalid mount path: '{}' {why}",
            shown.escape_debug()
        ))
    };
    if !text.starts_with('/') {
        return Err(wrong("mount path must be absolute"));
    }
    if text.len() > MOST_PATH || text.contains('\0') {
        return Err(wrong("is no path"));
    }
    let mut clean = PathBuf::from("/");
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let clean = clean.to_string_lossy().into_owned();
    if clean == "/" {
        return Err(wrong("cannot be the root"));
    }
    Ok(clean)
}

/// A source on the host as a whole path, if it is one and no volume's name.
fn host_path(text: &str, cwd: &Path) -> Result<Option<String>> {
    let path = if text.starts_with('/') {
        PathBuf::from(text)
    } else if text == "." || text == ".." || text.starts_with("./") || text.starts_with("../") {
        cwd.join(text)
    } else {
        return Ok(None);
    };
    // `..` stays: through a symlink it leads elsewhere.
    let whole: PathBuf = path
        .components()
        .filter(|c| !matches!(c, Component::CurDir))
        .collect();
    let text = whole.to_str().map(str::to_owned);
    text.map(Some)
        .ok_or_else(|| bad(format!("`{}` is not a name in UTF-8", whole.display())))
}
