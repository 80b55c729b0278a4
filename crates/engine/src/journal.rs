//! The journal of what happens: lines of JSON that everyone appends to.
//!
//! `RUN_ROOT/events` is a file of this boot; once it is long it becomes `events.1`, and what was
//! there before goes. What happens to a container while it runs is told by its shim, in one order;
//! it gives attributes with its first event only.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Length at which a new file is begun, in bytes.
const MAX_BYTES: u64 = 8 << 20;
/// Longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;
/// How often the lock of a file is asked for that somebody else has, and how long is waited
/// between. Whoever is stopped with it stops nobody.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// What something has happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    /// A container.
    #[default]
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Object {
    /// Docker's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    fn is_container(&self) -> bool {
        *self == Self::Container
    }
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// What it has happened to.
    #[serde(rename = "type", skip_serializing_if = "Object::is_container")]
    pub object: Object,
    /// Id of the container, the image or the network; a volume's name.
    pub id: String,
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What: docker's word.
    pub action: String,
    /// How it ended, of `die` and `exec_die`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Id of the further process, of `exec_die`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
    /// Name, labels and what belongs to the action.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// The journal.
#[derive(Debug, Clone)]
pub struct Journal(PathBuf);

impl Journal {
    /// That of a run root.
    pub fn new(run_root: &Path) -> Self {
        Self(run_root.join("events"))
    }

    /// The one in a file.
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn older(&self) -> PathBuf {
        self.0.with_extension("1")
    }

    /// Notes what happens now to something.
    pub fn note(
        &self,
        object: Object,
        id: &str,
        action: &str,
        attributes: BTreeMap<String, String>,
    ) {
        self.tell(&Event {
            object,
            id: id.to_owned(),
            time: jiff::Timestamp::now().to_string(),
            action: action.to_owned(),
            attributes,
            ..Event::default()
        });
    }

    /// Notes that what nobody needs was removed, and how many bytes that has freed.
    pub fn note_prune(&self, object: Object, bytes: u64) {
        let attributes = [("reclaimed".to_owned(), bytes.to_string())].into();
        self.note(object, "", "prune", attributes);
    }

    /// Notes what has happened. A journal that cannot be written to stops nobody.
    pub fn tell(&self, event: &Event) {
        if let Err(e) = self.append(event) {
            tracing::debug!(error = %e, "an event is lost");
        }
    }

    fn append(&self, event: &Event) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = self.current()?;
        if file.metadata()?.len() > MAX_BYTES {
            fs::rename(&self.0, self.older())?;
            file = self.current()?;
        }
        // One write: lines of several processes do not mix.
        file.write_all(&line)
    }

    /// The file that is written to, locked: nobody makes it an older one meanwhile.
    fn current(&self) -> std::io::Result<File> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = options.open(&self.0)?;
        for _ in 0..LOCK_TRIES {
            let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            let now = fs::metadata(&self.0).map_or(0, |now| now.ino());
            if file.metadata()?.ino() != now {
                file = options.open(&self.0)?;
            } else if locked {
                break;
            } else {
                thread::sleep(LOCK_PAUSE);
            }
        }
        Ok(file)
    }

    /// Reads from the beginning.
    ///
    /// # Errors
    /// If a file that is there cannot be read.
    pub fn read(&self) -> Result<Reader> {
        let mut files: Vec<BufReader<File>> = Vec::new();
        // The older one last: what becomes that meanwhile is not passed over.
        for path in [self.0.clone(), self.older()] {
            let failed = |e| Error::host(format!("read `{}`", path.display()), e);
            match File::open(&path) {
                Ok(file) => {
                    let number = file.metadata().map_err(failed)?.ino();
                    let same = |f: &BufReader<File>| {
                        f.get_ref().metadata().is_ok_and(|m| m.ino() == number)
                    };
                    if !files.iter().any(same) {
                        files.push(BufReader::new(file));
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(Reader {
            journal: self.clone(),
            files,
            over: false,
            known: BTreeMap::new(),
            half: Vec::new(),
        })
    }
}

/// Reads a journal, and what is appended to it.
#[derive(Debug)]
pub struct Reader {
    journal: Journal,
    /// What is yet to be read, the oldest last.
    files: Vec<BufReader<File>>,
    /// Attributes by container, for events that shims wrote.
    known: BTreeMap<String, BTreeMap<String, String>>,
    half: Vec<u8>,
    /// The file is not written to any more, and is read once more to its end.
    over: bool,
}

impl Reader {
    /// The next event; `None` for none yet.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let failed = |e| Error::host("read the journal of events", e);
        loop {
            let Some(file) = self.files.last_mut() else {
                if !self.reopen()? {
                    return Ok(None);
                }
                continue;
            };
            let read = file.read_until(b'\n', &mut self.half).map_err(failed)?;
            if read > 0 && self.half.ends_with(b"\n") {
                let line = std::mem::take(&mut self.half);
                if line.len() <= MAX_LINE
                    && let Ok(event) = serde_json::from_slice::<Event>(&line)
                {
                    return Ok(Some(self.complete(event)));
                }
                continue;
            }
            if self.files.len() > 1 {
                self.half.clear();
                self.files.pop();
                continue;
            }
            if !self.over {
                if !self.replaced()? {
                    return Ok(None);
                }
                self.over = true;
                continue;
            }
            self.over = false;
            self.files.pop();
            self.half.clear();
        }
    }

    /// Whether the file at the journal's path is another one than that which was read to its end.
    fn replaced(&self) -> Result<bool> {
        let Some(file) = self.files.last() else {
            return Ok(true);
        };
        let ours = file
            .get_ref()
            .metadata()
            .map_err(|e| Error::host("look at a journal", e))?;
        match fs::metadata(&self.journal.0) {
            Ok(now) => Ok(now.ino() != ours.ino()),
            Err(_) => Ok(false),
        }
    }

    fn reopen(&mut self) -> Result<bool> {
        match File::open(&self.journal.0) {
            Ok(mut file) => {
                file.rewind()
                    .map_err(|e| Error::host("read a journal", e))?;
                self.files.push(BufReader::new(file));
                Ok(true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::host("read the journal of events", e)),
        }
    }

    /// Gives an event that a shim wrote what others knew of its container.
    fn complete(&mut self, mut event: Event) -> Event {
        if event.object != Object::Container {
            return event;
        }
        if event.attributes.is_empty() {
            event.attributes = self.known.get(&event.id).cloned().unwrap_or_default();
            let more = [
                ("exitCode", event.exit_code.map(|c| c.to_string())),
                ("execID", event.exec.clone()),
            ];
            for (key, value) in more {
                event
                    .attributes
                    .extend(value.map(|value| (key.to_owned(), value)));
            }
            return event;
        }
        match &*event.action {
            "destroy" => drop(self.known.remove(&event.id)),
            // The others are of one moment only, and some come after the end of all.
            "create" | "start" | "rename" | "update" => {
                let mut all = event.attributes.clone();
                all.remove("oldName");
                self.known.insert(event.id.clone(), all);
            }
            _ => {}
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn events_are_read_as_they_come() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        let mut reader = journal.read().unwrap();
        assert_eq!(reader.next_event().unwrap(), None);
        let event = |id: &str, action: &str| Event {
            id: id.into(),
            action: action.into(),
            attributes: [("name".to_owned(), format!("n{id}"))].into(),
            ..Event::default()
        };
        journal.append(&event("1", "create")).unwrap();
        let mut read = || {
            let event = reader.next_event().unwrap();
            event.map(|e| {
                (
                    e.id,
                    e.action,
                    e.attributes.get("name").cloned().unwrap_or_default(),
                )
            })
        };
        let is =
            |id: &str, action: &str| Some((id.to_owned(), action.to_owned(), format!("n{id}")));
        assert_eq!((read(), read()), (is("1", "create"), None));
        // A shim's, and half a line.
        let mut file = OpenOptions::new()
            .append(true)
            .open(journal.path())
            .unwrap();
        file.write_all(
            b"{\"id\":\"1\",\"time\":\"t\",\"action\":\"die\",\"exit_code\":3}\nnonsense\n{\"id\"",
        )
        .unwrap();
        assert_eq!((read(), read()), (is("1", "die"), None));
        file.write_all(b":\"2\",\"action\":\"x\",\"attributes\":{\"name\":\"n2\"}}\n")
            .unwrap();
        assert_eq!((read(), read()), (is("2", "x"), None));
        // What belongs to one event is not told of the next.
        let mut ended = event("1", "exec_die");
        ended.attributes.insert("exitCode".into(), "7".into());
        journal.append(&ended).unwrap();
        file.write_all(b"{\"id\":\"1\",\"action\":\"oom\"}\n")
            .unwrap();
        assert_eq!(read(), is("1", "exec_die"));
        let oom = reader.next_event().unwrap().unwrap();
        assert_eq!(oom.attributes, event("1", "").attributes);
        let mut read = || {
            let event = reader.next_event().unwrap();
            event.map(|e| {
                let name = e.attributes.get("name").cloned().unwrap_or_default();
                (e.id, e.action, name)
            })
        };
        // A new file is gone over to.
        file.set_len(MAX_BYTES + 1).unwrap();
        journal.append(&event("3", "create")).unwrap();
        assert_eq!((read(), read()), (is("3", "create"), None));
        assert_eq!(
            journal.read().unwrap().next_event().unwrap().unwrap().id,
            "1"
        );
    }

    #[test]
    fn many_who_begin_new_files_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        let mut reader = journal.read().unwrap();
        let many = 2000_usize;
        let far = AtomicUsize::new(0);
        let seen = thread::scope(|scope| {
            for who in 0..4 {
                let (journal, far) = (&journal, &far);
                scope.spawn(move || {
                    for n in 0..many {
                        // Who is a whole file behind would miss it.
                        while n > far.load(Ordering::Relaxed) / 4 + 200 {
                            thread::yield_now();
                        }
                        // Long, so that files are full often.
                        let attributes = [("x".to_owned(), "y".repeat(4000))].into();
                        journal.note(Object::Volume, &format!("{who} {n}"), "mount", attributes);
                    }
                });
            }
            let mut seen = std::collections::BTreeSet::new();
            while seen.len() < 4 * many {
                match reader.next_event().unwrap() {
                    Some(event) => {
                        assert!(seen.insert(event.id.clone()), "{} twice", event.id);
                        far.store(seen.len(), Ordering::Relaxed);
                    }
                    None => thread::yield_now(),
                }
            }
            seen
        });
        assert_eq!(seen.len(), 4 * many);
        assert!(journal.older().exists());
    }
}
