//! The registry client against registries that break every rule, and against Debian's.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod again;
mod answers;
mod bodies;
mod logins;
mod peers;
mod pushes;
mod real;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use unlade_engine::{
    error::{Error, Result},
    image::Reference,
    registry::{Client, ParallelRanges, RegistryConfig},
};
use unlade_unpack::Digest;

/// Nothing of this machine, and short pauses.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        system_roots: false,
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_secs(5),
        backoff: Duration::from_millis(2),
        seed: Some(7),
        parallel: ParallelRanges {
            streams: 1,
            ..ParallelRanges::default()
        },
        ..RegistryConfig::isolated()
    }
}

pub fn client() -> Client {
    Client::new(config()).unwrap()
}

/// `HOST/team/app:1`
pub fn app(host: &str) -> Reference {
    Reference::parse(&format!("{host}/team/app:1")).unwrap()
}

pub async fn read(
    client: &Client,
    reference: &Reference,
    digest: &Digest,
    size: usize,
    from: usize,
) -> Result<Vec<u8>> {
    let (size, at) = (size as u64, from as u64);
    let mut body = client.blob(reference, digest, size, at, &[]).await?;
    let mut out = Vec::new();
    while let Some(bytes) = body.chunk().await? {
        assert!(!bytes.is_empty());
        out.extend_from_slice(&bytes);
        assert_eq!(body.position(), at + out.len() as u64);
        assert!(body.position() <= size);
    }
    assert!(body.chunk().await?.is_none());
    Ok(out)
}

/// Every error names something to do, and no secret.
#[track_caller]
pub fn good_error(e: &Error, part: &str) {
    let text = format!("{e:?}");
    assert!(text.contains(part), "`{part}` is not in: {text}");
    assert!(e.hint().is_some(), "no hint: {text}");
    assert!(!text.contains("s3cret"), "{text}");
    assert!(!e.message().contains('?'), "{text}");
}
