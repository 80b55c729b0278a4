//! Uploads to a registry that is slow, forgetful or picky.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use unlade_engine::{
    error::{Kind, Result},
    registry::{BodySource, Client, RegistryConfig, Uploaded},
};
use unlade_unpack::Cancel;

use crate::{
    app, config, good_error,
    server::{MANIFEST, Reply, Seen, Server, blob, sha},
};

/// What a registry holds, and what is under way.
#[derive(Default)]
pub struct Kept {
    pub blobs: HashMap<String, Vec<u8>>,
    uploads: HashMap<String, Vec<u8>>,
    next: usize,
}

type Change = Arc<dyn Fn(&Seen, &mut Kept) -> Option<Reply> + Send + Sync>;

/// A registry that takes uploads, unless `change` has its say.
fn registry(change: Change) -> (Server, Arc<Mutex<Kept>>) {
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let own = kept.clone();
    let server = Server::new(move |seen| {
        let mut kept = own.lock().unwrap();
        if let Some(reply) = change(seen, &mut kept) {
            return reply;
        }
        let path = seen.path().to_owned();
        let last = path.rsplit('/').next().unwrap().to_owned();
        let at = |id: &str, n: usize| {
            let place = format!("/v2/team/app/blobs/uploads/{id}?state=a%2Fb&x={n}");
            let reply = Reply::new(202).with("location", place);
            if n > 0 {
                reply.with("range", format!("0-{}", n - 1))
            } else {
                reply
            }
        };
        let uploading = path.contains("/blobs/uploads/") && !last.is_empty();
        if uploading && seen.query("state").as_deref() != Some("a/b") {
            return Reply::new(400).body("state lost");
        }
        match &*seen.method {
            "HEAD" if kept.blobs.contains_key(&last) => Reply::new(200),
            "HEAD" => Reply::new(404),
            "POST"
                if seen
                    .query("mount")
                    .is_some_and(|d| kept.blobs.contains_key(&d)) =>
            {
                Reply::new(201)
            }
            "POST" => {
                kept.next += 1;
                let id = kept.next.to_string();
                kept.uploads.insert(id.clone(), Vec::new());
                at(&id, 0)
            }
            "DELETE" => {
                kept.uploads.remove(&last);
                Reply::new(204)
            }
            "PUT" if path.contains("/manifests/") => {
                let digest = sha(&seen.body);
                kept.blobs.insert(digest.to_string(), seen.body.clone());
                Reply::new(201).with("docker-content-digest", digest)
            }
            _ => {
                let Some(upload) = kept.uploads.get_mut(&last) else {
                    return Reply::new(404);
                };
                if seen.method == "GET" {
                    let n = upload.len();
                    let mut reply = at(&last, n);
                    reply.status = 204;
                    return reply;
                }
                if seen.method == "PATCH" {
                    let range = seen.header("content-range");
                    let (first, end) = range.split_once('-').unwrap();
                    let (first, end): (usize, usize) =
                        (first.parse().unwrap(), end.parse().unwrap());
                    // A client that was cancelled stops in the middle.
                    if end + 1 - first != seen.body.len() {
                        return Reply::new(400);
                    }
                    if first != upload.len() {
                        return Reply::new(416);
                    }
                }
                upload.extend_from_slice(&seen.body);
                let n = upload.len();
                if seen.method == "PATCH" {
                    return at(&last, n);
                }
                let upload = kept.uploads.remove(&last).unwrap();
                let digest = sha(&upload).to_string();
                if seen.query("digest").as_ref() != Some(&digest) {
                    return Reply::json(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                kept.blobs.insert(digest, upload);
                Reply::new(201)
            }
        }
    });
    (server, kept)
}

pub fn good() -> (Server, Arc<Mutex<Kept>>) {
    registry(Arc::new(|_, _| None))
}

fn client(chunk: u64) -> Client {
    Client::new(RegistryConfig {
        upload_chunk_bytes: chunk,
        ..config()
    })
    .unwrap()
}

fn file(bytes: &[u8]) -> BodySource {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    BodySource::File(Arc::new(file))
}

async fn push(
    client: &Client,
    server: &Server,
    bytes: &[u8],
    source: BodySource,
) -> Result<Uploaded> {
    let told = Arc::new(Mutex::new(0));
    let last = told.clone();
    let progress = Arc::new(move |n| *last.lock().unwrap() = n);
    let cancel = Cancel::new();
    let (reference, digest) = (app(&server.host()), sha(bytes));
    let size = bytes.len() as u64;
    let done = client
        .upload(&reference, &digest, size, source, &cancel, progress)
        .await?;
    if done == Uploaded::Sent {
        assert_eq!(*told.lock().unwrap(), size);
    }
    Ok(done)
}

fn count(server: &Server, method: &str) -> usize {
    server.seen().iter().filter(|s| s.method == method).count()
}

#[tokio::test]
async fn whole_and_in_chunks() {
    let bytes = blob(3_000_000);
    for (chunk, patches) in [(1 << 30, 0), (1_000_000, 3), (999_999, 4)] {
        for source in [file(&bytes), BodySource::Bytes(Bytes::from(bytes.clone()))] {
            let (server, kept) = good();
            let client = client(chunk);
            let done = push(&client, &server, &bytes, source.clone())
                .await
                .unwrap();
            assert_eq!(done, Uploaded::Sent);
            assert_eq!(kept.lock().unwrap().blobs[&sha(&bytes).to_string()], bytes);
            assert_eq!(
                (count(&server, "PATCH"), count(&server, "PUT")),
                (patches, 1)
            );
            let again = push(&client, &server, &bytes, source).await.unwrap();
            assert_eq!((again, count(&server, "PUT")), (Uploaded::Existed, 1));
        }
    }
    let (server, kept) = good();
    push(&client(10), &server, b"", file(b"")).await.unwrap();
    assert!(
        kept.lock()
            .unwrap()
            .blobs
            .contains_key(&sha(b"").to_string())
    );
}

#[tokio::test]
async fn the_smallest_chunk_that_the_registry_wants() {
    let bytes = blob(100_000);
    let (server, _) = registry(Arc::new(|seen, kept| {
        (seen.method == "POST").then(|| {
            kept.uploads.insert("1".into(), Vec::new());
            Reply::new(202)
                .with("location", "1?state=a%2Fb")
                .with("oci-chunk-min-length", 40_000)
        })
    }));
    push(&client(1000), &server, &bytes, file(&bytes))
        .await
        .unwrap();
    assert_eq!(count(&server, "PATCH"), 3);
}

#[tokio::test]
async fn an_upload_that_breaks_off_goes_on() {
    let bytes = blob(500_000);
    // A chunk is half taken, and the answer lost.
    let broken = Arc::new(Mutex::new(0));
    let (server, kept) = registry(Arc::new(move |seen, kept| {
        let mut broken = broken.lock().unwrap();
        if seen.method != "PATCH" || *broken == 2 || seen.header("content-range").starts_with("0-")
        {
            return None;
        }
        *broken += 1;
        let id = seen.path().rsplit('/').next().unwrap();
        let upload = kept.uploads.get_mut(id).unwrap();
        upload.extend_from_slice(&seen.body[..seen.body.len() / 2]);
        Some(match *broken {
            1 => Reply::new(503),
            _ => Reply {
                cut: Some(0),
                length: Some(5),
                ..Reply::new(202)
            },
        })
    }));
    let done = push(&client(100_000), &server, &bytes, file(&bytes)).await;
    assert_eq!(done.unwrap(), Uploaded::Sent);
    assert_eq!(kept.lock().unwrap().blobs[&sha(&bytes).to_string()], bytes);
    assert!(count(&server, "GET") >= 1);
    assert_eq!(count(&server, "POST"), 1);
}

#[tokio::test]
async fn an_upload_that_is_lost_begins_anew() {
    let bytes = blob(300_000);
    for chunk in [100_000, 1 << 30] {
        let lost = Mutex::new(false);
        let (server, kept) = registry(Arc::new(move |seen, kept| {
            let mut lost = lost.lock().unwrap();
            let late = seen.method == "PUT" || seen.header("content-range").starts_with("100000-");
            if *lost || !late {
                return None;
            }
            *lost = true;
            kept.uploads.clear();
            Some(Reply::new(500))
        }));
        push(&client(chunk), &server, &bytes, file(&bytes))
            .await
            .unwrap();
        assert_eq!(count(&server, "POST"), 2);
        assert_eq!(kept.lock().unwrap().blobs[&sha(&bytes).to_string()], bytes);
    }
}

#[tokio::test]
async fn registries_without_chunks() {
    let bytes = blob(300_000);
    let (server, kept) = registry(Arc::new(|seen, _| {
        (seen.method == "PATCH").then(|| Reply::new(405))
    }));
    push(&client(1000), &server, &bytes, file(&bytes))
        .await
        .unwrap();
    assert_eq!(kept.lock().unwrap().blobs.len(), 1);
    assert_eq!(count(&server, "PATCH"), 1);
}

#[tokio::test]
async fn refusals_and_what_is_left_behind() {
    let bytes = blob(300_000);
    let (server, kept) = registry(Arc::new(|seen, _| {
        (seen.method == "PUT")
            .then(|| Reply::json(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#))
    }));
    let e = push(&client(100_000), &server, &bytes, file(&bytes))
        .await
        .unwrap_err();
    good_error(&e, "DIGEST_INVALID");
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(kept.lock().unwrap().uploads.is_empty(), "not taken back");
    // A server that is never there.
    let (server, _) = registry(Arc::new(|seen, _| {
        (seen.method == "PUT").then(|| Reply::new(502))
    }));
    let e = push(&client(1 << 30), &server, &bytes, file(&bytes))
        .await
        .unwrap_err();
    good_error(&e, "after 5 tries");
    assert_eq!(count(&server, "PUT"), 5);
    // Elsewhere.
    let (server, _) = registry(Arc::new(|seen, _| {
        let to = "http://169.254.169.254/x?s3cret";
        (seen.method == "POST").then(|| Reply::new(202).with("location", to))
    }));
    let e = push(&client(1 << 30), &server, &bytes, file(&bytes))
        .await
        .unwrap_err();
    good_error(&e, "refused");
    let (server, _) = registry(Arc::new(|seen, _| {
        (seen.method == "POST").then(|| Reply::new(202))
    }));
    let e = push(&client(1 << 30), &server, &bytes, file(&bytes))
        .await
        .unwrap_err();
    good_error(&e, "no place to upload to");
}

#[tokio::test]
async fn a_cancelled_upload_is_taken_back() {
    let bytes = blob(300_000);
    let cancel = Cancel::new();
    let flag = cancel.clone();
    let (server, kept) = registry(Arc::new(move |seen, _| {
        (seen.header("content-range").starts_with("100000-")).then(|| {
            flag.cancel();
            Reply {
                stall: Some(0),
                ..Reply::new(202).body("x")
            }
        })
    }));
    let (client, reference, digest) = (client(100_000), app(&server.host()), sha(&bytes));
    let e = client
        .upload(
            &reference,
            &digest,
            300_000,
            file(&bytes),
            &cancel,
            Arc::new(|_| ()),
        )
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Cancelled);
    for _ in 0..100 {
        if count(&server, "DELETE") > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(count(&server, "DELETE"), 1);
    assert!(kept.lock().unwrap().uploads.is_empty());
}

#[tokio::test]
async fn mounts() {
    let (server, kept) = good();
    let from = unlade_engine::image::Reference::parse(&format!("{}/base", server.host())).unwrap();
    let (reference, digest) = (app(&server.host()), sha(b"x"));
    let client = client(1 << 20);
    // Not there: an upload begins, which is taken back.
    assert!(!client.mount(&reference, &digest, &from).await.unwrap());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(kept.lock().unwrap().uploads.is_empty());
    kept.lock()
        .unwrap()
        .blobs
        .insert(digest.to_string(), b"x".to_vec());
    assert!(client.mount(&reference, &digest, &from).await.unwrap());
    let post = server
        .seen()
        .into_iter()
        .rfind(|s| s.method == "POST")
        .unwrap();
    assert_eq!(post.query("from").as_deref(), Some("base"));
    let other = unlade_engine::image::Reference::parse("other.example/base").unwrap();
    assert!(!client.mount(&reference, &digest, &other).await.unwrap());
    // Two scopes in one token.
    let scopes = Arc::new(Mutex::new(String::new()));
    let seen_scopes = scopes.clone();
    let tokens = Server::new(move |seen| {
        *seen_scopes.lock().unwrap() = seen.target.clone();
        Reply::json(200, r#"{"token":"t"}"#)
    });
    let realm = format!("Bearer realm=\"http://{}/t\"", tokens.host());
    let server = Server::new(move |seen| match seen.header("authorization") {
        "" => Reply::new(401).with("www-authenticate", &realm),
        _ => Reply::new(201),
    });
    let from = unlade_engine::image::Reference::parse(&format!("{}/base", server.host())).unwrap();
    assert!(
        client
            .mount(&app(&server.host()), &digest, &from)
            .await
            .unwrap()
    );
    let scopes = scopes.lock().unwrap();
    assert!(
        scopes.contains("repository%3Ateam%2Fapp%3Apull%2Cpush"),
        "{scopes}"
    );
    assert!(scopes.contains("repository%3Abase%3Apull"), "{scopes}");
}

#[tokio::test]
async fn manifests_last() {
    let (server, kept) = good();
    let (client, reference) = (client(1 << 20), app(&server.host()));
    let bytes = Bytes::from_static(MANIFEST.as_bytes());
    let media = "application/vnd.oci.image.manifest.v1+json";
    let digest = client
        .put_manifest(&reference, bytes.clone(), media, Some("2"))
        .await
        .unwrap();
    assert_eq!(digest, sha(&bytes));
    client
        .put_manifest(&reference, bytes.clone(), media, None)
        .await
        .unwrap();
    let lines = server.lines();
    assert_eq!(lines[0], "PUT /v2/team/app/manifests/2");
    assert_eq!(lines[1], format!("PUT /v2/team/app/manifests/{digest}"));
    assert_eq!(server.seen()[0].header("content-type"), media);
    assert_eq!(kept.lock().unwrap().blobs.len(), 1);
    let server = Server::new(|_| Reply::new(201).with("docker-content-digest", sha(b"other")));
    let e = client
        .put_manifest(&app(&server.host()), bytes, media, None)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
}
