//! Writes logs, and begins a new file when one is full.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{LINE, json, k8s};
use crate::shim::{Log, LogFile, Stream, clock};

/// A log that is being written. It has no errors to give: what cannot be written is counted, and
/// the log says so when it can.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Nothing is kept.
    None,
    /// A file.
    File(Box<Files>),
}

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
    /// Beginnings of lines whose end has not come.
    begun: [Vec<u8>; 2],
    lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    K8s,
}

impl Writer {
    pub(crate) fn new(log: &Log) -> Self {
        let (format, settings) = match log {
            Log::None => return Self::None,
            Log::JsonFile(settings) => (Format::Json, settings),
            Log::K8sFile(settings) => (Format::K8s, settings),
        };
        Self::File(Box::new(Files {
            format,
            settings: settings.clone(),
            file: None,
            size: 0,
            out: Vec::new(),
            lines: 0,
            begun: [Vec::new(), Vec::new()],
            lost: 0,
        }))
    }

    /// Adds output that came just now.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if let Self::File(files) = self {
            files.write(stream, bytes);
        }
    }

    /// Adds what was begun without an end: no more comes.
    pub(crate) fn end(&mut self) {
        if let Self::File(files) = self {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let rest = std::mem::take(&mut files.begun[stream as usize]);
                if !rest.is_empty() {
                    files.line(stream, &files.time(), &rest);
                }
            }
            files.flush();
        }
    }
}

impl Files {
    /// One time for all that came at once.
    fn time(&self) -> String {
        clock::text(SystemTime::now(), self.format == Format::K8s)
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let time = self.time();
        let mut begun = std::mem::take(&mut self.begun[stream as usize]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (LINE - begun.len()).min(rest.len());
            let end = rest[..room].iter().position(|b| *b == b'\n');
            let (piece, after) = rest.split_at(end.map_or(room, |n| n + 1));
            rest = after;
            let whole = end.is_some() || begun.len() + piece.len() == LINE;
            if whole && begun.is_empty() {
                self.line(stream, &time, piece);
            } else {
                begun.extend_from_slice(piece);
                if whole {
                    self.line(stream, &time, &begun);
                    begun.clear();
                }
            }
        }
        // An idle container's shim holds no buffers.
        self.begun[stream as usize] = if begun.is_empty() { Vec::new() } else { begun };
        self.flush();
    }

    fn line(&mut self, stream: Stream, time: &str, text: &[u8]) {
        let before = self.out.len();
        match self.format {
            Format::Json => {
                json::encode(&mut self.out, stream, time, &self.settings.attrs, text);
            }
            Format::K8s => k8s::encode(&mut self.out, stream, time, text),
        }
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

    fn flush(&mut self) {
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
        if self.file.is_none() {
            let file = open(&self.settings.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut note = Vec::new();
        if self.lost > 0 {
            let text = format!("unlade: {} lines could not be logged here\n", self.lost);
            let time = clock::text(SystemTime::now(), self.format == Format::K8s);
            match self.format {
                Format::Json => json::encode(&mut note, Stream::Stderr, &time, "", text.as_bytes()),
                Format::K8s => k8s::encode(&mut note, Stream::Stderr, &time, text.as_bytes()),
            }
        }
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
                Err(e)
            }
        }
    }

    /// `log` becomes `log.1`, that `log.2`, and so on; the oldest goes.
    fn rotate(&mut self) {
        self.file = None;
        let path = &self.settings.path;
        let last = self.settings.max_files.clamp(1, 1000) - 1;
        let done = if last == 0 {
            fs::remove_file(path)
        } else {
            for n in (1..last).rev() {
                let _ = fs::rename(older(path, n), older(path, n + 1));
            }
            fs::rename(path, older(path, 1))
        };
        if done.is_ok() {
            self.size = 0;
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
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
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|l| {
                let value: serde_json::Value = serde_json::from_str(l).unwrap();
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn lines_in_any_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let text = b"one\ntwo\n\nfour";
        for piece in 1..text.len() {
            let path = dir.path().join(format!("sub/{piece}"));
            let mut w = Writer::new(&Log::JsonFile(LogFile::at(&path)));
            for bytes in text.chunks(piece) {
                w.write(Stream::Stdout, bytes);
                w.write(Stream::Stderr, b"");
            }
            w.end();
            assert_eq!(logs(&path), ["one\n", "two\n", "\n", "four"]);
        }
    }

    #[test]
    fn long_lines_are_split() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut w = Writer::new(&Log::K8sFile(LogFile::at(&path)));
        let long = vec![b'x'; 2 * LINE + 5];
        for bytes in long.chunks(1000) {
            w.write(Stream::Stderr, bytes);
        }
        w.write(Stream::Stderr, b"\n");
        let text = fs::read_to_string(&path).unwrap();
        let got: Vec<(usize, bool)> = text
            .lines()
            .map(|l| (l.matches('x').count(), l.contains(" stderr F ")))
            .collect();
        assert_eq!(got, [(LINE, false), (LINE, false), (5, true)]);
    }

    #[test]
    fn rotation_keeps_so_many_of_such_a_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = LogFile {
            max_size: 10_000,
            max_files: 3,
            ..LogFile::at(&path)
        };
        let mut w = Writer::new(&Log::JsonFile(settings.clone()));
        for n in 0..1000 {
            w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        // A shim that comes later goes on where this one was.
        drop(w);
        let mut w = Writer::new(&Log::JsonFile(settings));
        for n in 1000..1010 {
            w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        let files = [older(&path, 2), older(&path, 1), path.clone()];
        for file in &files[..2] {
            let len = fs::metadata(file).unwrap().len();
            assert!((9_900..=10_000).contains(&len), "{len}");
        }
        let all: Vec<String> = files.iter().flat_map(|f| logs(f)).collect();
        assert_eq!(all.last().unwrap(), "line 1009\n");
        let first = 1010 - all.len();
        for (n, line) in all.iter().enumerate() {
            assert_eq!(*line, format!("line {}\n", first + n));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn one_file_alone_starts_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let settings = LogFile {
            max_size: 1000,
            max_files: 1,
            ..LogFile::at(&path)
        };
        let mut w = Writer::new(&Log::JsonFile(settings));
        for n in 0..100 {
            w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        assert_eq!(logs(&path).last().unwrap(), "line 99\n");
        assert!(fs::metadata(&path).unwrap().len() <= 1000);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// What does not fit is counted, and no half line is left.
    #[test]
    fn lost_lines_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::create_dir(&path).unwrap();
        let mut w = Writer::new(&Log::JsonFile(LogFile::at(&path)));
        w.write(Stream::Stdout, b"a\nb\n");
        w.write(Stream::Stdout, b"c\n");
        fs::remove_dir(&path).unwrap();
        w.write(Stream::Stdout, b"d\n");
        w.write(Stream::Stdout, b"e\n");
        let want = ["unlade: 3 lines could not be logged here\n", "d\n", "e\n"];
        assert_eq!(logs(&path), want);
    }
}
