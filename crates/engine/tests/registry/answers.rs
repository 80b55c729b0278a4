//! Tests 21 and 23: what registries answer when they are busy, broken or hostile.

use std::time::{Duration, Instant};

use unlade_engine::{error::Kind, image::Reference, registry::Client};

use crate::{
    app, client, config, good_error, read,
    server::{MANIFEST, Reply, Server, blob, manifest, serve, sha},
};

#[tokio::test]
async fn a_manifest() {
    let server = Server::new(|_| manifest());
    let got = client().resolve(&app(&server.host())).await.unwrap();
    assert_eq!(
        (&got.bytes[..], got.digest),
        (MANIFEST.as_bytes(), sha(MANIFEST.as_bytes()))
    );
    assert_eq!(got.media_type, "application/vnd.oci.image.manifest.v1+json");
    assert_eq!(got.from, server.host());
    assert_eq!(server.lines(), ["GET /v2/team/app/manifests/1"]);
    let accept = server.seen()[0].header("accept").to_owned();
    for part in [
        "oci.image.index",
        "oci.image.manifest",
        "manifest.list.v2",
        "manifest.v2",
    ] {
        assert!(accept.contains(part), "{accept}");
    }
    // By digest, and without a tag.
    let by_digest = app(&server.host()).with_digest(sha(MANIFEST.as_bytes()));
    client().resolve(&by_digest).await.unwrap();
    let bare = Reference::parse(&format!("{}/x", server.host())).unwrap();
    client().resolve(&bare).await.unwrap();
    assert_eq!(server.lines()[2], "GET /v2/x/manifests/latest");
    let found = client().head(&bare).await.unwrap().unwrap();
    assert_eq!(found.digest, Some(got.digest));
    assert_eq!(found.size, Some(MANIFEST.len() as u64));
}

#[tokio::test]
async fn manifests_that_are_not_what_was_asked_for() {
    let other = sha(b"other");
    let server = Server::new(|_| manifest());
    let e = client()
        .manifest(&app(&server.host()), &other)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
    good_error(&e, "digest is");
    let server = Server::new(move |_| {
        Reply::new(200)
            .with("docker-content-digest", other)
            .body("{}")
    });
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
    for chunked in [false, true] {
        let server = Server::new(move |_| {
            let mut r = Reply::new(200).body(vec![b' '; (4 << 20) + 1]);
            r.chunked = chunked;
            r
        });
        let e = client().resolve(&app(&server.host())).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Limit);
        good_error(&e, "more than");
    }
    let server = Server::new(|_| {
        let mut r = Reply::new(200).body(vec![b' '; 1 << 16]);
        r.endless = true;
        r
    });
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    assert_eq!(e.kind(), Kind::Limit);
}

#[tokio::test]
async fn refusals_are_told_with_what_the_registry_says() {
    for (status, kind) in [
        (404, Kind::NotFound),
        (403, Kind::Denied),
        (400, Kind::BadInput),
        (418, Kind::BadInput),
    ] {
        let server = Server::new(move |_| {
            Reply::json(
                status,
                r#"{"errors":[{"code":"CODE","message":"see https://a:s3cret@h/x?s3cret"}]}"#,
            )
        });
        let e = client().resolve(&app(&server.host())).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{status}");
        good_error(&e, "CODE: see https://h/x");
        assert!(e.message().contains(&server.host()) && e.message().contains("team/app:1"));
        assert_eq!(server.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn bursts_pass() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = Server::new(move |seen| match seen.number {
            0..4 => Reply::new(status),
            _ => manifest(),
        });
        client().resolve(&app(&server.host())).await.unwrap();
        assert_eq!(server.seen().len(), 5, "{status}");
        let server = Server::new(move |_| Reply::new(status));
        let e = client().resolve(&app(&server.host())).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Network);
        good_error(&e, "after 5 tries");
        assert_eq!(server.seen().len(), 5, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_kept_to() {
    for (value, least) in [("1", 950), ("date", 950), ("soon", 0)] {
        let server = Server::new(move |seen| {
            let at = jiff::Timestamp::now() + Duration::from_secs(2);
            let date = at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            match seen.number {
                0 => Reply::new(429).with("retry-after", value.replace("date", &date)),
                _ => manifest(),
            }
        });
        let start = Instant::now();
        client().resolve(&app(&server.host())).await.unwrap();
        let took = start.elapsed().as_millis();
        assert!(took >= least && took < least + 3000, "{value}: {took} ms");
    }
    // Longer than is worth waiting for.
    let server = Server::new(|_| Reply::new(429).with("retry-after", 999_999_999_999_u64));
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "it asks to wait for days");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn one_hosts_pause_is_everybodys() {
    let server = Server::new(|seen| match seen.number {
        0 => Reply::new(429).with("retry-after", "1"),
        _ => manifest(),
    });
    let (client, reference) = (client(), app(&server.host()));
    let first = tokio::spawn({
        let (client, reference) = (client.clone(), reference.clone());
        async move { client.resolve(&reference).await }
    });
    while server.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    client.resolve(&reference).await.unwrap();
    assert!(start.elapsed() > Duration::from_millis(600));
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broken_mirror_is_passed_over() {
    let bytes = blob(100_000);
    let good = bytes.clone();
    let upstream = Server::new(move |seen| match seen.path() {
        p if p.contains("/manifests/") => manifest(),
        _ => serve(&good, seen),
    });
    let half = bytes.clone();
    let mirror = Server::new(move |seen| match seen.path() {
        p if p.contains("/manifests/") => Reply::new(503),
        _ => {
            let mut r = serve(&half, seen);
            r.cut = Some(if seen.header("range").is_empty() {
                40_000
            } else {
                0
            });
            r
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"app.example\"\nlocation = \"{}/up\"\n\
         [[registry.mirror]]\nlocation = \"{}/mirror\"\n",
        upstream.host(),
        mirror.host()
    );
    std::fs::write(&file, text).unwrap();
    let mut config = config();
    config.registries_conf = vec![file];
    let client = Client::new(config).unwrap();
    let reference = app("app.example");
    let got = client.resolve(&reference).await.unwrap();
    assert_eq!(got.from, upstream.host());
    assert_eq!(mirror.lines(), ["GET /v2/mirror/team/app/manifests/1"; 2]);
    assert_eq!(upstream.lines(), ["GET /v2/up/team/app/manifests/1"]);
    // It failed, so it is asked last; in a client of its own it is asked first again.
    let client = Client::new(client.config().clone()).unwrap();
    let got = read(&client, &reference, &sha(&bytes), bytes.len(), 0).await;
    assert_eq!(got.unwrap(), bytes);
    assert_eq!(
        upstream.seen().last().unwrap().header("range"),
        "bytes=40000-99999"
    );
    // Both: the registry's own error, and that the mirror was asked.
    drop(upstream);
    let e = Client::new(client.config().clone()).unwrap();
    let e = e.resolve(&reference).await.unwrap_err();
    good_error(&e, "before: ");
    assert!(e.message().contains("503"), "{e}");
}

#[tokio::test]
async fn a_mirror_that_wants_a_pause_is_passed_over() {
    let upstream = Server::new(|_| manifest());
    let mirror = Server::new(|_| Reply::new(429).with("retry-after", 30));
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("app.example");
    std::fs::create_dir(&own).unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n[host.\"http://{}\".header]\nX-Key = \"s3cret\"\n",
        upstream.host(),
        mirror.host(),
        mirror.host()
    );
    std::fs::write(own.join("hosts.toml"), text).unwrap();
    let mut config = config();
    config.hosts_dirs = vec![dir.path().to_owned()];
    let client = Client::new(config).unwrap();
    let start = Instant::now();
    for _ in 0..3 {
        client.resolve(&app("app.example")).await.unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(2));
    let seen = mirror.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].target, "/v2/team/app/manifests/1?ns=app.example");
    assert_eq!(seen[0].header("x-key"), "s3cret");
    assert!(
        upstream
            .seen()
            .iter()
            .all(|s| !s.target.contains("ns=") && s.header("x-key").is_empty())
    );
}

#[tokio::test]
async fn redirects_to_another_host_take_no_credentials() {
    let bytes = blob(50_000);
    let whole = bytes.clone();
    let cdn = Server::new(move |seen| {
        assert_eq!(seen.query("sig").as_deref(), Some("s3cret"));
        serve(&whole, seen)
    });
    let to = format!("http://{}/some/where?sig=s3cret", cdn.host());
    let server = Server::new(move |seen| match seen.header("authorization") {
        "" => Reply::new(401).with("www-authenticate", "Basic realm=\"x\""),
        _ => Reply::redirect(&to),
    });
    let client = crate::logins::with_password(config(), &server.host());
    let got = read(&client, &app(&server.host()), &sha(&bytes), bytes.len(), 0).await;
    assert_eq!(got.unwrap(), bytes);
    assert!(
        server.seen()[1]
            .header("authorization")
            .starts_with("Basic ")
    );
    for seen in cdn.seen() {
        assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
        assert!(!seen.headers.contains_key("referer"));
    }
}

#[tokio::test]
async fn redirects_on_the_same_host_keep_them() {
    let bytes = blob(5000);
    let whole = bytes.clone();
    let server = Server::new(
        move |seen| match (seen.header("authorization"), seen.path()) {
            ("", _) => Reply::new(401).with("www-authenticate", "Basic realm=\"x\""),
            (_, "/moved") => serve(&whole, seen),
            _ => Reply::redirect("/moved"),
        },
    );
    let client = crate::logins::with_password(config(), &server.host());
    let got = read(&client, &app(&server.host()), &sha(&bytes), bytes.len(), 0).await;
    assert_eq!(got.unwrap(), bytes);
}

#[tokio::test]
async fn redirects_without_end() {
    let server = Server::new(|seen| Reply::redirect(&seen.target));
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "more than 5 redirects");
    assert_eq!(server.seen().len(), 6);
    let server = Server::new(|seen| match seen.number {
        n @ 0..11 => Reply::redirect(format!("/{n}")),
        _ => manifest(),
    });
    let e = client().resolve(&app(&server.host())).await.unwrap_err();
    good_error(&e, "more than 5 redirects");
    let server = Server::new(|seen| match seen.number {
        n @ 0..5 => Reply::redirect(format!("/{n}")),
        _ => manifest(),
    });
    client().resolve(&app(&server.host())).await.unwrap();
}

#[tokio::test]
async fn redirects_to_where_nobody_should_go() {
    for (to, part) in [
        ("file:///etc/passwd", "to `file` refused"),
        ("ftp://h/x", "to `ftp` refused"),
        ("http://169.254.169.254/latest?s3cret", "refused"),
        ("https://169.254.169.254/latest", "a link-local address"),
        ("https://[fe80::1]/latest", "a link-local address"),
        ("https://user:s3cret@localhost/x", "with credentials"),
        ("http://example.com/", "plain HTTP"),
        ("http://[", "without a target"),
    ] {
        let server = Server::new(move |_| Reply::redirect(to));
        let e = client().resolve(&app(&server.host())).await.unwrap_err();
        assert_eq!(e.kind(), Kind::Denied);
        good_error(&e, part);
        assert_eq!(server.seen().len(), 1, "{to}");
    }
}

#[tokio::test]
async fn a_signed_url_that_ends_is_asked_for_again() {
    let bytes = blob(3_000_000);
    let whole = bytes.clone();
    // Each address is good for two requests.
    let uses = std::sync::Mutex::new(std::collections::HashMap::<String, u32>::new());
    let cdn = Server::new(move |seen| {
        let mut uses = uses.lock().unwrap();
        let used = uses.entry(seen.target.clone()).or_default();
        *used += 1;
        if *used > 2 {
            return Reply::new(403);
        }
        let mut r = serve(&whole, seen);
        r.cut = (r.body.len() > 400_000).then_some(400_000);
        r
    });
    let host = cdn.host();
    let server =
        Server::new(move |seen| Reply::redirect(format!("http://{host}/blob?sig={}", seen.number)));
    let got = read(
        &client(),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert!(got.unwrap() == bytes);
    let mut parallel = config();
    parallel.parallel.streams = 3;
    parallel.parallel.part_bytes = 200_000;
    parallel.parallel.threshold_bytes = 200_000;
    parallel.parallel.after = Duration::ZERO;
    let client = Client::new(parallel).unwrap();
    let got = read(&client, &app(&server.host()), &sha(&bytes), bytes.len(), 0).await;
    assert!(got.unwrap() == bytes);
}

#[tokio::test]
async fn foreign_layers_only_where_allowed() {
    let bytes = blob(5000);
    let whole = bytes.clone();
    let elsewhere = Server::new(move |seen| serve(&whole, seen));
    let server = Server::new(|_| Reply::new(404));
    let (reference, digest) = (app(&server.host()), sha(&bytes));
    let urls = [format!("http://{}/layer", elsewhere.host())];
    let e = client()
        .blob(&reference, &digest, 5000, 0, &urls)
        .await
        .unwrap_err();
    good_error(&e, "foreign-layers");
    assert!(elsewhere.seen().is_empty());
    let mut allowed = config();
    allowed.foreign_layers = true;
    let client = Client::new(allowed).unwrap();
    let mut body = client
        .blob(&reference, &digest, 5000, 0, &urls)
        .await
        .unwrap();
    let mut out = Vec::new();
    while let Some(chunk) = body.chunk().await.unwrap() {
        out.extend_from_slice(&chunk);
    }
    assert_eq!(out, bytes);
    for url in [
        "http://example.com/x",
        "https://169.254.169.254/x",
        "file:///x",
        "x",
    ] {
        let e = client
            .blob(&reference, &digest, 5000, 0, &[url.to_owned()])
            .await
            .unwrap_err();
        assert!(e.hint().is_some(), "{e}");
    }
}

#[tokio::test]
async fn tags_by_the_page() {
    let server = Server::new(|seen| match seen.query("last").as_deref() {
        None => Reply::json(200, r#"{"name":"x","tags":["a","b"]}"#)
            .with("link", "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\""),
        Some("b") => Reply::json(200, r#"{"tags":["c"]}"#),
        _ => Reply::new(404),
    });
    let got = client().tags(&app(&server.host())).await.unwrap();
    assert_eq!(got, ["a", "b", "c"]);
    // Pages elsewhere are not followed; pages without end are left.
    let server = Server::new(|_| {
        Reply::json(200, r#"{"tags":["a"]}"#).with("link", "<http://example.com/>; rel=\"next\"")
    });
    assert_eq!(client().tags(&app(&server.host())).await.unwrap(), ["a"]);
    let server = Server::new(|_| Reply::json(200, r#"{"tags":null}"#));
    assert!(
        client()
            .tags(&app(&server.host()))
            .await
            .unwrap()
            .is_empty()
    );
    let server = Server::new(|_| Reply::json(200, "[]"));
    let e = client().tags(&app(&server.host())).await.unwrap_err();
    good_error(&e, "not a list of tags");
}
