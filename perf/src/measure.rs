//! One timed run: what the contestant took, what the machine did meanwhile, what it left behind.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use memmap2::MmapMut;
use serde::{Deserialize, Serialize};

use crate::child::{self, Spec};
use crate::fs::Fresh;
use crate::machine;
use crate::oci::Blob;

/// Clock ticks per second in `/proc/stat`; 100 on every Linux that user space sees.
const TICKS: f64 = 100.0;

/// The figures of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Wall seconds.
    pub(crate) wall: f64,
    /// User CPU seconds of the process tree.
    pub(crate) user: f64,
    /// Kernel CPU seconds of the process tree.
    pub(crate) sys: f64,
    /// Peak RSS in KiB of the largest process in the tree.
    pub(crate) peak_rss_kib: u64,
    /// Busy CPU seconds of the whole machine meanwhile, to 0.01.
    pub(crate) machine_cpu: f64,
    /// Wall seconds of a `syncfs` right after; not part of `wall`.
    pub(crate) flush: f64,
    /// What the daemons took meanwhile, which are not in the process tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) daemons: Option<Daemons>,
}

/// What processes took that ran before the timed ones and go on after them.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Daemons {
    /// CPU seconds of the contestant's daemons.
    pub(crate) cpu: f64,
    /// Peak RSS in KiB of the largest of them.
    pub(crate) peak_rss_kib: u64,
    /// The sum of their peaks in KiB.
    pub(crate) sum_rss_kib: u64,
    /// CPU seconds of the registry.
    pub(crate) registry_cpu: f64,
}

impl Sample {
    /// User and kernel seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.sys
    }
}

/// Runs a spec whose output goes to a fresh file system.
pub(crate) fn timed(spec: &Spec, fresh: &Fresh) -> Result<Sample> {
    let busy = machine_busy()?;
    let outcome = child::spawn(spec)?;
    let machine_cpu = machine_busy()? - busy;
    if let Some(failure) = outcome.failure {
        bail!(failure);
    }
    let begin = Instant::now();
    fresh.flush()?;
    Ok(Sample {
        wall: outcome.wall,
        user: outcome.user,
        sys: outcome.sys,
        peak_rss_kib: outcome.max_rss_kib,
        machine_cpu,
        flush: begin.elapsed().as_secs_f64(),
        daemons: None,
    })
}

/// CPU seconds since boot that were neither idle, waiting for a disk nor stolen.
pub(crate) fn machine_busy() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_ticks(&text)
        .map(|ticks| ticks / TICKS)
        .context("no cpu line in /proc/stat")
}

fn busy_ticks(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq
    (fields.len() >= 7).then(|| fields[..3].iter().chain(&fields[5..7]).sum())
}

/// Reads blobs once so that they lie in the page cache.
pub(crate) fn warm(blobs: &[Blob]) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for blob in blobs {
        let mut file =
            File::open(&blob.path).with_context(|| format!("open {}", blob.path.display()))?;
        while file.read(&mut buffer)? > 0 {}
    }
    Ok(())
}

/// Takes memory, writes to it and gives it back, so that the run that follows finds free memory
/// that is in use as far as a hypervisor is concerned. In a virtual machine whose free memory is
/// handed back to the host, the first touch of a page costs several times what it does otherwise,
/// and who pays for it would be chance.
pub(crate) fn prime(bytes: u64) -> Result<()> {
    let spare = machine::meminfo_kib("MemFree")
        .unwrap_or(0)
        .saturating_sub(1 << 20)
        * 1024;
    let bytes = usize::try_from(bytes.min(spare)).unwrap_or(usize::MAX);
    if bytes == 0 {
        return Ok(());
    }
    let mut memory = MmapMut::map_anon(bytes).context("map memory")?;
    // Only faster; without huge pages it works as well.
    let _ = memory.advise(memmap2::Advice::HugePage);
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory[..]);
    Ok(())
}

/// What a tree holds, to see that contestants did the same work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeCount {
    /// Everything below the root.
    pub(crate) entries: u64,
    /// Of these, regular files by name (hard links count each).
    pub(crate) files: u64,
    /// Bytes of regular files by name.
    pub(crate) bytes: u64,
}

/// Walks a tree.
pub(crate) fn count(root: &Path) -> Result<TreeCount> {
    let mut sum = TreeCount::default();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            let meta = fs::symlink_metadata(entry.path())?;
            sum.entries += 1;
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if meta.is_file() {
                sum.files += 1;
                sum.bytes += meta.size();
            }
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_leaves_idle_iowait_and_steal_out() {
        let stat = "cpu  10 20 30 1000 500 7 8 99 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(75.0));
        assert_eq!(busy_ticks("intr 1 2"), None);
    }

    #[test]
    fn a_tree_is_counted() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("d")).unwrap();
        fs::write(temp.path().join("d/f"), "abc").unwrap();
        fs::hard_link(temp.path().join("d/f"), temp.path().join("g")).unwrap();
        std::os::unix::fs::symlink("g", temp.path().join("s")).unwrap();
        let sum = count(temp.path()).unwrap();
        assert_eq!(
            sum,
            TreeCount {
                entries: 4,
                files: 2,
                bytes: 6
            }
        );
    }
}
