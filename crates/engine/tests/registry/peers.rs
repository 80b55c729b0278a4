//! Tests 24 and 25: who answers, over TLS, through proxies, or not at all.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use unlade_engine::{
    error::{Kind, Result},
    registry::{Client, Fetched},
};

use crate::{
    app, client, config, good_error,
    server::{Reply, Server, manifest},
};

struct Authority {
    pem: String,
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let name = format!("authority {:?}", &key.public_key_raw()[..8]);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

fn server_config(cert: &str, key: &str, clients: Option<&Authority>) -> ServerConfig {
    use rustls_pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    builder.with_single_cert(vec![cert], key).unwrap()
}

fn https(pair: &(String, String)) -> Server {
    Server::tls(server_config(&pair.0, &pair.1, None), |_| manifest())
}

/// Resolves with files in `certs.d/HOST`.
async fn resolve(dir: &Path, host: &str, files: &[(&str, &str)]) -> Result<Fetched> {
    let own = dir.join(host);
    fs::create_dir_all(&own).unwrap();
    for (name, text) in files {
        fs::write(own.join(name), text).unwrap();
    }
    let mut config = config();
    config.cert_dirs = vec![dir.to_owned()];
    Client::new(config)?.resolve(&app(host)).await
}

#[tokio::test]
async fn authorities_that_are_trusted_and_not() {
    let (ours, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let server = https(&ours.issue(|_| {}));
    let got = resolve(dir.path(), &server.host(), &[("ca.crt", &ours.pem)])
        .await
        .unwrap();
    assert_eq!(got.from, server.host());
    let server = https(&ours.issue(|_| {}));
    let e = resolve(dir.path(), &server.host(), &[("ca.crt", &other.pem)])
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Network);
    good_error(&e, "authority that is not trusted");
    assert!(e.hint().unwrap().contains(&server.host()), "{e:?}");
    assert!(server.seen().is_empty(), "it was asked in spite of that");
}

#[tokio::test]
async fn names_and_dates() {
    let ours = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    for (pair, part) in [
        (
            ours.issue(|p| {
                p.subject_alt_names =
                    vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())]
            }),
            "for another name",
        ),
        (
            ours.issue(|p| p.not_after = date_time_ymd(2001, 1, 1)),
            "has expired",
        ),
        (
            ours.issue(|p| p.not_before = date_time_ymd(4001, 1, 1)),
            "not valid yet",
        ),
    ] {
        let server = https(&pair);
        let start = Instant::now();
        let e = resolve(dir.path(), &server.host(), &[("ca.crt", &ours.pem)])
            .await
            .unwrap_err();
        good_error(&e, part);
        assert!(server.seen().is_empty() && start.elapsed() < Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority() {
    let make = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let dir = tempfile::tempdir().unwrap();
    let pair = make(|_| {});
    let server = https(&pair);
    resolve(dir.path(), &server.host(), &[("ca.crt", &pair.0)])
        .await
        .unwrap();
    let server = https(&pair);
    let e = resolve(dir.path(), &server.host(), &[("ca.crt", &make(|_| {}).0)])
        .await
        .unwrap_err();
    good_error(&e, "TLS");
    let pair = make(|p| p.not_after = date_time_ymd(2001, 1, 1));
    let server = https(&pair);
    let e = resolve(dir.path(), &server.host(), &[("ca.crt", &pair.0)])
        .await
        .unwrap_err();
    good_error(&e, "has expired");
}

#[tokio::test]
async fn client_certificates() {
    let ours = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let pair = ours.issue(|_| {});
    let server = Server::tls(server_config(&pair.0, &pair.1, Some(&ours)), |_| manifest());
    let e = resolve(dir.path(), &server.host(), &[("ca.crt", &ours.pem)])
        .await
        .unwrap_err();
    good_error(&e, "");
    let client = ours.issue(|_| {});
    let files = [
        ("ca.crt", &*ours.pem),
        ("me.cert", &client.0),
        ("me.key", &client.1),
    ];
    resolve(dir.path(), &server.host(), &files).await.unwrap();
    let e = resolve(dir.path(), &server.host(), &[("me.key", "nonsense")])
        .await
        .unwrap_err();
    good_error(&e, "me.key");
}

#[tokio::test]
async fn insecure_hosts_are_not_checked() {
    let server = https(&Authority::new().issue(|_| {}));
    let mut config = config();
    config.insecure = vec!["127.0.0.0/8".into()];
    Client::new(config)
        .unwrap()
        .resolve(&app(&server.host()))
        .await
        .unwrap();
}

#[tokio::test]
async fn no_plain_http_where_tls_is_wanted() {
    // A plain server, where an authority says that TLS is wanted.
    let ours = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(|_| manifest());
    let files = [("ca.crt", &*ours.pem)];
    let e = resolve(dir.path(), &server.host(), &files)
        .await
        .unwrap_err();
    good_error(&e, "connect");
    let host = says(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let e = resolve(dir.path(), &host, &files).await.unwrap_err();
    good_error(&e, "does not speak TLS");
    assert!(server.lines().iter().all(|l| !l.contains("/v2/")));
}

/// Answers every connection with `bytes` once something has come, and hangs up.
fn says(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(bytes);
        }
    });
    host
}

#[tokio::test]
async fn handshakes_that_fail() {
    let ours = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    for (bytes, part) in [
        (&b""[..], "connect"),
        // An alert: protocol version.
        (&[0x15, 3, 1, 0, 2, 2, 70][..], "TLS older than 1.2"),
        (&[0x16, 3, 1][..], "connect"),
    ] {
        let host = says(bytes);
        let e = resolve(dir.path(), &host, &[("ca.crt", &ours.pem)])
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Network);
        good_error(&e, part);
    }
}

#[tokio::test]
async fn nobody_there() {
    let host = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let start = Instant::now();
    let e = client().resolve(&app(&host)).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Network);
    good_error(&e, "cannot connect");
    let e = client()
        .resolve(&app("no-such-host.invalid"))
        .await
        .unwrap_err();
    good_error(&e, "no-such-host.invalid: cannot connect");
    assert!(start.elapsed() < Duration::from_secs(10));
    // Nonsense for an answer.
    let e = client()
        .resolve(&app(&says(b"SSH-2.0-x\r\n")))
        .await
        .unwrap_err();
    good_error(&e, "");
}

#[tokio::test]
async fn a_registry_that_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            let mut stream = stream;
            if n < 3 {
                continue;
            }
            let _ = stream.read(&mut [0; 4096]);
            let body = crate::server::MANIFEST;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    client().resolve(&app(&host)).await.unwrap();
}

#[tokio::test]
async fn proxies() {
    let proxy = Server::new(|seen| match &*seen.method {
        "CONNECT" => Reply::new(403),
        _ => manifest(),
    });
    let direct = Server::new(|_| manifest());
    let mut config = config();
    config.proxies.http = Some(format!("http://user:s3cret@{}", proxy.host()));
    config.proxies.https = config.proxies.http.clone();
    config.proxies.no_proxy = "direct.example".into();
    config.insecure = vec!["plain.example".into()];
    assert!(!format!("{config:?}").contains("s3cret"));
    let client = Client::new(config).unwrap();
    client.resolve(&app("plain.example")).await.unwrap();
    let seen = proxy.seen();
    let last = seen.last().unwrap();
    assert_eq!(last.target, "http://plain.example/v2/team/app/manifests/1");
    assert_eq!(last.header("proxy-authorization"), "Basic dXNlcjpzM2NyZXQ=");
    // This machine is reached without.
    client.resolve(&app(&direct.host())).await.unwrap();
    assert_eq!((direct.seen().len(), proxy.seen().len()), (1, seen.len()));
    // Not by https, if the proxy does not want that.
    let e = client.resolve(&app("tls.example")).await.unwrap_err();
    good_error(&e, "tls.example: cannot connect");
    assert!(proxy.lines().iter().any(|l| l.starts_with("CONNECT")));
    let before = proxy.seen().len();
    let e = client.resolve(&app("direct.example")).await.unwrap_err();
    good_error(&e, "direct.example");
    assert_eq!(proxy.seen().len(), before);
}

#[tokio::test]
async fn tls_on_loopback_is_found_out() {
    // It says 400 to plain HTTP, as Go's servers do.
    let server = https(&Authority::new().issue(|_| {}));
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "authority that is not trusted");
    assert!(server.seen().is_empty());
    // What it says to a request that is itself wrong is told.
    let server = Server::new(|_| Reply::json(400, r#"{"errors":[{"code":"NAME_INVALID"}]}"#));
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "NAME_INVALID");
}
