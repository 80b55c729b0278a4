//! Names of images, challenges, credential files and rules for registries.

/// A byte for the kind, then the text.
pub fn all() -> Vec<Vec<u8>> {
    let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let mut all: Vec<(u8, String)> = Vec::new();
    for name in [
        "alpine",
        "docker.io/library/alpine:3.20",
        "index.docker.io/u/a__b--c.d",
        "[2001:db8::1]:5000/a/b:_T.a-G",
        "localhost:5000/x",
        "Upper/x",
        "docker.io/a.b/c",
    ] {
        all.push((0, name.to_owned()));
        all.push((0, format!("{name}@sha256:{hex}")));
    }
    all.push((0, hex.to_owned()));
    for challenge in [
        r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
        r#"BASIC Realm = "a \"b\", c" , Bearer realm=https://x/t,error="bad""#,
        "Negotiate, NTLM abc==, Basic realm=x\nBearer realm=\"y\"",
    ] {
        all.push((1, challenge.to_owned()));
    }
    for file in [
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6czNjcmV0"},"h.io:5000/team":{"username":"u","password":"s3cret"}}}"#,
        r#"{"credsStore":"x","credHelpers":{"h.io:5000":"y"},"auths":{"h.io:5000":{"identitytoken":"s3cret"},"localhost":{"registrytoken":"s3cret"}}}"#,
        r#"{"auths":{"localhost":{"auth":"s3cret"}}}"#,
    ] {
        all.push((2, file.to_owned()));
    }
    all.push((
        3,
        r#"server = "https://registry-1.docker.io"
[host."https://m.example:5000/path"]
capabilities = ["pull", "resolve"]
ca = ["a.crt"]
client = [["c.cert", "c.key"], "both.pem"]
skip_verify = true
override_path = true
[host."https://m.example:5000/path".header]
X-One = ["1", "2"]
[host."http://127.0.0.1:5000"]
"#
        .to_owned(),
    ));
    all.push((
        4,
        r#"unqualified-search-registries = ["x.io"]
[[registry]]
prefix = "docker.io"
location = "mirror.example/hub"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m1.example:5000/x"
insecure = true
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.corp.example"
blocked = true
[[registry]]
location = "h.io:5000/team"
"#
        .to_owned(),
    ));
    all.into_iter()
        .map(|(kind, text)| [&[kind], text.as_bytes()].concat())
        .collect()
}
