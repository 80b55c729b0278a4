//! Small memory budgets: nothing waits for ever, and the output is the same.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs::File, time::Duration};

use unlade_unpack::{DirOptions, Expect, Owners, Unpacker, source::BytesSource};

/// Files of one byte, far apart: what waits for a writer holds a block each.
fn scattered() -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind, data: &[u8]| {
        let mut h = tar::Header::new_ustar();
        h.set_path(path).unwrap();
        h.set_entry_type(kind);
        h.set_mode(0o644);
        h.set_size(data.len() as u64);
        if kind == tar::EntryType::Symlink {
            h.set_link_name("x").unwrap();
        }
        h.set_cksum();
        out.append(&h, data).unwrap();
    };
    for i in 0..60 {
        add(&format!("f{i}"), tar::EntryType::Regular, b"1");
        for k in 0..300 {
            add(&format!("l{i}.{k}"), tar::EntryType::Symlink, b"");
        }
    }
    out.into_inner().unwrap()
}

#[test]
fn scattered_files_do_not_use_up_the_blocks() {
    let tar = scattered();
    let gz = {
        use std::io::Write;
        let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        w.write_all(&tar).unwrap();
        w.finish().unwrap()
    };
    for blob in [tar, gz] {
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let unpacker = Unpacker::new().memory_budget_bytes(Unpacker::MEMORY_LEAST_BYTES);
            let mut options = DirOptions::default();
            options.owners = Owners::Caller;
            let root = File::open(dir.path()).unwrap().into();
            let mut sink = unpacker.dir_sink(root, options).unwrap();
            let report = unpacker
                .run(BytesSource::new(blob), Expect::default(), &mut sink)
                .unwrap();
            done.send(report.counts.files).unwrap();
        });
        let files = wait
            .recv_timeout(Duration::from_secs(60))
            .expect("it waits for itself");
        assert_eq!(files, 60);
    }
}
