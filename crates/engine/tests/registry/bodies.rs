//! Tests 17 to 20 of the reliability plan: bodies that break off, lie, stall or never end.

use std::time::{Duration, Instant};

use unlade_engine::{
    error::Kind,
    registry::{Client, ParallelRanges},
};

use crate::{
    app, client, config, good_error, read,
    server::{Reply, Seen, Server, blob, serve, sha},
};

const MIB: usize = 1 << 20;

/// A server whose answer for the blob `change` may spoil.
fn spoilt(bytes: &[u8], change: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let bytes = bytes.to_vec();
    Server::new(move |seen| change(seen, serve(&bytes, seen)))
}

#[tokio::test]
async fn a_good_blob_comes_in_one_request() {
    let bytes = blob(3 * MIB + 17);
    let server = spoilt(&bytes, |_, r| r);
    let got = read(
        &client(),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert_eq!(got.unwrap(), bytes);
    let path = format!("GET /v2/team/app/blobs/{}", sha(&bytes));
    assert_eq!(server.lines(), [path]);
    let seen = &server.seen()[0];
    assert_eq!(
        seen.header("user-agent"),
        concat!("unlade/", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        (seen.header("range"), seen.header("accept-encoding")),
        ("", "identity")
    );
}

#[tokio::test]
async fn a_part_that_is_kept_is_not_fetched_again() {
    let bytes = blob(MIB);
    let server = spoilt(&bytes, |_, r| r);
    let got = read(&client(), &app(&server.host()), &sha(&bytes), MIB, 1000).await;
    assert_eq!(got.unwrap(), bytes[1000..]);
    assert_eq!(server.seen()[0].header("range"), "bytes=1000-1048575");
    let got = read(&client(), &app(&server.host()), &sha(&bytes), MIB, MIB).await;
    assert_eq!(got.unwrap(), b"");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn resets_at_every_mebibyte() {
    for reset in [false, true] {
        let bytes = blob(12 * MIB + 5);
        let server = spoilt(&bytes, move |_, mut r| {
            r.cut = (r.body.len() > MIB).then_some(MIB);
            r.reset = reset;
            r
        });
        let got = read(
            &client(),
            &app(&server.host()),
            &sha(&bytes),
            bytes.len(),
            0,
        )
        .await;
        assert_eq!(got.unwrap(), bytes);
        let seen = server.seen();
        assert!(seen.len() >= 13, "{}", seen.len());
        // A reset may take with it what was on its way; nothing is fetched twice.
        let starts: Vec<usize> = seen[1..]
            .iter()
            .map(|s| {
                let range = s.header("range").strip_prefix("bytes=").unwrap();
                range.split_once('-').unwrap().0.parse().unwrap()
            })
            .collect();
        assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
        if !reset {
            let want: Vec<usize> = (1..13).map(|n| n * MIB).collect();
            assert_eq!(starts, want);
        }
        assert!(seen[1..].iter().all(|s| !s.header("if-range").is_empty()));
    }
}

#[tokio::test]
async fn a_reset_at_every_byte_near_the_edges() {
    let bytes = blob(4000);
    for k in (0..40).chain(3960..4000) {
        let server = spoilt(&bytes, move |seen, mut r| {
            r.cut = (seen.number == 0).then_some(k);
            r
        });
        let got = read(&client(), &app(&server.host()), &sha(&bytes), 4000, 0).await;
        assert_eq!(got.unwrap(), bytes, "cut at {k}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn without_progress_it_gives_up() {
    let bytes = blob(2000);
    let server = spoilt(&bytes, |seen, mut r| {
        r.cut = Some(if seen.number == 0 { 1000 } else { 0 });
        r
    });
    let e = read(&client(), &app(&server.host()), &sha(&bytes), 2000, 0)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Network);
    good_error(&e, "at byte 1000 of 2000");
    assert_eq!(server.seen().len(), 4);
    // With a little progress each time, not for ever either.
    let server = spoilt(&bytes, |_, mut r| {
        r.cut = Some(1);
        r
    });
    let e = read(&client(), &app(&server.host()), &sha(&bytes), 2000, 0)
        .await
        .unwrap_err();
    good_error(&e, "at byte 5 of 2000");
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_start() {
    let bytes = blob(300_000);
    let whole = bytes.clone();
    let server = spoilt(&bytes, move |seen, _| {
        let mut r = Reply::new(200).body(whole.clone());
        r.cut = (seen.number == 0).then_some(200_001);
        r
    });
    let got = read(
        &client(),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert_eq!(got.unwrap(), bytes);
    assert_eq!(server.seen()[1].header("range"), "bytes=200001-299999");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn other_contents_are_never_joined() {
    let (bytes, other) = (blob(2000), vec![7; 2000]);
    // Another ETag: whole, as If-Range asks for, or the range all the same.
    for honours_if_range in [true, false] {
        let (first, second) = (bytes.clone(), other.clone());
        let server = Server::new(move |seen| {
            if seen.number == 0 {
                let mut r = serve(&first, seen);
                r.cut = Some(500);
                return r;
            }
            let mut seen = seen.clone();
            if !honours_if_range {
                seen.headers.remove("if-range");
            }
            serve(&second, &seen)
        });
        let e = read(&client(), &app(&server.host()), &sha(&bytes), 2000, 0)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Integrity);
        good_error(&e, "changed while it was fetched");
    }
}

#[tokio::test]
async fn ranges_that_were_not_asked_for() {
    let bytes = blob(2000);
    for range in [
        "bytes 0-1499/2000",
        "bytes 501-1999/2000",
        "bytes 500-1999/2001",
        "bytes 500-2000/2001",
        "bytes 500-1998/2000",
        "bytes 500-",
        "",
    ] {
        let whole = bytes.clone();
        let server = spoilt(&bytes, move |seen, mut r| {
            if seen.number == 0 {
                r.cut = Some(500);
                return r;
            }
            if seen.header("range").is_empty() {
                return Reply::new(200).body(whole.clone());
            }
            // The right bytes under the wrong name, or the wrong ones.
            r.headers.retain(|(n, _)| n != "content-range");
            r.with("content-range", range)
        });
        // Never joined; read again from the start.
        let got = read(&client(), &app(&server.host()), &sha(&bytes), 2000, 0).await;
        assert_eq!(got.unwrap(), bytes, "{range}");
        let seen = server.seen();
        assert_eq!(seen.last().unwrap().header("range"), "", "{range}");
    }
    // And where that is all it does.
    let server = spoilt(&bytes, |seen, mut r| {
        if seen.number == 0 {
            r.cut = Some(500);
            return r;
        }
        Reply::new(206)
            .with("content-range", "bytes 0-1499/2000")
            .body(vec![1; 1500])
    });
    let e = read(&client(), &app(&server.host()), &sha(&bytes), 2000, 0)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
    good_error(&e, "offered");
}

#[tokio::test]
async fn a_shorter_range_is_gone_on_from() {
    let bytes = blob(10_000);
    let server = spoilt(&bytes, |seen, mut r| {
        if seen.number == 0 {
            r.cut = Some(100);
        } else if r.body.len() > 3000 {
            let range = r
                .headers
                .iter()
                .find(|(n, _)| n == "content-range")
                .unwrap();
            let first = range.1[6..]
                .split('-')
                .next()
                .unwrap()
                .parse::<usize>()
                .unwrap();
            r.headers.retain(|(n, _)| n != "content-range");
            r.body.truncate(3000);
            r = r.with(
                "content-range",
                format!("bytes {first}-{}/10000", first + 2999),
            );
        }
        r
    });
    let got = read(&client(), &app(&server.host()), &sha(&bytes), 10_000, 0).await;
    assert_eq!(got.unwrap(), bytes);
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn wrong_lengths_are_refused() {
    let bytes = blob(100_000);
    let digest = sha(&bytes);
    let want = bytes.len() + 1;
    // Honest about a wrong size.
    let server = spoilt(&bytes, |_, r| r);
    let e = read(&client(), &app(&server.host()), &digest, want, 0)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Integrity);
    good_error(&e, "100000 bytes, not 100001");
    // One short, framed so that the length is not told before.
    let server = spoilt(&bytes, |_, _| {
        let mut r = Reply::new(200).body(blob(99_999));
        r.chunked = true;
        r
    });
    let e = read(&client(), &app(&server.host()), &digest, 100_000, 0)
        .await
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Network);
    good_error(&e, "at byte 99999 of 100000: ended early");
    // One long, and one that does not end.
    for endless in [false, true] {
        let server = spoilt(&bytes, move |_, _| {
            let mut r = Reply::new(200).body(blob(if endless { 5000 } else { 100_001 }));
            r.chunked = !endless;
            r.endless = endless;
            r
        });
        let e = read(&client(), &app(&server.host()), &digest, 100_000, 0)
            .await
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Integrity);
        good_error(&e, "more than its 100000 bytes");
    }
    // Wrong bytes of the right length are for whoever verifies the digest; documents are
    // verified here.
    let wrong = vec![1; 100_000];
    let server = spoilt(&wrong, |_, r| r);
    let got = read(&client(), &app(&server.host()), &digest, 100_000, 0)
        .await
        .unwrap();
    assert!(got == wrong && sha(&got) != digest);
}

#[tokio::test]
async fn documents_are_verified() {
    let bytes = blob(5000);
    let descriptor = |size| unlade_engine::image::Descriptor {
        media_type: "application/vnd.oci.image.config.v1+json".into(),
        digest: sha(&bytes),
        size,
        platform: None,
        annotations: Default::default(),
        urls: Vec::new(),
    };
    let server = spoilt(&bytes, |_, r| r);
    let got = client()
        .document(&app(&server.host()), &descriptor(5000), 5000)
        .await;
    assert_eq!(got.unwrap(), bytes);
    let e = client()
        .document(&app(&server.host()), &descriptor(5000), 4999)
        .await;
    assert_eq!(e.unwrap_err().kind(), Kind::Limit);
    for (size, body, chunked, part) in [
        (5000, vec![0; 5000], false, "digest is"),
        (5000, blob(4999), false, "4999 bytes, not 5000"),
        (5000, blob(5001), false, "more than 5000 bytes"),
        (5000, blob(9000), true, "more than 5000 bytes"),
    ] {
        let server = Server::new(move |_| {
            let mut r = Reply::new(200).body(body.clone());
            r.chunked = chunked;
            r
        });
        let e = client()
            .document(&app(&server.host()), &descriptor(size), 1 << 20)
            .await
            .unwrap_err();
        assert!(matches!(e.kind(), Kind::Integrity | Kind::Limit));
        good_error(&e, part);
    }
    // One that breaks off is asked for again.
    let server = spoilt(&bytes, |seen, mut r| {
        r.cut = (seen.number < 2).then_some(10);
        r
    });
    let got = client()
        .document(&app(&server.host()), &descriptor(5000), 5000)
        .await;
    assert_eq!(got.unwrap(), bytes);
}

#[tokio::test]
async fn encoded_bodies_are_refused() {
    let bytes = blob(1000);
    let server = spoilt(&bytes, |_, r| r.with("content-encoding", "gzip"));
    let e = read(&client(), &app(&server.host()), &sha(&bytes), 1000, 0)
        .await
        .unwrap_err();
    good_error(&e, "encoded");
}

#[tokio::test]
async fn stalls_time_out_and_go_on() {
    let bytes = blob(300_000);
    let server = spoilt(&bytes, |seen, mut r| {
        r.stall = (seen.number == 0).then_some(150_000);
        r
    });
    let start = Instant::now();
    let got = read(&quick(), &app(&server.host()), &sha(&bytes), bytes.len(), 0).await;
    assert_eq!(got.unwrap(), bytes);
    assert_eq!(server.seen()[1].header("range"), "bytes=150000-299999");
    assert!(start.elapsed() < Duration::from_secs(5));
    // Always.
    let server = spoilt(&bytes, |_, mut r| {
        r.stall = Some(0);
        r
    });
    let e = read(&quick(), &app(&server.host()), &sha(&bytes), bytes.len(), 0)
        .await
        .unwrap_err();
    good_error(&e, "no progress for 0.4 s");
}

#[tokio::test]
async fn slow_loris() {
    let bytes = blob(100_000);
    // A byte now and then is no progress.
    let server = spoilt(&bytes, |_, mut r| {
        r.trickle = Some(Duration::from_millis(20));
        r
    });
    let start = Instant::now();
    let e = read(&quick(), &app(&server.host()), &sha(&bytes), bytes.len(), 0)
        .await
        .unwrap_err();
    good_error(&e, "no progress");
    let server = spoilt(&bytes, |_, mut r| {
        r.slow_head = Some(Duration::from_millis(50));
        r
    });
    let e = read(&quick(), &app(&server.host()), &sha(&bytes), bytes.len(), 0)
        .await
        .unwrap_err();
    good_error(&e, "no progress");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_reader_that_is_busy_is_no_stall() {
    let bytes = blob(4 * MIB);
    let server = spoilt(&bytes, |_, r| r);
    let (reference, digest) = (app(&server.host()), sha(&bytes));
    let client = quick();
    let mut body = client
        .blob(&reference, &digest, bytes.len() as u64, 0, &[])
        .await
        .unwrap();
    let mut out = Vec::new();
    while let Some(chunk) = body.chunk().await.unwrap() {
        if out.is_empty() {
            tokio::time::sleep(Duration::from_millis(900)).await;
        }
        out.extend_from_slice(&chunk);
    }
    assert!(out == bytes && server.seen().len() == 1);
}

/// Does not wait for long.
fn quick() -> Client {
    Client::new(unlade_engine::registry::RegistryConfig {
        stall_timeout: Duration::from_millis(400),
        ..config()
    })
    .unwrap()
}

fn parallel(streams: usize) -> Client {
    let mut config = config();
    config.parallel = ParallelRanges {
        streams,
        part_bytes: 100_000,
        threshold_bytes: 200_000,
        after: Duration::ZERO,
    };
    Client::new(config).unwrap()
}

#[tokio::test]
async fn parallel_ranges_come_in_order() {
    for len in [100_000, 250_000, 1_000_000, 1_000_001, 3_333_333] {
        let bytes = blob(len);
        let server = spoilt(&bytes, |seen, r| {
            // Later parts are faster.
            let pause = 12_u64.saturating_sub(seen.number as u64 * 2);
            std::thread::sleep(Duration::from_millis(pause));
            r
        });
        for from in [0, 77_777] {
            let client = parallel(4);
            let got = read(&client, &app(&server.host()), &sha(&bytes), len, from).await;
            assert!(got.unwrap() == bytes[from..], "{len} from {from}");
        }
        let parts = server
            .seen()
            .iter()
            .filter(|s| !s.header("range").is_empty())
            .count();
        assert_eq!(parts > 2, len > 200_000, "{len}: {parts}");
    }
}

#[tokio::test]
async fn parallel_ranges_survive_what_one_does() {
    let bytes = blob(2_000_000);
    let server = spoilt(&bytes, |seen, mut r| {
        r.cut = (seen.number % 3 == 1).then_some(r.body.len() / 2);
        r
    });
    let got = read(
        &parallel(4),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert!(got.unwrap() == bytes);
    // Without ranges: one stream again, wherever it stood.
    let whole = bytes.clone();
    let server = spoilt(&bytes, move |_, _| Reply::new(200).body(whole.clone()));
    let got = read(
        &parallel(4),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert!(got.unwrap() == bytes);
    assert!(server.seen().len() < 9, "{}", server.seen().len());
    // Ranges that are wrong.
    let server = spoilt(&bytes, |seen, mut r| {
        if !seen.header("range").is_empty() && r.status == 206 {
            r.headers.retain(|(n, _)| n != "content-range");
            r = r.with("content-range", "bytes 0-99999/2000000");
        }
        r
    });
    let got = read(
        &parallel(4),
        &app(&server.host()),
        &sha(&bytes),
        bytes.len(),
        0,
    )
    .await;
    assert!(got.unwrap() == bytes);
}
