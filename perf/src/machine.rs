//! What the figures were measured on and with: a machine note, program versions, the date.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::oci::hex;

/// A note on the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// CPU model, as the kernel names it.
    pub(crate) cpu: String,
    /// Cores this process may use.
    pub(crate) cores: usize,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Distribution.
    pub(crate) os: String,
    /// Transparent huge pages setting (it decides what fresh memory costs).
    pub(crate) huge_pages: String,
    /// File system that the source blobs lie on.
    pub(crate) source_fs: String,
    /// Load average over one minute when the run began.
    pub(crate) load: String,
    /// UTC date, `YYYY-MM-DD`.
    pub(crate) date: String,
}

/// Notes the machine; `source` is the directory with the workloads.
pub(crate) fn note(source: &Path) -> Machine {
    let uname = rustix::system::uname();
    Machine {
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        cores: cores(),
        memory_mib: meminfo_kib("MemTotal").unwrap_or(0) / 1024,
        kernel: uname.release().to_string_lossy().into_owned(),
        os: os_name(),
        huge_pages: chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        source_fs: fs_of(source),
        load: read("/proc/loadavg")
            .split_whitespace()
            .next()
            .unwrap_or("?")
            .to_owned(),
        date: today(),
    }
}

/// Cores this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A line of `/proc/meminfo` in KiB.
pub(crate) fn meminfo_kib(name: &str) -> Option<u64> {
    field("/proc/meminfo", name)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn field(path: &str, name: &str) -> Option<String> {
    read(path).lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

fn os_name() -> String {
    let text = read("/etc/os-release");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("?").trim_matches('"').to_owned()
}

/// `always [madvise] never` → `madvise`.
fn chosen(text: &str) -> String {
    let inner = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or_else(|| "?".to_owned(), |(word, _)| word.to_owned())
}

/// The type of the file system under a path: of the longest mount point that leads to it.
fn fs_of(path: &Path) -> String {
    let mounts = read("/proc/self/mounts");
    let mut found = ("", "?");
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        if let (Some(point), Some(kind)) = (words.next(), words.next())
            && path.starts_with(point)
            && point.len() >= found.0.len()
        {
            found = (point, kind);
        }
    }
    found.1.to_owned()
}

/// First line of what each program says its version is; programs that are missing are left out.
pub(crate) fn versions(programs: &[&str]) -> BTreeMap<String, String> {
    let version = |program: &&str| {
        let flag = if program.starts_with("mkfs.") {
            "-V"
        } else {
            "--version"
        };
        let output = Command::new(program).arg(flag).output().ok()?;
        let mut text = output.stdout;
        text.extend(output.stderr);
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find(|line| !line.trim().is_empty())?;
        Some((
            (*program).to_owned(),
            line.trim_matches(['*', ' ']).to_owned(),
        ))
    };
    programs.iter().filter_map(version).collect()
}

/// What a build of unlade says its version is, and the digest of the file.
pub(crate) fn version_of_build(build: &Path) -> Option<String> {
    let name = build.display().to_string();
    let said = versions(&[&name]).remove(&name)?;
    let digest = hex(&Sha256::digest(fs::read(build).ok()?));
    Some(format!("{said} (sha256 {})", &digest[..16]))
}

/// Today in UTC.
fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Days since 1970 to a Gregorian date.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), "madvise");
        assert_eq!(chosen(""), "?");
    }

    #[test]
    fn missing_programs_are_left_out() {
        let found = versions(&["tar", "no-such-program-here"]);
        assert!(found.contains_key("tar") && found.len() == 1);
    }
}
