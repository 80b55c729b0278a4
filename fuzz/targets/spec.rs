//! What an image and a user say of a container: no panic, and what is assembled keeps its promises.
#![no_main]

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use unlade_engine::{
    network::ports,
    spec::{
        HostFacts, ImageConfig, Placement, assemble, merge,
        request::{ContainerConfig, HostConfig, Request},
        user,
    },
    volume::parse,
};

/// A request as those in the engine's `tests/specs`.
fn request(case: &Value, v2: bool) -> Option<()> {
    let document = json!({
        "architecture": "amd64", "os": "linux", "config": case.get("image")?,
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let image = ImageConfig::parse(document.to_string().as_bytes()).ok()?;
    let part = |key| case.get(key).cloned().unwrap_or_else(|| json!({}));
    let mut request = Request {
        config: serde_json::from_value::<ContainerConfig>(part("config")).ok()?,
        host_config: serde_json::from_value::<HostConfig>(part("host_config")).ok()?,
        ..Request::default()
    };
    merge(&image, &mut request).ok()?;
    let place: Placement = serde_json::from_value(json!({
        "id": "0123456789abcdef", "name": "fuzz", "rootfs": "rootfs", "cgroup-path": "/unlade/fuzz",
        "user": { "uid": 0, "gid": 0 },
    }))
    .expect("a placement");
    let host: HostFacts = serde_json::from_value(json!({
        "hostname": "host", "kernel": [6, 1], "arch": "amd64", "cgroup-v2": v2,
        "controllers": ["cpu", "cpuset", "io", "blkio", "memory", "pids"], "bounding": ["CAP_CHOWN"],
        "cpus": "0-1", "mems": "0",
    }))
    .expect("a host");
    let made = assemble(&image, &request, &host, &place).ok()?;
    made.explain().expect("each field has a source");
    let spec: Value = serde_json::from_slice(&made.to_json().expect("JSON")).expect("JSON");
    let process = &spec["process"];
    for set in ["inheritable", "ambient"] {
        let caps = process["capabilities"][set].as_array();
        assert!(caps.is_none_or(Vec::is_empty), "{set} capabilities");
    }
    for entry in process["env"].as_array().into_iter().flatten() {
        let text = entry.as_str().expect("a text");
        assert!(text.contains('=') && !text.contains('\0'), "{text:?}");
    }
    assert!(spec.get("hooks").is_none(), "a hook");
    Some(())
}

/// Files of a root, and a user to be looked up in them.
fn accounts(passwd: &[u8], group: &[u8], who: &str) {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let dir =
            std::env::var_os("UNLADE_FUZZ_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let root = dir.join(format!("root-{}", std::process::id()));
        fs::create_dir_all(root.join("etc")).expect("a directory");
        root
    });
    fs::write(root.join("etc/passwd"), passwd).expect("a file");
    fs::write(root.join("etc/group"), group).expect("a file");
    let dir = File::open(root).expect("the root");
    let more: Vec<String> = who.split(' ').skip(1).map(str::to_owned).collect();
    let who = who.split(' ').next().unwrap_or_default();
    if let Ok(found) = user::resolve(dir.as_fd(), who, &more) {
        // Digits are the number that they say, whatever names there are.
        if let Ok(number) = who.parse::<u32>() {
            assert_eq!(found.uid, number);
        }
        assert!(i32::try_from(found.uid).is_ok() && i32::try_from(found.gid).is_ok());
    }
}

fn flags(text: &str) {
    let cwd = Path::new("/cwd");
    let _ = parse::volume(text, cwd);
    let _ = parse::mount(text, cwd);
    let _ = parse::tmpfs(text);
    let _ = ports::parse(text);
    let _ = ports::expose(text);
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 | 1 => {
            if let Ok(case) = serde_json::from_slice(rest) {
                let _ = request(&case, kind % 4 == 1);
            }
        }
        2 => {
            let mut parts = rest.splitn(3, |b| *b == 0);
            let mut next = || parts.next().unwrap_or_default();
            let (passwd, group, who) = (next(), next(), next());
            accounts(passwd, group, &String::from_utf8_lossy(who));
        }
        _ => flags(&String::from_utf8_lossy(rest)),
    }
});
