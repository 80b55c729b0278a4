//! What is written is what is read.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    Entry, Filter, Reader, Writer,
    files::{older, packed},
    pack,
};
use crate::shim::{Log, LogFile, Stream};

fn logs(path: &Path) -> [Log; 3] {
    let settings = |name: &str| LogFile {
        max_size: 10_000,
        max_files: 3,
        ..LogFile::at(path.join(name))
    };
    [
        Log::JsonFile(settings("json")),
        Log::K8sFile(settings("k8s")),
        Log::Local(settings("local")),
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
    for log in logs(dir.path()) {
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
    for log in logs(dir.path()) {
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
    for log in logs(dir.path()) {
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
    for log in logs(dir.path()) {
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
    let [log, ..] = logs(dir.path());
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
    for log in logs(dir.path()) {
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"a\n");
        let file = log.file().unwrap().1;
        let mut f = fs::OpenOptions::new()
            .append(true)
            .open(&file.path)
            .unwrap();
        f.write_all(b"{\"log\":\n\nx\nT stdout\nT nowhere F x\n{}\n")
            .unwrap();
        f.write_all(&vec![b'x'; 3 << 20]).unwrap();
        f.write_all(b"\n").unwrap();
        // Half a line, as after a power cut, does not spoil the next one.
        f.write_all(b"{\"log\":\"half").unwrap();
        drop(f);
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"b\n");
        assert_eq!(texts(&read(&log, &Filter::default())), ["a\n", "b\n"]);
    }
    let e = Reader::open(&Log::None, &Filter::default()).unwrap_err();
    assert!(e.hint().is_some());
}

/// The same log, of which older files may be compressed.
fn compressed(log: &Log) -> Log {
    let mut log = log.clone();
    let (Log::JsonFile(file) | Log::K8sFile(file) | Log::Local(file)) = &mut log else {
        unreachable!()
    };
    file.compress = true;
    log
}

/// Compresses an older file, and leaves the plain one.
fn compress(path: &Path, n: u32) {
    let out = File::create(packed(path, n)).unwrap();
    pack::pack(&File::open(older(path, n)).unwrap(), &out).unwrap();
}

fn thousand(log: &Log) {
    let mut w = Writer::new(log);
    for n in 0..1000 {
        w.write(Stream::Stdout, format!("line {n}\n").as_bytes());
    }
}

#[test]
fn compressed_files_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    for log in logs(dir.path()) {
        thousand(&log);
        let path = &log.file().unwrap().1.path;
        let all = read(&log, &Filter::default());
        let log = compressed(&log);
        let check = || {
            for tail in [0, 1, 60, 150, all.len() - 1, all.len(), 100_000] {
                let filter = Filter {
                    tail: Some(tail as u64),
                    ..Filter::default()
                };
                let want = &all[all.len() - tail.min(all.len())..];
                assert_eq!(read(&log, &filter), want, "{tail}");
            }
            let mut reader = Reader::open(&log, &Filter::default()).unwrap();
            let (_, ended) = rustix::pipe::pipe().unwrap();
            let got: Vec<Entry> =
                std::iter::from_fn(|| reader.follow(ended.as_fd()).unwrap()).collect();
            assert_eq!(got, all);
            reader.finish().unwrap();
        };
        // Both are there when a shim was killed in between.
        for n in [1, 2] {
            compress(path, n);
            check();
            fs::remove_file(older(path, n)).unwrap();
            check();
        }
        // A gap, from a shim that was killed while it renamed.
        fs::rename(packed(path, 2), packed(path, 3)).unwrap();
        let mut log = log.clone();
        let (Log::JsonFile(file) | Log::K8sFile(file) | Log::Local(file)) = &mut log else {
            unreachable!()
        };
        file.max_files = 4;
        assert_eq!(read(&log, &Filter::default()), all);
    }
}

/// What is read when a file was compressed and rotated goes on behind it.
#[test]
fn a_file_that_is_compressed_while_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for log in logs(dir.path()) {
        let (never, _end) = rustix::pipe::pipe().unwrap();
        let path = &log.file().unwrap().1.path;
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"one\n");
        let mut reader = Reader::open(&compressed(&log), &Filter::default()).unwrap();
        let mut next = || reader.follow(never.as_fd()).unwrap().unwrap().text;
        assert_eq!(next(), b"one\n");
        w.write(Stream::Stdout, b"two\n");
        fs::rename(path, older(path, 1)).unwrap();
        compress(path, 1);
        fs::remove_file(older(path, 1)).unwrap();
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"three\n");
        assert_eq!(next(), b"two\n");
        assert_eq!(next(), b"three\n");
        fs::rename(packed(path, 1), packed(path, 2)).unwrap();
        fs::rename(path, older(path, 1)).unwrap();
        Writer::new(&log).write(Stream::Stdout, b"four\n");
        assert_eq!(next(), b"four\n");
    }
}

#[test]
fn damaged_files_are_passed_over_and_told() {
    let dir = tempfile::tempdir().unwrap();
    for log in logs(dir.path()) {
        thousand(&log);
        let path = &log.file().unwrap().1.path;
        let whole = read(&log, &Filter::default());
        compress(path, 1);
        fs::remove_file(older(path, 1)).unwrap();
        let log = compressed(&log);
        let good = fs::read(packed(path, 1)).unwrap();
        let after = fs::read_to_string(path).unwrap().lines().count();
        for cut in [0, 1, 12, 40, 50, 60, 200, good.len() - 8, good.len() - 1] {
            fs::write(packed(path, 1), &good[..cut]).unwrap();
            for tail in [None, Some(after as u64), Some(100_000)] {
                let filter = Filter {
                    tail,
                    ..Filter::default()
                };
                let mut reader = Reader::open(&log, &filter).unwrap();
                let got: Vec<Entry> = std::iter::from_fn(|| reader.next_entry().unwrap()).collect();
                assert!(got.len() < whole.len() + 1 && got.len() >= after);
                assert_eq!(got[got.len() - after..], whole[whole.len() - after..]);
                let told = tail != Some(after as u64);
                assert_eq!(reader.finish().is_err(), told, "{cut} {tail:?}");
            }
        }
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            fs::write(packed(path, 1), &bad).unwrap();
            let got = read(&log, &Filter::default());
            assert_eq!(got[got.len() - after..], whole[whole.len() - after..]);
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn anything_is_read_without_a_panic(
        new in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        old in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        head in proptest::bool::ANY,
        tail in proptest::option::of(0_u64..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for log in logs(dir.path()) {
            let path = &log.file().unwrap().1.path;
            fs::write(path, &new).unwrap();
            let mut old = old.clone();
            if head {
                old.splice(0..0, [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 3]);
            }
            fs::write(packed(path, 1), &old).unwrap();
            let filter = Filter { tail, ..Filter::default() };
            read(&compressed(&log), &filter);
        }
    }
}

/// A log that takes no more than a pipe does, until somebody reads.
fn pipe_log(path: &Path, buffer: Option<u64>) -> Log {
    use rustix::fs::{CWD, FileType, Mode};
    let fifo = path.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    Log::K8sFile(LogFile {
        max_size: 0,
        buffer,
        ..LogFile::at(fifo)
    })
}

#[test]
fn a_stuck_disk_drops_what_finds_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let log = pipe_log(dir.path(), Some(100_000));
    let mut w = Writer::new(&log);
    let line = |n: usize| format!("{n:0>99}\n");
    for n in 0..10_000 {
        w.write(Stream::Stdout, line(n).as_bytes());
    }
    w.write(Stream::Stderr, &[b'x'; 200]);
    w.end();
    assert!(!w.settled());
    let path = log.file().unwrap().1.path.clone();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let fifo = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    let (mut got, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let settled = w.settled();
        match rustix::io::read(&fifo, &mut buffer) {
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(_) if settled => break,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(w.waits_for().is_some());
    w.turn();
    assert!(w.waits_for().is_none());
    w.close();
    // What comes is in order, and what does not is counted where it is missing.
    let (mut lines, mut bytes, mut kept) = (0, 0, 0);
    for text in String::from_utf8(got).unwrap().lines() {
        let text = text.splitn(4, ' ').nth(3).unwrap();
        if let Some(said) = text.strip_prefix("unlade: ") {
            let mut numbers = said.split(' ').filter_map(|w| w.parse::<usize>().ok());
            lines += numbers.next().unwrap();
            bytes += numbers.next().unwrap();
        } else {
            assert_eq!(format!("{text}\n"), line(kept + lines));
            kept += 1;
        }
    }
    assert_eq!((lines + kept, bytes + 100 * kept), (10_001, 1_000_200));
    // What the buffer takes, and the pipe after the thread has written some.
    assert!((800..9000).contains(&kept), "{kept}");
}

#[test]
fn a_quick_disk_gets_all_of_a_buffer() {
    let dir = tempfile::tempdir().unwrap();
    for log in logs(dir.path()) {
        let mut log = log.clone();
        let (Log::JsonFile(file) | Log::K8sFile(file) | Log::Local(file)) = &mut log else {
            unreachable!()
        };
        (file.buffer, file.max_size) = (Some(1 << 20), 0);
        let settle = |w: &Writer| {
            while !w.settled() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let mut w = Writer::new(&log);
        w.write(Stream::Stdout, b"one\ntwo");
        w.end();
        settle(&w);
        let (Log::JsonFile(file) | Log::K8sFile(file) | Log::Local(file)) = &mut log else {
            unreachable!()
        };
        file.buffer = Some(1);
        let mut w = Writer::new(&log);
        // It is alone.
        w.write(Stream::Stdout, b"larger than the buffer\n");
        w.end();
        settle(&w);
        let all = read(&log, &Filter::default());
        assert_eq!(texts(&all), ["one\n", "two", "larger than the buffer\n"]);
    }
}
