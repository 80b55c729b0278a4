//! Against Debian's docker-registry, with skopeo at the other end.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SigningKey};
use serde_json::json;
use unlade_engine::{
    error::Kind,
    image::{Document, Reference},
    registry::{
        BodySource, Client, CredentialFiles, Credentials, RegistryConfig, Secret, Uploaded,
    },
};
use unlade_unpack::Cancel;

use crate::{
    config, good_error, read,
    server::{Reply, Server, blob, sha},
};

/// Prints why a test does nothing on this machine.
fn lacks(tools: &[&str]) -> bool {
    let dirs: Vec<_> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing = tools
        .iter()
        .find(|t| !dirs.iter().any(|d| d.join(t).exists()));
    if let Some(tool) = missing {
        eprintln!("skipped: {tool} is not installed (scripts/setup test)");
    }
    missing.is_some()
}

struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a registry in `dir`; `more` is added to its configuration, `tls` to its `http`.
fn start(dir: &Path, tls: &str, more: &str) -> Registry {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let host = format!("127.0.0.1:{port}");
    let store = dir.join("store");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\nhttp:\n  addr: {host}\n{tls}{more}",
        store.display()
    );
    fs::write(dir.join("config.yml"), text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(dir.join("config.yml"))
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let registry = Registry { child, host };
    for _ in 0..1200 {
        if TcpStream::connect(&registry.host).is_ok() {
            return registry;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("docker-registry does not listen");
}

fn certificate() -> (String, KeyPair, Vec<u8>) {
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&key).unwrap();
    (cert.pem(), key, cert.der().to_vec())
}

const OCI: &str = "application/vnd.oci.image.";

/// Pushes an image of two layers, reads it back, and has skopeo read it.
async fn round_trip(client: &Client, host: &str, skopeo: &[&str]) {
    let reference = Reference::parse(&format!("{host}/team/app:1")).unwrap();
    let missing = client.resolve(&reference).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound);
    good_error(&missing, "MANIFEST_UNKNOWN");
    let tars = [
        crate::support::tar(&[("a", "1")]),
        crate::support::tar(&[("big", &String::from_utf8_lossy(&vec![b'x'; 3_000_000]))]),
    ];
    let layers = tars.clone().map(|t| crate::support::gzip(&t));
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": tars.iter().map(|t| sha(t).to_string()).collect::<Vec<_>>()},
    })
    .to_string();
    let descriptor = |bytes: &[u8], kind: &str| json!({"mediaType": format!("{OCI}{kind}"), "digest": sha(bytes).to_string(), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": format!("{OCI}manifest.v1+json"),
        "config": descriptor(config.as_bytes(), "config.v1+json"),
        "layers": layers.iter().map(|l| descriptor(l, "layer.v1.tar+gzip")).collect::<Vec<_>>(),
    })
    .to_string();
    let random = blob(2_500_000);
    for bytes in [&layers[0][..], &layers[1], config.as_bytes(), &random] {
        let source = || {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, bytes).unwrap();
            BodySource::File(Arc::new(file))
        };
        for want in [Uploaded::Sent, Uploaded::Existed] {
            let got = client
                .upload(
                    &reference,
                    &sha(bytes),
                    bytes.len() as u64,
                    source(),
                    &Cancel::new(),
                    Arc::new(|_| ()),
                )
                .await
                .unwrap();
            assert_eq!(got, want);
        }
    }
    let media = format!("{OCI}manifest.v1+json");
    let bytes = Bytes::from(manifest.clone());
    let digest = client
        .put_manifest(&reference, bytes, &media, Some("1"))
        .await
        .unwrap();
    assert_eq!(digest, sha(manifest.as_bytes()));

    let got = client.resolve(&reference).await.unwrap();
    assert_eq!(
        (&got.bytes[..], got.digest, &*got.media_type),
        (manifest.as_bytes(), digest, &*media)
    );
    let Document::Manifest(parsed) = Document::parse(&got.media_type, &got.bytes).unwrap() else {
        panic!("a manifest");
    };
    let document = client
        .document(&reference, &parsed.config, 1 << 20)
        .await
        .unwrap();
    assert_eq!(document, config.as_bytes());
    for bytes in [&layers[0][..], &layers[1], &random] {
        for from in [0, bytes.len() / 3] {
            let back = read(client, &reference, &sha(bytes), bytes.len(), from)
                .await
                .unwrap();
            assert!(back == bytes[from..]);
        }
    }
    assert_eq!(client.tags(&reference).await.unwrap(), ["1"]);
    assert_eq!(
        client.head(&reference).await.unwrap().unwrap().digest,
        Some(digest)
    );
    let none = reference.with_tag("none").unwrap();
    assert!(client.head(&none).await.unwrap().is_none());
    assert!(
        client
            .exists(&reference, &sha(b"none"))
            .await
            .unwrap()
            .is_none()
    );

    let other = Reference::parse(&format!("{host}/other/app:1")).unwrap();
    assert!(
        client
            .mount(&other, &sha(&layers[1]), &reference)
            .await
            .unwrap()
    );
    assert!(
        client
            .exists(&other, &sha(&layers[1]))
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        !client
            .mount(&other, &sha(b"none"), &reference)
            .await
            .unwrap()
    );

    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let out = Command::new("skopeo")
            .args(args)
            .args(skopeo)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    };
    let name = format!("docker://{reference}");
    let inspected = run(&["inspect", "--format", "{{.Digest}}", &name]);
    assert_eq!(inspected.trim(), digest.to_string());
    let source_args = skopeo
        .iter()
        .map(|a| a.replace("--", "--src-"))
        .collect::<Vec<_>>();
    let target = format!("dir:{}", dir.path().display());
    let out = Command::new("skopeo")
        .args(["copy", "--insecure-policy"])
        .args(source_args)
        .args([&name, &target])
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(
        fs::read(dir.path().join("manifest.json")).unwrap(),
        manifest.as_bytes()
    );
    assert_eq!(
        fs::read(dir.path().join(sha(&layers[1]).hex())).unwrap(),
        layers[1]
    );
}

/// Small chunks, and ranges at once.
fn picky(config: RegistryConfig) -> Client {
    let mut config = config;
    config.upload_chunk_bytes = 1_000_000;
    config.stall_timeout = Duration::from_secs(20);
    config.parallel.streams = 3;
    config.parallel.part_bytes = 500_000;
    config.parallel.threshold_bytes = 1_000_000;
    config.parallel.after = Duration::ZERO;
    Client::new(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plain() {
    if lacks(&["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = start(dir.path(), "", "");
    round_trip(&picky(config()), &registry.host, &["--tls-verify=false"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_a_password() {
    if lacks(&["docker-registry", "skopeo", "htpasswd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (pem, key, _) = certificate();
    fs::write(path("cert.pem"), &pem).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let made = Command::new("htpasswd")
        .args(["-Bbn", "me", "s3cret"])
        .output()
        .unwrap();
    fs::write(path("htpasswd"), made.stdout).unwrap();
    let registry = start(
        dir.path(),
        &format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            path("cert.pem"),
            path("key.pem")
        ),
        &format!(
            "auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
            path("htpasswd")
        ),
    );
    let certs = dir.path().join("certs").join(&registry.host);
    fs::create_dir_all(&certs).unwrap();
    fs::write(certs.join("ca.crt"), &pem).unwrap();
    let files = CredentialFiles {
        files: vec![dir.path().join("config.json")],
        store: Some(dir.path().join("config.json")),
        ..CredentialFiles::default()
    };
    let mut config = config();
    config.cert_dirs = vec![dir.path().join("certs")];
    config.credentials = Arc::new(files.clone());
    let client = picky(config.clone());
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host)).unwrap();
    let e = client.resolve(&reference).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "unlade login");
    let password = |p: &str| Credentials::Password {
        user: "me".into(),
        password: Secret::new(p),
    };
    let e = client
        .login_check(&registry.host, &password("wrong"))
        .await
        .unwrap_err();
    good_error(&e, "password refused");
    let login = client
        .login_check(&registry.host, &password("s3cret"))
        .await
        .unwrap();
    files.store(&registry.host, &login.keep).unwrap();
    let certs = certs.display().to_string();
    let args = [&format!("--cert-dir={certs}")[..], "--creds=me:s3cret"];
    round_trip(&picky(config.clone()), &registry.host, &args).await;
    // Without the authority, and after the logout.
    config.cert_dirs.clear();
    let e = Client::new(config)
        .unwrap()
        .resolve(&reference)
        .await
        .unwrap_err();
    good_error(&e, "TLS");
    assert!(files.erase(&registry.host).unwrap());
}

/// A JSON web token, signed with ES256, for what the query asks for.
fn token(key: &KeyPair, der: &[u8], scopes: &[String]) -> String {
    let access: Vec<_> = scopes
        .iter()
        .map(|scope| {
            let parts: Vec<&str> = scope.split(':').collect();
            json!({"type": parts[0], "name": parts[1], "actions": parts[2].split(',').collect::<Vec<_>>()})
        })
        .collect();
    let now = jiff::Timestamp::now().as_second();
    let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(der)]});
    let claims = json!({
        "iss": "tests", "sub": "me", "aud": "registry", "exp": now + 600, "nbf": now - 60,
        "iat": now, "jti": "1", "access": access,
    });
    let text = [head, claims]
        .map(|v| URL_SAFE_NO_PAD.encode(v.to_string()))
        .join(".");
    let der = key.sign(text.as_bytes()).unwrap();
    // SEQUENCE { INTEGER r, INTEGER s } to r and s of 32 bytes each.
    let mut raw = Vec::new();
    let mut at = 2;
    for _ in 0..2 {
        let len = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + len];
        let number = &number[number.len().saturating_sub(32)..];
        raw.extend(std::iter::repeat_n(0, 32 - number.len()));
        raw.extend_from_slice(number);
        at += 2 + len;
    }
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server() {
    if lacks(&["docker-registry", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (pem, key, der) = certificate();
    let bundle = dir.path().join("bundle.pem");
    fs::write(&bundle, pem).unwrap();
    let tokens = Server::new(move |seen| {
        if seen.header("authorization") != crate::logins::BASIC {
            return Reply::json(401, r#"{"details":"nobody known"}"#);
        }
        let url = reqwest::Url::parse(&format!("http://x{}", seen.target)).unwrap();
        let scopes: Vec<String> = url
            .query_pairs()
            .filter(|(n, _)| n == "scope")
            .flat_map(|(_, v)| v.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        Reply::json(
            200,
            &json!({"token": token(&key, &der, &scopes)}).to_string(),
        )
    });
    let registry = start(
        dir.path(),
        "",
        &format!(
            "auth:\n  token:\n    realm: http://{}/token\n    service: registry\n    issuer: tests\n    rootcertbundle: {}\n",
            tokens.host(),
            bundle.display()
        ),
    );
    let reference = Reference::parse(&format!("{}/team/app:1", registry.host)).unwrap();
    let e = Client::new(config())
        .unwrap()
        .resolve(&reference)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Denied);
    good_error(&e, "nobody known");
    let client = crate::logins::with_password(config(), &registry.host);
    let client = picky(client.config().clone());
    let login = client
        .login_check(&registry.host, &crate::logins::password())
        .await;
    assert!(login.unwrap().needed);
    round_trip(
        &client,
        &registry.host,
        &["--tls-verify=false", "--creds=me:s3cret"],
    )
    .await;
    // A token for a repository and action, and not one more for each request.
    assert!(tokens.seen().len() < 20, "{}", tokens.seen().len());
}
