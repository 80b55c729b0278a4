//! The files of a log: a new one is begun when one is full, and full ones are compressed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::BorrowedFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{Format, LINE, json, k8s, pack::Packing};
use crate::shim::{LogFile, Stream, clock};

#[derive(Debug)]
pub(crate) struct Files {
    format: Format,
    settings: LogFile,
    /// `None` until there is something to write, and after an error.
    file: Option<File>,
    size: u64,
    /// Lines that are to be written.
    out: Vec<u8>,
    lines: u64,
    lost: u64,
    /// The full file that is being compressed.
    packing: Option<Packing>,
}

impl Files {
    pub(super) fn new(format: Format, settings: LogFile) -> Self {
        Self {
            format,
            settings,
            file: None,
            size: 0,
            out: Vec::new(),
            lines: 0,
            lost: 0,
            packing: None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>, stream: Stream, time: SystemTime, text: &[u8]) {
        match self.format {
            Format::Json => {
                let time = clock::text(time, false);
                json::encode(out, stream, &time, &self.settings.attrs, text);
            }
            Format::K8s | Format::Local => {
                k8s::encode(out, stream, &clock::text(time, true), text);
            }
        }
    }

    /// Adds a line, which is written with the next [`Files::flush`] at the latest.
    pub(super) fn line(&mut self, stream: Stream, time: SystemTime, text: &[u8]) {
        let mut out = std::mem::take(&mut self.out);
        let before = out.len();
        self.encode(&mut out, stream, time, text);
        self.out = out;
        self.lines += 1;
        let max = self.settings.max_size;
        if max > 0 && self.size + self.out.len() as u64 > max && self.size + before as u64 > 0 {
            let line = self.out.split_off(before);
            self.lines -= 1;
            self.flush();
            self.rotate();
            (self.out, self.lines) = (line, 1);
        }
        // Escapes make six bytes of one: what is held stays small.
        if self.out.len() > 4 * LINE {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let out = std::mem::take(&mut self.out);
        let lines = std::mem::take(&mut self.lines);
        if self.put(&out).is_err() {
            self.lost += lines;
        }
    }

    fn put(&mut self, out: &[u8]) -> io::Result<()> {
        let mut note = Vec::new();
        if self.file.is_none() {
            let file = open(&self.settings.path)?;
            self.size = file.metadata()?.len();
            // What a power cut has left of a line is not to spoil the next one.
            let mut last = [b'\n'];
            if self.size > 0 {
                file.read_exact_at(&mut last, self.size - 1)?;
            }
            if last != [b'\n'] {
                note.push(b'\n');
            }
            self.file = Some(file);
        }
        if self.lost > 0 {
            let text = format!("unlade: {} lines could not be logged here\n", self.lost);
            self.encode(
                &mut note,
                Stream::Stderr,
                SystemTime::now(),
                text.as_bytes(),
            );
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let wrote = file.write_all(&note).and_then(|()| file.write_all(out));
        match wrote {
            Ok(()) => {
                self.lost = 0;
                self.size += (note.len() + out.len()) as u64;
                Ok(())
            }
            Err(e) => {
                // No half line stays.
                let _ = file.set_len(self.size);
                if note.first() == Some(&b'\n') {
                    self.file = None;
                }
                Err(e)
            }
        }
    }

    /// How many files there are beside the newest.
    fn last(&self) -> u32 {
        self.settings.max_files.clamp(1, super::MAX_FILES) - 1
    }

    /// `log` becomes `log.1`, that `log.2`, and so on; the oldest goes. Names only ever go on to
    /// the next, on which readers rely.
    fn rotate(&mut self) {
        self.file = None;
        let path = &self.settings.path;
        let last = self.last();
        let done = if last == 0 {
            fs::remove_file(path)
        } else {
            if self.settings.compress {
                let _ = fs::remove_file(packed(path, last));
                let _ = fs::remove_file(older(path, last));
            }
            for n in (1..last).rev() {
                let _ = fs::rename(older(path, n), older(path, n + 1));
                if self.settings.compress {
                    let _ = fs::rename(packed(path, n), packed(path, n + 1));
                }
            }
            fs::rename(path, older(path, 1))
        };
        if done.is_ok() {
            self.size = 0;
            if let Some(packing) = &mut self.packing {
                packing.number += 1;
            }
        }
        self.pack();
    }

    /// Has the newest full file compressed that is not yet, one at a time.
    fn pack(&mut self) {
        if !self.settings.compress || self.packing.is_some() {
            return;
        }
        let path = &self.settings.path;
        if let Some(n) = (1..=self.last()).find(|n| older(path, *n).exists()) {
            self.packing = Packing::start(&older(path, n), n).ok();
        }
    }

    /// What becomes readable when a file is compressed.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.packing.as_ref().map(Packing::waits_for)
    }

    /// Puts the compressed file in the place of the plain one, if it is done.
    pub(super) fn packed(&mut self) {
        let Some(done) = self.packing.as_ref().and_then(Packing::done) else {
            return;
        };
        let Some(packing) = self.packing.take() else {
            return;
        };
        let (path, n) = (&self.settings.path, packing.number);
        // One that failed is tried again when the next one is full.
        if done && (n > self.last() || packing.put(&older(path, n), &packed(path, n)).is_ok()) {
            self.pack();
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path)
    };
    match (open(), path.parent()) {
        (Err(e), Some(dir)) if e.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
            open()
        }
        (file, _) => file,
    }
}

/// The `n`th file before the newest.
pub(super) fn older(path: &Path, n: u32) -> PathBuf {
    with(path, &format!(".{n}"))
}

/// That one, compressed.
pub(super) fn packed(path: &Path, n: u32) -> PathBuf {
    with(path, &format!(".{n}.gz"))
}

fn with(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}
