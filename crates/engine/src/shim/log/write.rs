//! Takes output apart into lines, and hands them to the log.

use std::{os::fd::BorrowedFd, time::SystemTime};

use super::{LINE, files::Files, ring::Ring};
use crate::shim::{Log, Stream};

/// A log that is being written. It has no errors to give: what cannot be written is counted, and
/// the log says so when it can.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Nothing is kept.
    None,
    /// Files, for which the container waits.
    Files(Lines, Box<Files>),
    /// A buffer, which a thread empties into files.
    Ring(Lines, Ring),
}

impl Writer {
    pub(crate) fn new(log: &Log) -> Self {
        let Some((format, settings)) = log.file() else {
            return Self::None;
        };
        let files = Files::new(format, settings.clone());
        match settings.buffer {
            None => Self::Files(Lines::default(), Box::new(files)),
            Some(max) => Self::Ring(Lines::default(), Ring::new(files, max)),
        }
    }

    /// Adds output that came just now.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        // One time for all that came at once.
        let time = SystemTime::now();
        match self {
            Self::None => {}
            Self::Files(lines, files) => {
                lines.push(stream, bytes, |text| files.line(stream, time, text));
                files.flush();
            }
            Self::Ring(lines, ring) => {
                lines.push(stream, bytes, |text| ring.line(stream, time, text));
                ring.wake();
            }
        }
    }

    /// Adds what was begun without an end: no more comes.
    pub(crate) fn end(&mut self) {
        let time = SystemTime::now();
        match self {
            Self::None => {}
            Self::Files(lines, files) => {
                lines.end(|stream, text| files.line(stream, time, text));
                files.flush();
            }
            Self::Ring(lines, ring) => {
                lines.end(|stream, text| ring.line(stream, time, text));
                ring.end(time);
                ring.wake();
            }
        }
    }

    /// Whether all that came is in the files. After the end only: [`Writer::waits_for`] tells when
    /// to ask again.
    pub(crate) fn settled(&self) -> bool {
        match self {
            Self::None | Self::Files(..) => true,
            Self::Ring(_, ring) => ring.settled(),
        }
    }

    /// What becomes readable when there is something to do for [`Writer::turn`].
    pub(crate) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Files(_, files) => files.waits_for(),
            Self::Ring(_, ring) => ring.waits_for(),
        }
    }

    /// Does what is due, without waiting.
    pub(crate) fn turn(&mut self) {
        match self {
            Self::None => {}
            Self::Files(_, files) => files.packed(),
            Self::Ring(_, ring) => ring.turn(),
        }
    }

    /// Ends the thread if there is one, unless it waits for a disk.
    pub(crate) fn close(&mut self) {
        if let Self::Ring(_, ring) = self {
            ring.close();
        }
    }
}

/// Beginnings of lines whose end has not come.
#[derive(Debug, Default)]
pub(crate) struct Lines([Vec<u8>; 2]);

impl Lines {
    /// Gives each line that is whole, or as long as one gets.
    fn push(&mut self, stream: Stream, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        let mut begun = std::mem::take(&mut self.0[stream as usize]);
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = (LINE - begun.len()).min(rest.len());
            let end = rest[..room].iter().position(|b| *b == b'\n');
            let (piece, after) = rest.split_at(end.map_or(room, |n| n + 1));
            rest = after;
            let whole = end.is_some() || begun.len() + piece.len() == LINE;
            if whole && begun.is_empty() {
                line(piece);
            } else {
                begun.extend_from_slice(piece);
                if whole {
                    line(&begun);
                    begun.clear();
                }
            }
        }
        // An idle container's shim holds no buffers.
        self.0[stream as usize] = if begun.is_empty() { Vec::new() } else { begun };
    }

    /// Gives what was begun.
    fn end(&mut self, mut line: impl FnMut(Stream, &[u8])) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.0[stream as usize]);
            if !rest.is_empty() {
                line(stream, &rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::shim::{LogFile, log::files::older};

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
