//! Requests of containers, accounts and flags.

use serde_json::Value;

/// Inputs for `spec`.
pub fn all() -> Vec<Vec<u8>> {
    let texts = include_str!("../../../crates/engine/tests/specs/requests.json");
    let cases: Vec<Value> = serde_json::from_str(texts).expect("the engine's own");
    let mut out: Vec<Vec<u8>> = Vec::new();
    for mut case in cases {
        if case.get("image").is_none() {
            case["image"] = serde_json::json!({ "Cmd": ["sh"] });
        }
        for kind in [0, 1] {
            let mut input = vec![kind];
            input.extend(case.to_string().bytes());
            out.push(input);
        }
    }
    for who in ["ann", "7:8 9 more", "0", "ann:more", "4294967296"] {
        let mut input = vec![2];
        input.extend(b"root:x:0:0::/root:/bin/sh\nann:x:7:8::/home/ann:\n\0more:x:9:ann\n\0");
        input.extend(who.bytes());
        out.push(input);
    }
    for flag in [
        "/a:/b:ro,rslave",
        "name:/data:nocopy",
        "type=bind,source=/a,target=/b,readonly,bind-propagation=shared",
        "type=volume,src=v,dst=/d,volume-subpath=a/b",
        "type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1777",
        "/run:size=1m,noexec",
        "127.0.0.1:8000-8010:80-90/tcp",
        "[::1]:53:53/udp",
    ] {
        out.push([&[3], flag.as_bytes()].concat());
    }
    out
}
