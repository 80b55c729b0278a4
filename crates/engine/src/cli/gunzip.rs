//! `unlade gunzip`: the library's gzip decoder by itself.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
};

use clap::Args;
use unlade_unpack::{
    Error, Kind, Result,
    decode::gzip::{Decoder, Parallel},
    source::{BlobSource, FileSource, ReadSource},
};

use super::{FAILED, failure, say_error, values};

#[derive(Debug, Args)]
pub(super) struct GunzipArgs {
    /// Gzip file; `-` or none: standard input.
    file: Option<PathBuf>,

    /// Threads that decode; one streams in order. Default: the number of cores.
    #[arg(short, long, value_name = "N", value_parser = values::count)]
    threads: Option<usize>,

    /// Memory for decoding with several threads, such as 64MiB. Default: 512MiB.
    #[arg(long, value_name = "SIZE", value_parser = values::size)]
    memory: Option<u64>,
}

/// What large pieces on two threads take at most; mostly it is a fifth of that.
const MEMORY: usize = 512 << 20;
/// Exit code of a process that SIGPIPE ends.
const BROKEN_PIPE: u8 = 141;
/// Files below this size are not worth a second thread.
const PARALLEL_FROM: u64 = 2 << 20;

/// Decodes to standard output.
pub(super) fn run(args: &GunzipArgs) -> u8 {
    let mut broken = false;
    match gunzip(args, &mut broken) {
        Ok(()) => 0,
        Err(_) if broken => BROKEN_PIPE,
        Err(e) => {
            say_error(&e);
            failure(e.kind(), None).max(FAILED)
        }
    }
}

fn gunzip(args: &GunzipArgs, broken: &mut bool) -> Result<()> {
    let (mut source, name) = open(args)?;
    // Not through `Stdout`, which looks for line ends.
    let out = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(out.map_err(|e| Error::host("open standard output", e))?);
    let mut write = |bytes: &[u8]| {
        out.write_all(bytes)
            .and_then(|()| out.flush())
            .map_err(|e| {
                *broken |= e.kind() == io::ErrorKind::BrokenPipe;
                Error::host("write to standard output", e)
            })
    };
    let mut next = || {
        let chunk = source.next_chunk();
        chunk.map_err(|e| Error::host("read", e).in_part(name.clone()))
    };
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let small = source_len(args).is_some_and(|n| n < PARALLEL_FROM);
    let memory = args
        .memory
        .map_or(MEMORY, |m| usize::try_from(m).unwrap_or(usize::MAX));
    let parallel = Parallel::new(threads, memory);
    let done = if parallel.threads > 1 && !small {
        parallel
            .run(&mut next, &mut |bytes| write(&bytes))
            .map(drop)
    } else {
        stream(&mut next, &mut write)
    };
    done.map_err(|e| reworded(e, &name))
}

/// The library speaks of layers and blobs.
fn reworded(e: Error, name: &str) -> Error {
    if e.kind() != Kind::BadInput {
        return e;
    }
    let message = match e.place().offset {
        Some((_, at)) => format!("{} (at byte {at} of the input)", e.message()),
        None => e.message().to_owned(),
    };
    Error::new(e.kind(), message)
        .with_hint("the input is damaged or incomplete: fetch it again")
        .in_part(name)
}

fn stream(
    next: &mut dyn FnMut() -> Result<Option<bytes::Bytes>>,
    write: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut decoder = Decoder::new();
    let mut buf = vec![0; 256 << 10];
    while let Some(chunk) = next()? {
        let mut input = &chunk[..];
        loop {
            let done = decoder.decode(input, &mut buf);
            // What came before a fault too.
            write(&buf[..decoder.written()])?;
            let done = done?;
            input = &input[done.read..];
            if input.is_empty() && done.written < buf.len() {
                break;
            }
        }
    }
    decoder.finish()
}

fn source_len(args: &GunzipArgs) -> Option<u64> {
    let file = args.file.as_ref().filter(|f| f.as_os_str() != "-")?;
    let meta = std::fs::metadata(file).ok()?;
    meta.is_file().then_some(meta.len())
}

fn open(args: &GunzipArgs) -> Result<(Box<dyn BlobSource>, String)> {
    let Some(path) = args.file.as_ref().filter(|f| f.as_os_str() != "-") else {
        let source = ReadSource::new(io::stdin());
        return Ok((Box::new(source), "standard input".into()));
    };
    let name = format!("`{}`", path.display());
    let file = File::open(path).map_err(|e| {
        Error::host(format!("open {name}"), e).with_hint("check the path and its permissions")
    })?;
    // A pipe has no offsets to read at.
    let source: Box<dyn BlobSource> = match file.metadata() {
        Ok(meta) if meta.is_dir() => {
            let message = format!("{name} is a directory, not a gzip file");
            return Err(Error::new(Kind::BadInput, message).with_hint("give a file in it"));
        }
        Ok(meta) if meta.is_file() => {
            Box::new(FileSource::new(file).map_err(|e| Error::host(format!("open {name}"), e))?)
        }
        _ => Box::new(ReadSource::new(file)),
    };
    Ok((source, name))
}
