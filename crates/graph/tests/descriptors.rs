//! A process that has no descriptors left; alone here, since the limit is the whole process's.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs::{self, File};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unlade_graph::layout::Layout;

#[test]
fn a_staging_place_goes_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::open(dir.path()).unwrap();
    let place = layout.stage().unwrap();
    let staging = dir.path().join("staging");
    let at = fs::read_dir(&staging).unwrap().next().unwrap().unwrap();
    for n in 0..3 {
        let deep = at.path().join(format!("tree/{n}/{}", "d/".repeat(40)));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
    }
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(64),
        ..limit
    };
    setrlimit(Resource::Nofile, few).unwrap();
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    drop(place);
    drop(held);
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 0);
}
