//! The store when processes die, disks fill up and fail, and machines go down.
#![allow(missing_docs, clippy::exit, clippy::unwrap_used)]

mod support {
    #![allow(dead_code, unreachable_pub, reason = "every test binary uses a part")]
    pub mod driver;
    pub mod store;
}

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

#[cfg(feature = "failpoints")]
use support::store::Home;
use support::store::{Recipe, open_in, recipe, sha};
#[cfg(feature = "failpoints")]
use unlade_engine::store::{Finding, Problem};
use unlade_engine::{
    error::Kind,
    store::{Durability, Ingest, RemoveOptions, Store, StoreOptions},
};
use unlade_graph::driver::LayerId;
use unlade_unpack::Cancel;

const BOOT: &str = "boot";
const HELPER: &str = "UNLADE_STORE_HELPER";

#[cfg(feature = "failpoints")]
fn old() -> Recipe {
    recipe("old", &["base layer", "old layer"])
}

fn new() -> Recipe {
    recipe("new", &["base layer", "new layer"])
}

/// What a helper process does; not a test of its own.
#[test]
fn helper() {
    let Ok(job) = std::env::var(HELPER) else {
        return;
    };
    let (job, root) = job.split_once(' ').unwrap();
    let home = open_in(Path::new(root), BOOT);
    let done = home.and_then(|home| match job {
        "pull" => home.pull(&new(), &["x"], &["docker.io/library/x"]),
        "remove" => {
            home.store.remove_image("x", RemoveOptions::default())?;
            home.store.gc(&home.driver, &Default::default()).map(|_| ())
        }
        "flush" => home.store.flush(&home.driver),
        "verify" => {
            home.assert_clean();
            home.pull(&new(), &["x"], &["docker.io/library/x"])?;
            home.assert_clean();
            assert_eq!(home.names(), ["docker.io/library/x:latest"]);
            Ok(())
        }
        "half" => {
            let lease = home.store.lease("half")?;
            let layer = b"half a layer";
            let Ingest::Write(mut writer) =
                home.store
                    .ingest(&lease, &sha(layer), layer.len() as u64, &Cancel::new())?
            else {
                panic!("it is there");
            };
            if writer.is_empty() {
                writer.write(&layer[..4])?;
            }
            println!("\nready");
            loop {
                std::thread::park();
            }
        }
        "fetch" => {
            let lease = home.store.lease("fetch")?;
            let fetched = home.fetch(&lease, &vec![b'z'; 1 << 16])?;
            println!("\nfetched {fetched}");
            Ok(())
        }
        "loop" => {
            for n in 0..12 {
                let image = recipe(&format!("{n}"), &["shared", &format!("own {}", n % 3)]);
                let name = format!("n{}", n % 4);
                home.pull(&image, &[&name], &[])?;
                // Another process may have removed it, or moved its name; it is never damaged.
                match home.store.resolve(&name) {
                    Ok(image) => assert!(!image.broken),
                    Err(e) => assert_eq!(e.kind(), Kind::NotFound, "{e}"),
                }
                let _ = home.store.remove_image(&name, RemoveOptions::default());
                home.store.gc(&home.driver, &Default::default())?;
            }
            Ok(())
        }
        other => panic!("{other}"),
    });
    if let Err(e) = done {
        println!("\nfailed {:?} {e}", e.kind());
        std::process::exit(3);
    }
}

fn helper_command(job: &str, root: &Path, failpoint: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["helper", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(HELPER, format!("{job} {}", root.display()));
    command.env("UNLADE_FAILPOINT", failpoint);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts a helper and waits until it says that it is ready.
fn start(job: &str, root: &Path) -> Child {
    let mut child = helper_command(job, root, "").spawn().unwrap();
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|l| l == "ready"));
    child
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(done.success());
}

#[cfg(feature = "failpoints")]
/// All is well, and what the helper did is either done or not; then it is done.
fn assert_whole(root: &Path, what: &str) -> Home {
    let home = open_in(root, BOOT).unwrap();
    let report = home.check();
    // What a failed flush has cost is said, and not listed.
    let lost = |f: &Finding| what.starts_with("flush") && f.problem == Problem::Incomplete;
    assert!(
        report.findings.iter().all(lost),
        "{what}: {:#?}",
        report.findings
    );
    for image in home.store.images().unwrap() {
        let layers = home.store.image_layers(&image).unwrap();
        assert_eq!(layers.len(), 2, "{what}");
        assert!([old().id(), new().id()].contains(&image.id), "{what}");
    }
    home
}

#[cfg(feature = "failpoints")]
mod sweeps {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const POINTS: &[&str] = &[
        "store-open",
        "store-create",
        "store-migrate",
        "store-migrated",
        "store-commit",
        "store-committed",
        "store-write",
        "store-rename",
        "store-renamed",
        "store-discard",
        "store-unlink",
        "store-sweep-layer",
        "store-gc-marked",
        "store-gc-swept",
        "store-flush",
        "store-syncfs",
        "store-flushed",
        "driver-rename",
        "driver-renamed",
    ];

    /// Runs the jobs on copies of `seed` and stops them at every point that is `wanted`, each
    /// time it is passed.
    fn sweep(
        seed: &Path,
        jobs: &[&str],
        action: &str,
        wanted: impl Fn(&str) -> bool,
        then: impl Fn(&Home, &str),
    ) -> usize {
        let dir = tempfile::tempdir().unwrap();
        let mut runs = 0;
        for job in jobs {
            for point in POINTS.iter().filter(|p| wanted(p)) {
                for n in 1.. {
                    let root = dir.path().join("store");
                    copy(seed, &root);
                    let failpoint = format!("{point}:{n}:{action}");
                    let what = format!("{job} {failpoint}");
                    let out = helper_command(job, &root, &failpoint).output().unwrap();
                    let hit = out.status.signal() == Some(9) || out.status.code() == Some(3);
                    assert!(hit || out.status.success(), "{what}: {out:?}");
                    let home = assert_whole(&root, &what);
                    then(&home, &what);
                    drop(home);
                    fs::remove_dir_all(&root).unwrap();
                    if !hit && out.status.success() {
                        break;
                    }
                    runs += 1;
                }
            }
        }
        runs
    }

    fn seeded() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let home = open_in(dir.path(), BOOT).unwrap();
        home.pull(&old(), &["x"], &["docker.io/library/x"]).unwrap();
        dir
    }

    /// The job succeeds when it is done again, and leaves nothing but what it should.
    fn finish(home: &Home, what: &str) {
        home.pull(&new(), &["x"], &["docker.io/library/x"]).unwrap();
        home.assert_clean();
        assert_eq!(home.store.resolve("x").unwrap().id, new().id(), "{what}");
        for image in home.store.images().unwrap() {
            home.store
                .remove_image(&image.id.to_string(), RemoveOptions::default())
                .unwrap();
        }
        home.gc();
        home.assert_clean();
        let left = (home.layers_on_disk(), home.blobs_on_disk(), home.partials());
        assert_eq!(left, (0, 0, 0), "{what}");
    }

    #[test]
    fn killed_at_every_step() {
        let (seed, all) = (seeded(), |_: &str| true);
        let jobs = ["pull", "remove", "flush"];
        assert!(sweep(seed.path(), &jobs, "kill", all, finish) > 60);
        let empty = tempfile::tempdir().unwrap();
        assert!(sweep(empty.path(), &["pull"], "kill", all, finish) > 40);
    }

    #[test]
    fn failing_at_every_step() {
        let seed = seeded();
        let jobs = ["pull", "remove"];
        assert!(sweep(seed.path(), &jobs, "EIO", |_| true, finish) > 50);
        let opened = |p: &str| p == "store-open";
        assert!(sweep(seed.path(), &jobs, "EMFILE", opened, finish) > 5);
        let written = |p: &str| ["store-write", "store-commit", "store-rename"].contains(&p);
        assert!(sweep(seed.path(), &jobs, "ENOSPC", written, finish) > 10);
        // A flush that fails costs what was not flushed, and that is not listed any more.
        let runs = sweep(
            seed.path(),
            &["flush"],
            "EIO",
            |_| true,
            |home, what| {
                if what.contains("flush:1:") || what.contains("syncfs:1:") {
                    assert!(home.store.images().unwrap().is_empty(), "{what}");
                }
            },
        );
        assert!(runs > 4, "{runs}");
    }
}

#[test]
fn a_blob_is_fetched_once_by_many_processes() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), BOOT).unwrap();
    let children: Vec<_> = (0..6)
        .map(|_| helper_command("fetch", dir.path(), "").spawn().unwrap())
        .collect();
    let mut fetched = 0;
    for child in children {
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}");
        fetched += usize::from(text.contains("fetched true"));
    }
    assert_eq!((fetched, home.blobs_on_disk(), home.partials()), (1, 1, 0));
}

#[test]
fn a_blob_without_its_record_is_taken_and_not_fetched_again() {
    let (good, bad, gone) = (&b"whole"[..], &b"not whole"[..], &b"to go"[..]);
    for (lease, adopted) in [("pull x", 2), ("sweep", 0)] {
        let dir = tempfile::tempdir().unwrap();
        drop(open_in(dir.path(), BOOT).unwrap());
        // As a process leaves it that is killed between the rename and the record.
        let put = |name: &[u8], bytes: &[u8]| {
            let hex = sha(name).hex();
            fs::write(dir.path().join("blobs/sha256").join(hex), bytes).unwrap();
        };
        put(good, good);
        put(bad, b"something else");
        put(gone, gone);
        let db = rusqlite::Connection::open(dir.path().join("unlade.db")).unwrap();
        db.execute(
            "INSERT INTO leases (what, pid, start, pid_namespace, boot)
             SELECT ?1, 1 << 30, 1, 0, 'earlier'",
            [lease],
        )
        .unwrap();
        let home = open_in(dir.path(), BOOT).unwrap();
        assert_eq!(home.blobs_on_disk(), adopted, "{lease}");
        home.assert_clean();
        let held = home.store.lease("pull").unwrap();
        assert_eq!(home.fetch(&held, good).unwrap(), adopted == 0);
        assert!(home.fetch(&held, bad).unwrap());
        // What nobody wants goes as everything does.
        home.gc();
        assert_eq!(home.blobs_on_disk(), 2, "{lease}");
        home.assert_clean();
    }
}

#[test]
fn whoever_waits_takes_over_from_the_dead() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), BOOT).unwrap();
    let layer = b"half a layer";
    let mut child = start("half", dir.path());
    // Alive: waited for until it is cancelled.
    let lease = home.store.lease("test").unwrap();
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| home.store.ingest(&lease, &sha(layer), 12, &cancel));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waiting.is_finished());
        cancel.cancel();
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), Kind::Cancelled);
    });
    // A lease of the living is left alone, and its partial blob.
    home.gc();
    assert_eq!(home.partials(), 1);
    home.assert_clean();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| home.store.ingest(&lease, &sha(layer), 12, &Cancel::new()));
        std::thread::sleep(Duration::from_millis(100));
        child.kill().unwrap();
        child.wait().unwrap();
        let Ingest::Write(mut writer) = waiting.join().unwrap().unwrap() else {
            panic!()
        };
        assert_eq!(writer.resume_at(), 4);
        assert!(writer.write(&[0; 9]).is_err());
        writer.write(&layer[4..]).unwrap();
        writer.verify_and_commit(&Cancel::new()).unwrap();
    });
    drop(lease);
    assert_eq!(home.check().findings.len(), 1, "the lease of the dead");
    let again = open_in(dir.path(), BOOT).unwrap();
    again.assert_clean();
    // It was of no image.
    assert_eq!(again.gc().blobs.len(), 1);
}

#[test]
fn a_stuck_writer_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(dir.path(), "copy");
    options.boot_id = Some(BOOT.into());
    options.ingest_stall = Duration::from_millis(300);
    let home = support::store::open(options).unwrap();
    let mut child = start("half", dir.path());
    let lease = home.store.lease("test").unwrap();
    let layer = b"half a layer";
    assert!(home.fetch(&lease, layer).unwrap());
    assert_eq!(home.blobs_on_disk(), 1);
    // Given up, a private file is not kept; the other's is.
    let Ingest::Write(mut writer) = home
        .store
        .ingest(&lease, &sha(b"another"), 7, &Cancel::new())
        .unwrap()
    else {
        panic!()
    };
    writer.write(b"ano").unwrap();
    drop(writer);
    assert_eq!(home.partials(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    // Wrong bytes do not get the name, and are not kept.
    let Ingest::Write(mut writer) = home
        .store
        .ingest(&lease, &sha(b"another"), 7, &Cancel::new())
        .unwrap()
    else {
        panic!()
    };
    assert_eq!(writer.resume_at(), 3);
    writer.restart().unwrap();
    writer.write(b"anotheR").unwrap();
    let e = writer.verify_and_commit(&Cancel::new()).unwrap_err();
    assert_eq!((e.kind(), home.blobs_on_disk()), (Kind::Integrity, 1));
    assert!(home.fetch(&lease, b"another").unwrap());
}

#[test]
fn processes_at_once_give_some_serial_order() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_in(dir.path(), BOOT).unwrap());
    let children: Vec<_> = (0..4)
        .map(|_| helper_command("loop", dir.path(), "").spawn().unwrap())
        .collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        // A name may have moved or gone to another process's removal; nothing else may fail.
        assert!(
            out.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    let home = open_in(dir.path(), BOOT).unwrap();
    home.assert_clean();
    for image in home.store.images().unwrap() {
        home.store
            .remove_image(&image.id.to_string(), RemoveOptions::default())
            .unwrap();
    }
    home.gc();
    assert_eq!((home.layers_on_disk(), home.blobs_on_disk()), (0, 0));
}

#[test]
fn a_power_cut_costs_what_was_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), "one").unwrap();
    let (a, b) = (recipe("a", &["base", "a"]), recipe("b", &["base", "b"]));
    home.pull(&a, &["a"], &[]).unwrap();
    home.store.flush(&home.driver).unwrap();
    assert_eq!(home.store.unflushed().unwrap(), None);
    home.pull(&b, &["b"], &[]).unwrap();
    let unflushed = home.store.unflushed().unwrap().unwrap();
    assert_eq!((unflushed.layers, unflushed.blobs), (1, 3));
    let lease = home.store.lease("pull").unwrap();
    let Ingest::Write(mut writer) = home
        .store
        .ingest(&lease, &sha(b"partial"), 7, &Cancel::new())
        .unwrap()
    else {
        panic!()
    };
    writer.write(b"par").unwrap();
    drop(writer);
    std::mem::forget(lease);
    // A stray of the earlier boot, which the driver would take for a good layer.
    let stray = LayerId::of(&sha(b"stray"));
    home.driver.publish(&stray, b"stray").unwrap();
    drop(home);
    // Nothing was lost: all of it is verified and good.
    let copy_dir = tempfile::tempdir().unwrap();
    let copied = copy_dir.path().join("store");
    copy(dir.path(), &copied);
    let home = support::store::open({
        let mut options = StoreOptions::new(&copied, "copy");
        options.boot_id = Some("two".into());
        options
    })
    .unwrap();
    assert_eq!(home.names().len(), 2);
    assert_eq!(
        (home.store.unflushed().unwrap(), home.partials()),
        (None, 0)
    );
    assert!(!home.driver.layer(&stray).exists());
    home.assert_clean();
    // A layer's data were lost; before it was looked at, its image is not listed.
    let layer = home_layer(dir.path(), b"b");
    fs::write(layer.join("data"), "").unwrap();
    let mut options = StoreOptions::new(dir.path(), "copy");
    options.boot_id = Some("two".into());
    let store = Store::open(&options).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.suspects().unwrap().layers.len(), 1);
    assert_eq!(store.resolve("b").unwrap_err().kind(), Kind::Integrity);
    let lease = store.lease("x").unwrap();
    assert_eq!(store.commit_guard(&lease).unwrap_err().kind(), Kind::Bug);
    let home = support::store::open(options).unwrap();
    assert_eq!(home.names(), ["docker.io/library/a:latest"]);
    let broken = home.store.broken_images().unwrap();
    assert_eq!(
        (
            broken.len(),
            broken[0].layers.len(),
            broken[0].documents.len()
        ),
        (1, 1, 0)
    );
    assert_eq!(broken[0].image.names, ["docker.io/library/b:latest"]);
    // Fetched again, it is listed again.
    home.add_layer(&lease, b"b").unwrap();
    home.store.mend(&lease, &broken[0].image).unwrap();
    drop(lease);
    home.assert_clean();
    assert_eq!(home.names().len(), 2);
}

fn home_layer(root: &Path, content: &[u8]) -> std::path::PathBuf {
    root.join("graph/copy/layers")
        .join(LayerId::of(&sha(content)).as_str())
}

#[test]
fn with_sync_an_image_is_flushed_before_it_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = StoreOptions::new(dir.path(), "copy");
    options.durability = Durability::Sync;
    let home = support::store::open(options).unwrap();
    let a = recipe("a", &["x"]);
    assert_eq!(home.pull(&a, &["a"], &[]).unwrap_err().kind(), Kind::Bug);
    home.store.flush(&home.driver).unwrap();
    home.pull(&a, &["a"], &[]).unwrap();
    assert_eq!(home.driver.flushes.load(Ordering::Relaxed), 1);
    assert_eq!(home.store.unflushed().unwrap(), None);
}

#[test]
fn a_failed_flush_is_not_believed_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let home = open_in(dir.path(), BOOT).unwrap();
    let (a, b) = (recipe("a", &["base"]), recipe("b", &["base", "b"]));
    home.pull(&a, &["a"], &[]).unwrap();
    home.store.flush(&home.driver).unwrap();
    home.pull(&b, &["b"], &[]).unwrap();
    let running = home.store.lease("pull").unwrap();
    home.driver.fail_flush.store(true, Ordering::Relaxed);
    let e = home.store.flush(&home.driver).unwrap_err();
    assert!(
        e.raw_os_error() == Some(libc::EIO) && e.hint().is_some(),
        "{e}"
    );
    home.driver.fail_flush.store(false, Ordering::Relaxed);
    assert_eq!(home.names(), ["docker.io/library/a:latest"]);
    assert_eq!(home.store.unflushed().unwrap(), None);
    assert!(!home_layer(dir.path(), b"b").exists());
    // What ran meanwhile cannot publish what it has written.
    assert_eq!(
        home.add_layer(&running, b"b").unwrap_err().kind(),
        Kind::Host
    );
    assert!(home.store.put_blob(&running, &b.id(), &b.config).is_err());
    drop(running);
    home.pull(&b, &["b"], &[]).unwrap();
    home.assert_clean();
    // A layer that cannot be taken away is not taken for good either.
    home.driver.fail_flush.store(true, Ordering::Relaxed);
    home.driver.busy.store(true, Ordering::Relaxed);
    assert!(home.store.flush(&home.driver).is_err());
    home.driver.fail_flush.store(false, Ordering::Relaxed);
    home.store.flush(&home.driver).unwrap();
    assert_eq!(
        home.pull(&b, &["b"], &[]).unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(home.store.suspects().unwrap().layers.len(), 1);
    drop(home);
    let home = open_in(dir.path(), "next boot").unwrap();
    home.pull(&b, &["b"], &[]).unwrap();
    home.assert_clean();
}
