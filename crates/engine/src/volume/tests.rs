//! Volumes on the real file system.

use std::{
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::PathBuf,
};

use super::*;
use crate::{
    error::{Kind, Result},
    spec::{
        RuntimeFacts,
        request::{Mount, Nothing, Request, VolumeOptions},
    },
    store::StoreOptions,
};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn no_layers(_: &[String]) -> Result<std::os::fd::OwnedFd> {
    panic!("no image is mounted");
}

struct World {
    dir: tempfile::TempDir,
    volumes: Volumes,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::new(dir.path().join("root"), "copy")).unwrap();
        let volumes = Volumes::new(&store, &dir.path().join("run"));
        fs::create_dir(dir.path().join("rootfs")).unwrap();
        Self { dir, volumes }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn resolve(&self, id: &str, planned: &[Planned]) -> Resolved {
        let root = File::open(self.rootfs()).unwrap();
        let facts = RuntimeFacts {
            recursive_read_only: true,
            ..RuntimeFacts::default()
        };
        self.volumes
            .resolve(id, planned, root.as_fd(), &facts, &no_layers)
            .unwrap()
    }

    /// Runs a container once; the host's path of each mount.
    fn once(&self, id: &str, request: &Request) -> (Vec<Planned>, Vec<PathBuf>) {
        let planned = self.volumes.plan(id, request, &[]).unwrap();
        let resolved = self.resolve(id, &planned);
        let sources = resolved.mounts.iter();
        let paths = sources.map(|m| m.source().clone().unwrap()).collect();
        (planned, paths)
    }
}

fn volumes(paths: &[&str]) -> Request {
    let mut request = Request::default();
    for path in paths {
        request
            .config
            .volumes
            .insert((*path).to_owned(), Nothing {});
    }
    request
}

fn binds(texts: &[&str]) -> Request {
    let mut request = Request::default();
    request.host_config.binds = texts.iter().map(|t| (*t).to_owned()).collect();
    request
}

#[test]
fn a_new_volume_gets_what_the_image_has() {
    let world = World::new();
    let data = world.rootfs().join("data");
    fs::create_dir_all(data.join("sub")).unwrap();
    fs::write(data.join("file"), "text").unwrap();
    fs::hard_link(data.join("file"), data.join("sub/link")).unwrap();
    symlink("/etc/passwd", data.join("symlink")).unwrap();
    fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o1770)).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        for path in [data.clone(), data.join("file")] {
            chown(&path, Some(1234), Some(99)).unwrap();
        }
        // A change of owner takes the bit away.
        fs::set_permissions(data.join("file"), fs::Permissions::from_mode(0o4750)).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    let marked = rustix::fs::setxattr(data.join("file"), "user.mark", b"7", flags).is_ok();

    let (planned, paths) = world.once(A, &volumes(&["/data", "/nothing/there"]));
    let there = &paths[0];
    assert_eq!(fs::read_to_string(there.join("file")).unwrap(), "text");
    let meta = |p: &Path| fs::symlink_metadata(p).unwrap();
    let file = meta(&there.join("file"));
    assert_eq!(file.mode() & 0o7777, 0o4750);
    assert_eq!(meta(there).mode() & 0o7777, 0o1770);
    assert_eq!(file.ino(), meta(&there.join("sub/link")).ino());
    assert_eq!(file.mtime_nsec(), meta(&data.join("file")).mtime_nsec());
    assert_eq!(
        fs::read_link(there.join("symlink")).unwrap(),
        Path::new("/etc/passwd")
    );
    if root {
        assert_eq!(
            (file.uid(), file.gid(), meta(there).uid()),
            (1234, 99, 1234)
        );
    }
    if marked {
        let mut value = [0; 8];
        let len = rustix::fs::getxattr(there.join("file"), "user.mark", &mut value).unwrap();
        assert_eq!(&value[..len], b"7");
    }
    // What the image does not have is an empty directory of root's.
    assert_eq!(fs::read_dir(&paths[1]).unwrap().count(), 0);
    assert_eq!(meta(&paths[1]).mode() & 0o7777, 0o755);

    // What the container has done to it stays done, also an emptying.
    for entry in fs::read_dir(there).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    world.resolve(A, &planned);
    assert_eq!(fs::read_dir(there).unwrap().count(), 0);
    // Nothing half made is left beside it.
    let beside = fs::read_dir(there.parent().unwrap()).unwrap().count();
    assert_eq!(beside, 2);
}

#[test]
fn links_of_the_image_stay_in_its_root() {
    let world = World::new();
    let secret = world.dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "host's").unwrap();
    let root = world.rootfs();
    fs::create_dir_all(root.join("etc/inner")).unwrap();
    fs::write(root.join("etc/inner/file"), "image's").unwrap();
    symlink(&secret, root.join("absolute")).unwrap();
    symlink("../../../../../../../etc/inner", root.join("up")).unwrap();
    symlink("/etc", root.join("dir")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    fs::write(root.join("plain"), "file").unwrap();
    let request = volumes(&[
        "/absolute",
        "/dir/inner",
        "/loop/x",
        "/magic",
        "/plain",
        "/up",
    ]);
    let (planned, paths) = world.once(A, &request);
    let content = |target: &str| -> Vec<String> {
        let at = planned.iter().position(|p| p.target == target).unwrap();
        let list = fs::read_dir(&paths[at]).unwrap();
        list.map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    for target in ["/absolute", "/loop/x", "/magic", "/plain"] {
        assert_eq!(content(target), [""; 0], "{target}");
    }
    for target in ["/up", "/dir/inner"] {
        assert_eq!(content(target), ["file"], "{target}");
    }
}

#[test]
fn what_an_image_may_not_ask_for() {
    let world = World::new();
    let long = format!("/{}", "x".repeat(5000));
    for path in ["/", "/a/..", "relative", "", "/nul\0", &long] {
        let e = world.volumes.plan(A, &volumes(&[path]), &[]).unwrap_err();
        assert_eq!(e.kind(), Kind::BadInput, "{path}");
    }
    let many: Vec<String> = (0..2000).map(|n| format!("/v{n}")).collect();
    let many: Vec<&str> = many.iter().map(|s| &**s).collect();
    let e = world.volumes.plan(A, &volumes(&many), &[]).unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
    assert!(world.volumes.list().unwrap().is_empty());
}

#[test]
fn who_uses_what() {
    let world = World::new();
    let vols = &world.volumes;
    let mut request = binds(&["named:/n:ro"]);
    request.config.volumes = volumes(&["/anon", "/n"]).config.volumes;
    let planned = vols.plan(A, &request, &[]).unwrap();
    // The user's mount stands for the image's volume.
    let shown: Vec<_> = planned.iter().map(|p| (&*p.target, p.read_only)).collect();
    assert_eq!(shown, [("/anon", false), ("/n", true)]);
    let anonymous = planned[0].source.clone();
    assert_eq!(anonymous.len(), 64);
    assert!(vols.find(&anonymous).unwrap().is_anonymous());
    let point = planned[1].point(vols);
    assert_eq!(
        (&*point.r#type, &*point.name, point.rw),
        ("volume", "named", false)
    );
    assert!(
        point.source.ends_with("/root/volumes/named/_data"),
        "{point:?}"
    );

    let from = vols
        .plan(B, &Request::default(), &[("ro", planned.clone())])
        .unwrap();
    assert!(from.iter().all(|p| p.read_only && !p.copy) && from.len() == 2);
    let e = vols.remove("named").unwrap_err();
    assert_eq!(e.kind(), Kind::Conflict);
    assert!(
        e.message().contains(A) && e.message().contains("volume is in use"),
        "{e}"
    );
    assert_eq!(vols.prune(&|_| Ok(true)).unwrap().0, [""; 0]);
    assert_eq!(vols.used().unwrap().len(), 2);
    // The last one of them takes the nameless away, and never what has a name.
    assert_eq!(vols.release(A, true).unwrap(), [""; 0]);
    assert_eq!(vols.release(B, true).unwrap(), [anonymous]);
    assert_eq!(vols.release(B, true).unwrap(), [""; 0]);
    assert_eq!(vols.list().unwrap().len(), 1);
    vols.remove("named").unwrap();
    assert_eq!(vols.remove("named").unwrap_err().kind(), Kind::NotFound);
    let left = fs::read_dir(world.dir.path().join("root/volumes")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn volumes_come_and_go() {
    let world = World::new();
    let vols = &world.volumes;
    let new = NewVolume {
        name: "data".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..NewVolume::default()
    };
    let made = vols.create(&new).unwrap();
    assert_eq!(vols.create(&new).unwrap(), made);
    assert_eq!(vols.list().unwrap(), [made]);
    assert_eq!(vols.create(&NewVolume::default()).unwrap().name.len(), 64);
    let change = |f: fn(&mut NewVolume)| {
        let mut new = NewVolume {
            name: "other".to_owned(),
            ..NewVolume::default()
        };
        f(&mut new);
        vols.create(&new).unwrap_err().kind()
    };
    assert_eq!(change(|n| n.name = "x".into()), Kind::BadInput);
    assert_eq!(change(|n| n.name = "../x".into()), Kind::BadInput);
    assert_eq!(change(|n| n.name = ".trash-x".into()), Kind::BadInput);
    assert_eq!(change(|n| n.driver = "nfs".into()), Kind::Unsupported);
    let option = |n: &mut NewVolume| drop(n.options.insert("size".into(), "1".into()));
    assert_eq!(change(option), Kind::Unsupported);
    // A directory of the host under a volume's name.
    let device = world.dir.path().join("device");
    let bound = NewVolume {
        name: "bound".to_owned(),
        options: [
            ("type", "none"),
            ("o", "bind"),
            ("device", device.to_str().unwrap()),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        ..NewVolume::default()
    };
    vols.create(&bound).unwrap();
    let (_, paths) = world.once(A, &binds(&["bound:/x"]));
    assert_eq!(paths, [device]);
    // The record may be lost, and what is in it is there.
    fs::remove_file(world.dir.path().join("root/volumes/data/volume.json")).unwrap();
    assert!(vols.find("data").unwrap().labels.is_empty());
    // What killed commands have left.
    for name in [".new-7/_data", ".trash-7/_data"] {
        fs::create_dir_all(world.dir.path().join("root/volumes").join(name)).unwrap();
    }
    vols.sweep(&|_| Ok(false)).unwrap();
    let left = fs::read_dir(world.dir.path().join("root/volumes")).unwrap();
    assert!(left.count() == 3 && vols.list().unwrap().len() == 3);
}

#[test]
fn binds_and_memory() {
    let world = World::new();
    let new = world.dir.path().join("new/dir");
    let mut request = binds(&[&format!("{}:/b:ro,rprivate", new.display())]);
    request
        .host_config
        .tmpfs
        .insert("/t".to_owned(), "size=1m,exec".to_owned());
    let mount = |kind: &str, source: &str, target: &str| Mount {
        r#type: kind.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    };
    request.host_config.mounts = vec![mount("tmpfs", "", "/u"), mount("bind", "/", "/host")];
    let planned = world.volumes.plan(A, &request, &[]).unwrap();
    assert!(!new.exists());
    let resolved = world.resolve(A, &planned);
    assert!(new.is_dir() && !resolved.shared);
    let options = |target: &str| {
        let at = planned.iter().position(|p| p.target == target).unwrap();
        resolved.mounts[at].options().clone().unwrap().join(",")
    };
    assert_eq!(options("/b"), "rbind,rprivate,rro");
    assert_eq!(options("/host"), "rbind,rprivate");
    assert_eq!(options("/t"), "nosuid,nodev,size=1m,exec,rw,rprivate");
    assert_eq!(options("/u"), "noexec,nosuid,nodev,mode=1777,rw,rprivate");

    request
        .host_config
        .mounts
        .push(mount("bind", "/nonexistent", "/x"));
    let e = world.volumes.plan(A, &request, &[]).unwrap_err();
    let want = "invalid mount config for type \"bind\": bind source path does not exist: \
                /nonexistent";
    assert_eq!(e.message(), want);
    request.host_config.mounts = vec![mount("tmpfs", "", "/b/")];
    let e = world.volumes.plan(A, &request, &[]).unwrap_err();
    assert_eq!(e.message(), "Duplicate mount point: /b");
}

#[test]
fn parts_of_volumes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    let world = World::new();
    let data = world.volumes.data("vol");
    let made = |name: &str, subpath: &str| {
        let mut request = Request::default();
        request.host_config.mounts = vec![Mount {
            r#type: "volume".to_owned(),
            source: name.to_owned(),
            target: "/x".to_owned(),
            volume_options: Some(VolumeOptions {
                subpath: subpath.to_owned(),
                ..VolumeOptions::default()
            }),
            ..Mount::default()
        }];
        world.volumes.plan(A, &request, &[])
    };
    let planned = made("vol", "a/b").unwrap();
    let root = File::open(world.rootfs()).unwrap();
    let facts = RuntimeFacts::default();
    let resolve = |planned: &[Planned]| {
        world
            .volumes
            .resolve(A, planned, root.as_fd(), &facts, &no_layers)
    };
    assert!(resolve(&planned).is_err());
    fs::create_dir_all(data.join("a/b")).unwrap();
    fs::write(data.join("a/b/file"), "x").unwrap();
    // A link that a container has put there leads nowhere else.
    symlink("/", data.join("host")).unwrap();
    symlink("/a/b/file", data.join("link")).unwrap();
    for (subpath, is_dir) in [("a/b", true), ("host/a/b", true), ("link", false)] {
        let resolved = resolve(&made("vol", subpath).unwrap()).unwrap();
        let source = resolved.mounts[0].source().clone().unwrap();
        assert!(source.starts_with(world.dir.path().join("run/subpaths").join(A)));
        let file = if is_dir { source.join("file") } else { source };
        assert_eq!(fs::read_to_string(&file).unwrap(), "x", "{subpath}");
        // In use, it is not swept.
        world.volumes.sweep(&|_| Ok(true)).unwrap();
        assert!(file.exists());
        drop(resolved);
        assert!(!file.exists());
    }
    // After a kill, it is.
    let resolved = resolve(&made("vol", "a/b").unwrap()).unwrap();
    resolved.staged.keep();
    world.volumes.sweep(&|_| Ok(false)).unwrap();
    let subpaths = world.dir.path().join("run/subpaths");
    assert_eq!(fs::read_dir(subpaths).unwrap().count(), 0);
    assert_eq!(fs::read_dir(data.join("a/b")).unwrap().count(), 1);
}
