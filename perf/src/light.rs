//! The speed of light: what this machine needs for the stages of an unpack that nobody can avoid,
//! each measured alone, in this process, by one thread, in the same round as the contestants.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use memmap2::MmapMut;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::extract::Extractor;
use crate::fs::Fresh;
use crate::oci::{Blob, Compression};
use crate::sys;

/// What a stage took, all layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Wall seconds.
    pub(crate) wall: f64,
    /// CPU seconds.
    pub(crate) cpu: f64,
}

/// The stages of one round.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Stages {
    /// Reading the blobs from the page cache.
    pub(crate) read: Cost,
    /// Decoding them in one shot into memory that is in use already.
    pub(crate) decode: Cost,
    /// Decoding them in one shot into memory that the kernel has yet to hand out.
    pub(crate) decode_fresh: Cost,
    /// SHA-256 of blobs and tars (once where they are the same bytes).
    pub(crate) sha256: Cost,
    /// Extraction from memory onto the fresh file system.
    pub(crate) extract: Cost,
    /// Of a pull: receiving the blobs from the registry, its CPU included.
    #[serde(default)]
    pub(crate) receive: Cost,
    /// Of a pull: writing each tar into one file of the fresh file system.
    #[serde(default)]
    pub(crate) one_file: Cost,
}

impl Stages {
    /// Seconds of light: the stages' CPU time spread over all cores, but never less than the
    /// longest stage, since each is taken as one thread's work.
    pub(crate) fn light(&self, cores: usize, fresh: bool) -> f64 {
        let decode = if fresh {
            self.decode_fresh
        } else {
            self.decode
        };
        spread([self.source(), decode, self.sha256, self.extract], cores)
    }

    /// Light where the tars are written as they are: what an EROFS image over them costs.
    pub(crate) fn light_one_file(&self, cores: usize) -> f64 {
        spread(
            [self.source(), self.decode, self.sha256, self.one_file],
            cores,
        )
    }

    /// Where the blobs come from: of a pull the registry, else the page cache.
    fn source(&self) -> Cost {
        if self.receive.wall > 0.0 {
            self.receive
        } else {
            self.read
        }
    }
}

#[allow(clippy::cast_precision_loss)]
fn spread(stages: [Cost; 4], cores: usize) -> f64 {
    let total: f64 = stages.iter().map(|stage| stage.cpu).sum();
    let longest = stages.iter().map(|stage| stage.wall).fold(0.0, f64::max);
    longest.max(total / cores.max(1) as f64)
}

/// Measures all stages of an image once.
pub(crate) fn measure(blobs: &[Blob], fresh: &Fresh) -> Result<Stages> {
    stages(blobs, fresh, |_, _| Ok(()))
}

/// The same, and what it costs to write each tar into one file, as a pull may.
pub(crate) fn measure_pull(blobs: &[Blob], fresh: &Fresh) -> Result<Stages> {
    let mut count = 0;
    stages(blobs, fresh, |stages, tar| {
        count += 1;
        let to = fresh.path().join(format!("light-{count}.tar"));
        time(&mut stages.one_file, || Ok(std::fs::write(&to, tar)?))?;
        Ok(std::fs::remove_file(&to)?)
    })
}

fn stages(
    blobs: &[Blob],
    fresh: &Fresh,
    mut more: impl FnMut(&mut Stages, &[u8]) -> Result<()>,
) -> Result<Stages> {
    let dest = fresh.path().join("light");
    std::fs::create_dir(&dest)?;
    let mut stages = Stages::default();
    let mut extractor = Extractor::new(&dest)?;
    for blob in blobs {
        let mut file = File::open(&blob.path)?;
        time(&mut stages.read, || read_through(&mut file))?;
        let bytes = std::fs::read(&blob.path)?;
        if blob.compression == Compression::Tar {
            time(&mut stages.sha256, || Ok(sha256(&bytes)))?;
            time(&mut stages.extract, || extractor.layer(&bytes))?;
            more(&mut stages, &bytes)?;
            continue;
        }
        let size = decoded_size(blob.compression, &bytes)?;
        let mut tar = MmapMut::map_anon(size.max(1)).context("map memory")?;
        let decode = |to: &mut [u8]| decode(blob.compression, &bytes, to);
        time(&mut stages.decode_fresh, || decode(&mut tar[..size]))?;
        time(&mut stages.decode, || decode(&mut tar[..size]))?;
        time(&mut stages.sha256, || {
            Ok((sha256(&bytes), sha256(&tar[..size])))
        })?;
        time(&mut stages.extract, || extractor.layer(&tar[..size]))?;
        more(&mut stages, &tar[..size])?;
    }
    time(&mut stages.extract, || extractor.finish())?;
    Ok(stages)
}

/// Adds to a stage what `work` takes.
pub(crate) fn time<T>(cost: &mut Cost, work: impl FnOnce() -> Result<T>) -> Result<()> {
    let (begin, cpu) = (Instant::now(), sys::process_cpu_seconds());
    std::hint::black_box(work()?);
    cost.cpu += sys::process_cpu_seconds() - cpu;
    cost.wall += begin.elapsed().as_secs_f64();
    Ok(())
}

fn read_through(file: &mut File) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What a blob decodes to, in bytes, by its own account: our workloads are one gzip member below
/// 4 GiB, or one zstd frame that states its size.
fn decoded_size(kind: Compression, blob: &[u8]) -> Result<usize> {
    match kind {
        Compression::Tar => Ok(blob.len()),
        Compression::Gzip => {
            let trailer = blob.last_chunk::<4>().context("gzip trailer")?;
            Ok(usize::try_from(u32::from_le_bytes(*trailer))?)
        }
        Compression::Zstd => {
            let size = zstd::zstd_safe::get_frame_content_size(blob).ok().flatten();
            Ok(usize::try_from(
                size.context("zstd frame without content size")?,
            )?)
        }
    }
}

fn decode(kind: Compression, blob: &[u8], to: &mut [u8]) -> Result<()> {
    let written = match kind {
        Compression::Tar => to.len(),
        Compression::Gzip => libdeflater::Decompressor::new()
            .gzip_decompress(blob, to)
            .map_err(|error| anyhow::anyhow!("libdeflate: {error:?}"))?,
        Compression::Zstd => zstd::bulk::decompress_to_buffer(blob, to).context("zstd")?,
    };
    ensure!(
        written == to.len(),
        "decoded {written} bytes, not {}",
        to.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(seconds: f64) -> Cost {
        Cost {
            wall: seconds,
            cpu: seconds,
        }
    }

    fn stages() -> Stages {
        Stages {
            read: cost(0.1),
            decode: cost(1.0),
            decode_fresh: cost(2.0),
            sha256: cost(0.5),
            extract: cost(0.4),
            ..Stages::default()
        }
    }

    #[test]
    fn light_is_the_longest_stage_or_all_cpu_over_cores() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        close(stages().light(1, false), 2.0);
        close(stages().light(2, false), 1.0);
        close(stages().light(4, false), 1.0);
        close(stages().light(1, true), 3.0);
        close(stages().light(8, true), 2.0);
    }

    #[test]
    fn of_a_pull_receiving_takes_the_place_of_reading() {
        let mut pull = stages();
        (pull.receive, pull.one_file) = (cost(0.3), cost(0.1));
        assert!((pull.light(1, false) - 2.2).abs() < 1e-9);
        assert!((pull.light_one_file(1) - 1.9).abs() < 1e-9);
    }

    #[test]
    fn waiting_counts_as_a_stage_but_not_as_cpu() {
        let mut waiting = stages();
        waiting.extract.wall = 9.0;
        assert!((waiting.light(2, false) - 9.0).abs() < 1e-9);
    }

    #[test]
    fn zstd_frames_state_and_keep_their_size() {
        let text = b"layer ".repeat(1000);
        let blob = zstd::bulk::compress(&text, 3).unwrap();
        let size = decoded_size(Compression::Zstd, &blob).unwrap();
        assert_eq!(size, text.len());
        let mut out = vec![0; size];
        decode(Compression::Zstd, &blob, &mut out).unwrap();
        assert_eq!(out, text);
    }
}
