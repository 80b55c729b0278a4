//! What is written is what is read.

use std::{
    fs,
    io::Write,
    os::fd::AsFd,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Entry, Filter, Reader, Writer};
use crate::shim::{Log, LogFile, Stream};

fn both(path: &Path) -> [Log; 2] {
    let settings = |name: &str| LogFile {
        max_size: 10_000,
        max_files: 3,
        attrs: String::new(),
        path: path.join(name),
    };
    [
        Log::JsonFile(settings("json")),
        Log::K8sFile(settings("k8s")),
    ]
}

fn read(log: &Log, filter: &Filter) -> Vec<Entry> {
    let mut reader = Reader::open(log, filter).unwrap();
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn texts(entries: &[Entry]) -> Vec<&str> {
    let text = |e: &Entry| -> &str { Box::leak(e.text.clone().into_boxed_slice()).as_str() };
    entries.iter().map(text).collect()
}

trait AsStr {
    fn as_str(&self) -> &str;
}

impl AsStr for [u8] {
    fn as_str(&self) -> &str {
        std::str::from_utf8(self).unwrap()
    }
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for log in both(dir.path()) {
        assert_eq!(read(&log, &Filter::default()), []);
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"one\n\xc3\xbc \"<&>\"\n\n");
        w.write(Stream::Stderr, b"err\npart");
        w.end();
        let all = read(&log, &Filter::default());
        assert_eq!(texts(&all), ["one\n", "ü \"<&>\"\n", "\n", "err\n", "part"]);
        assert_eq!(all[3].stream, Stream::Stderr);
        let filter = Filter {
            stdout: false,
            ..Filter::default()
        };
        assert_eq!(texts(&read(&log, &filter)), ["err\n", "part"]);
        for (tail, want) in [(0, 0), (1, 1), (3, 3), (5, 5), (9, 5)] {
            let filter = Filter {
                tail: Some(tail),
                ..Filter::default()
            };
            assert_eq!(read(&log, &filter), all[5 - want..], "{tail}");
        }
    }
}

#[test]
fn tails_reach_into_older_files() {
    let dir = tempfile::tempdir().unwrap();
    for log in both(dir.path()) {
        let mut w = Writer::new(&log);
        for n in 0..1000 {
            w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
        }
        let all = read(&log, &Filter::default());
        assert!(all.len() > 250, "{}", all.len());
        assert_eq!(all.last().unwrap().text, b"line 999\n");
        for tail in [1, 60, 100, 150, all.len() - 1, all.len(), 100_000] {
            let filter = Filter {
                tail: Some(tail as u64),
                ..Filter::default()
            };
            let want = &all[all.len() - tail.min(all.len())..];
            assert_eq!(read(&log, &filter), want, "{tail}");
        }
    }
}

#[test]
fn since_and_until() {
    let dir = tempfile::tempdir().unwrap();
    for log in both(dir.path()) {
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"before\n");
        std::thread::sleep(Duration::from_millis(2));
        let middle = SystemTime::now();
        std::thread::sleep(Duration::from_millis(2));
        w.write(Stream::Stdout, b"after\n");
        let filter = |since, until| Filter {
            since,
            until,
            ..Filter::default()
        };
        let got = |f: Filter| read(&log, &f).len();
        assert_eq!(texts(&read(&log, &filter(Some(middle), None))), ["after\n"]);
        assert_eq!(
            texts(&read(&log, &filter(None, Some(middle)))),
            ["before\n"]
        );
        assert_eq!(got(filter(Some(middle), Some(middle))), 0);
        assert_eq!(got(filter(None, Some(SystemTime::now()))), 2);
    }
}

#[test]
fn follows_through_rotations_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for log in both(dir.path()) {
        let (ended, end) = rustix::pipe::pipe().unwrap();
        let writer_log = log.clone();
        let writer = std::thread::spawn(move || {
            let mut w = Writer::new(&writer_log);
            for n in 0..600 {
                w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
                // So slow that no file goes before it was read.
                if n % 50 == 0 {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            drop(end);
        });
        let mut reader = Reader::open(&log, &Filter::default()).unwrap();
        let mut count = 0;
        while let Some(entry) = reader.follow(ended.as_fd()).unwrap() {
            assert_eq!(entry.text.as_str(), format!("line {count}\n"));
            count += 1;
        }
        assert_eq!(count, 600);
        assert_eq!(reader.follow(ended.as_fd()).unwrap(), None);
        writer.join().unwrap();
    }
}

#[test]
fn follow_ends_at_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let [log, _] = both(dir.path());
    Writer::new(&log).write(Stream::Stdout, b"a\n");
    let filter = Filter {
        until: Some(SystemTime::now() + Duration::from_millis(50)),
        ..Filter::default()
    };
    let (never, _end) = rustix::pipe::pipe().unwrap();
    let mut reader = Reader::open(&log, &filter).unwrap();
    assert!(reader.follow(never.as_fd()).unwrap().is_some());
    assert_eq!(reader.follow(never.as_fd()).unwrap(), None);
}

#[test]
fn what_is_no_entry_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    for log in both(dir.path()) {
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"a\n");
        let (Log::JsonFile(file) | Log::K8sFile(file)) = &log else {
            unreachable!()
        };
        let mut f = fs::OpenOptions::new()
            .append(true)
            .open(&file.path)
            .unwrap();
        f.write_all(b"{\"log\":\n\nx\nT stdout\nT nowhere F x\n{}\n")
            .unwrap();
        f.write_all(&vec![b'x'; 3 << 20]).unwrap();
        f.write_all(b"\n").unwrap();
        drop(f);
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"b\n");
        assert_eq!(texts(&read(&log, &Filter::default())), ["a\n", "b\n"]);
    }
    let e = Reader::open(&Log::None, &Filter::default()).unwrap_err();
    assert!(e.hint().is_some());
}
