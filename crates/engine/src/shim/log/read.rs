//! Reads logs, also while they are written and rotated.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, Read, Seek, SeekFrom},
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify,
    io::Errno,
    time::Timespec,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Format,
    find::{Open, newer},
};
use crate::{
    error::{Error, Kind, Result},
    shim::{Log, LogFile, Stream},
};

/// Longest line that is taken for one, in bytes; what is longer was not written by a shim.
const MAX_LINE: usize = 1 << 20;

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Those from then on.
    pub since: Option<SystemTime>,
    /// Those up to then.
    pub until: Option<SystemTime>,
    /// The last so many of all that are there, before the others are sorted out.
    pub tail: Option<u64>,
    /// Those of standard output.
    pub stdout: bool,
    /// Those of standard error.
    pub stderr: bool,
}

impl Default for Filter {
    /// All.
    fn default() -> Self {
        Self {
            since: None,
            until: None,
            tail: None,
            stdout: true,
            stderr: true,
        }
    }
}

/// A line, or a part of one that was longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When it came, RFC 3339 in UTC.
    pub time: String,
    /// Where it came from.
    pub stream: Stream,
    /// The text, with its newline if it has one.
    pub text: Vec<u8>,
    /// A JSON object of what the log's options added.
    pub attrs: Option<String>,
}

/// Reads a log from the oldest file to the newest.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    settings: LogFile,
    filter: Filter,
    /// The one that is read, and newer ones.
    files: VecDeque<Open>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
    inotify: Option<OwnedFd>,
    /// The first compressed file that could not be read to its end.
    damaged: Option<PathBuf>,
    /// Whether nothing follows any more.
    done: bool,
}

impl Reader {
    /// Opens what there is; a log that nothing was written to is empty.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if the container's output is not kept, [`Kind::Host`] if files cannot
    /// be read.
    pub fn open(log: &Log, filter: &Filter) -> Result<Self> {
        let Some((format, settings)) = log.file() else {
            let m = "the container's output is not kept (log driver none)";
            return Err(
                Error::new(Kind::Unsupported, m).with_hint("create it with --log-driver json-file")
            );
        };
        let mut reader = Self {
            format,
            settings: settings.clone(),
            filter: filter.clone(),
            files: VecDeque::new(),
            line: Vec::new(),
            inotify: None,
            damaged: None,
            done: false,
        };
        let failed = |e| failed(settings, e);
        reader.find().map_err(failed)?;
        reader.skip_to_tail().map_err(failed)?;
        Ok(reader)
    }

    /// The next entry that is there; `None` at the end of what was written so far.
    ///
    /// # Errors
    /// [`Kind::Host`] if a file cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        while !self.done {
            let Some(open) = self.files.front_mut() else {
                return Ok(None);
            };
            let room = (MAX_LINE + 1 - self.line.len()) as u64;
            let read = open
                .reader()
                .and_then(|r| r.take(room).read_until(b'\n', &mut self.line));
            match read {
                Err(e) if open.damaged(&e) => {
                    open.give_up();
                    self.damaged.get_or_insert_with(|| open.path.clone());
                    self.line.clear();
                    continue;
                }
                read => read.map_err(|e| failed(&self.settings, e))?,
            };
            if self.line.last() == Some(&b'\n') || self.line.len() > MAX_LINE {
                let entry = self.parse();
                self.line.clear();
                if let Some(entry) = entry
                    && self.wanted(&entry)
                {
                    return Ok(Some(entry));
                }
            } else if self.files.len() > 1 {
                self.files.pop_front();
                self.line.clear();
            } else {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The next entry, and waits for one; `None` once `ended` is readable and all was read.
    ///
    /// # Errors
    /// [`Kind::Host`] if a file cannot be read or the log's directory not watched.
    pub fn follow(&mut self, ended: BorrowedFd<'_>) -> Result<Option<Entry>> {
        let settings = self.settings.clone();
        let failed = |e: io::Error| failed(&settings, e);
        if self.inotify.is_none() {
            self.inotify = Some(watch(&settings.path).map_err(failed)?);
        }
        let mut last = false;
        loop {
            if let Some(entry) = self.next_entry()? {
                return Ok(Some(entry));
            }
            if self.done {
                return Ok(None);
            }
            if self.find().map_err(failed)? {
                continue;
            }
            if last {
                self.done = true;
                return Ok(None);
            }
            last = self.wait(ended).map_err(failed)?;
        }
    }

    /// Waits for a change of the log; `true` if there will be none.
    fn wait(&self, ended: BorrowedFd<'_>) -> io::Result<bool> {
        let Some(changes) = &self.inotify else {
            return Ok(true);
        };
        let left = self.filter.until.map(|until| {
            let left = until.duration_since(SystemTime::now()).unwrap_or_default();
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        let mut fds = [
            PollFd::new(changes, PollFlags::IN),
            PollFd::from_borrowed_fd(ended, PollFlags::IN),
        ];
        let n = match poll(&mut fds, left.as_ref()) {
            Ok(n) => n,
            Err(Errno::INTR) => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let over = n == 0 || !fds[1].revents().is_empty();
        let mut buffer = [0; 4096];
        while rustix::io::read(changes, &mut buffer).is_ok() {}
        Ok(over)
    }

    /// After all was read: tells of files that could not be read to their end.
    ///
    /// # Errors
    /// [`Kind::Integrity`] if there is one.
    pub fn finish(&self) -> Result<()> {
        let Some(path) = &self.damaged else {
            return Ok(());
        };
        let m = format!(
            "the log's file `{}` is damaged: the rest of it was passed over",
            path.display()
        );
        Err(Error::new(Kind::Integrity, m))
    }

    /// Opens files that are newer than the one that is read; whether there are any.
    fn find(&mut self) -> io::Result<bool> {
        let mut new = newer(&self.settings, self.files.back())?;
        let found = !new.is_empty();
        self.files.append(&mut new);
        Ok(found)
    }

    /// Goes to where the last entries begin.
    fn skip_to_tail(&mut self) -> io::Result<()> {
        let Some(mut left) = self.filter.tail else {
            return Ok(());
        };
        for index in (0..self.files.len()).rev() {
            let open = &mut self.files[index];
            if open.is_packed() {
                // It can only be read from its beginning, so twice.
                let lines = pass(open, u64::MAX)?;
                open.rewind()?;
                pass(open, lines.saturating_sub(left))?;
                left = left.saturating_sub(lines);
            } else {
                let end = open.file.seek(SeekFrom::End(0))?;
                let (start, found) = lines_from_end(&mut open.file, end, left)?;
                open.file.seek(SeekFrom::Start(start))?;
                left -= found;
            }
            if left == 0 {
                self.files.drain(..index);
                break;
            }
        }
        Ok(())
    }

    fn wanted(&mut self, entry: &Entry) -> bool {
        let stream = match entry.stream {
            Stream::Stdout => self.filter.stdout,
            Stream::Stderr => self.filter.stderr,
        };
        if self.filter.since.is_none() && self.filter.until.is_none() {
            return stream;
        }
        let Ok(time) = entry.time.parse::<Timestamp>() else {
            return stream;
        };
        let time = time.as_nanosecond();
        if self.filter.until.is_some_and(|until| time > nanos(until)) {
            // Entries are in the order in which they came.
            self.done = true;
            return false;
        }
        stream && self.filter.since.is_none_or(|since| time >= nanos(since))
    }

    /// The entry of a line; what is not one is passed over.
    fn parse(&self) -> Option<Entry> {
        match self.format {
            Format::Json => json_entry(&self.line),
            Format::K8s => k8s_entry(&self.line),
            Format::Local => k8s_entry(&self.line).map(|entry| {
                let attrs = Some(self.settings.attrs.clone()).filter(|a| !a.is_empty());
                Entry { attrs, ..entry }
            }),
        }
    }
}

/// Nanoseconds since 1970.
fn nanos(time: SystemTime) -> i128 {
    let after = time.duration_since(SystemTime::UNIX_EPOCH);
    let nanos = after.map_or_else(|e| (e.duration(), -1), |d| (d, 1));
    i128::try_from(nanos.0.as_nanos()).unwrap_or(i128::MAX) * nanos.1
}

fn failed(settings: &LogFile, e: io::Error) -> Error {
    Error::host(format!("read the log `{}`", settings.path.display()), e)
}

fn watch(path: &Path) -> io::Result<OwnedFd> {
    use inotify::{CreateFlags, WatchFlags};
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    if !dir.exists() {
        fs::create_dir_all(dir)?;
    }
    let what = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&fd, dir, what)?;
    Ok(fd)
}

/// Passes over so many lines at most; how many there were. What is damaged has none.
fn pass(open: &mut Open, most: u64) -> io::Result<u64> {
    let (mut passed, mut begun) = (0, false);
    while passed < most {
        let (len, ends) = match open.reader().and_then(|r| Ok(line_piece(r.fill_buf()?))) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if open.damaged(&e) => break,
            piece => piece?,
        };
        if len == 0 {
            break;
        }
        open.reader()?.consume(len);
        begun = !ends;
        passed += u64::from(ends);
    }
    Ok(passed + u64::from(begun))
}

/// How much of it belongs to one line, and whether that ends there.
fn line_piece(bytes: &[u8]) -> (usize, bool) {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(at) => (at + 1, true),
        None => (bytes.len(), false),
    }
}

/// Where the last `wanted` lines before `end` begin, and how many there are.
fn lines_from_end(file: &mut File, end: u64, wanted: u64) -> io::Result<(u64, u64)> {
    const BLOCK: u64 = 64 << 10;
    if wanted == 0 {
        return Ok((end, 0));
    }
    let (mut at, mut found) = (end, 0);
    let mut block = Vec::new();
    while at > 0 {
        let len = at.min(BLOCK);
        at -= len;
        file.seek(SeekFrom::Start(at))?;
        block.clear();
        (&mut *file).take(len).read_to_end(&mut block)?;
        for (n, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let after = at + n as u64 + 1;
            // The newline at the very end ends the last line, it begins none.
            if after == end {
                continue;
            }
            found += 1;
            if found == wanted {
                return Ok((after, found));
            }
        }
    }
    Ok((0, found + u64::from(end > 0)))
}

fn json_entry(line: &[u8]) -> Option<Entry> {
    #[derive(Deserialize)]
    struct Line {
        log: String,
        stream: String,
        time: String,
        attrs: Option<Value>,
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    Some(Entry {
        time: line.time,
        stream: stream(&line.stream)?,
        text: line.log.into_bytes(),
        attrs: line.attrs.map(|a| a.to_string()),
    })
}

fn k8s_entry(line: &[u8]) -> Option<Entry> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || parts.next();
    let time = std::str::from_utf8(word()?).ok()?.to_owned();
    let stream = stream(std::str::from_utf8(word()?).ok()?)?;
    let whole = match word()?.first()? {
        b'F' => true,
        b'P' => false,
        _ => return None,
    };
    let text = word()?;
    let end = text.len().saturating_sub(usize::from(!whole));
    Some(Entry {
        time,
        stream,
        text: text[..end].to_owned(),
        attrs: None,
    })
}

fn stream(name: &str) -> Option<Stream> {
    [Stream::Stdout, Stream::Stderr]
        .into_iter()
        .find(|s| s.name() == name)
}
