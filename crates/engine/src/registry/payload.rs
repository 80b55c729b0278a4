//! What a request carries; it can be sent again.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, stream};

/// How much of a file is read at once, in bytes.
const READ: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub(super) enum Payload {
    Empty,
    Bytes(Bytes),
    File(FilePart),
}

/// Is told how far a body has been sent, in bytes of the whole.
pub(super) type Told = Arc<dyn Fn(u64) + Send + Sync>;

/// A part of a file.
#[derive(Clone)]
pub(super) struct FilePart {
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) told: Told,
}

impl fmt::Debug for FilePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePart({}+{})", self.offset, self.len)
    }
}

impl FilePart {
    /// Its bytes, read as they are needed; `moved` counts them.
    pub(super) fn stream(
        &self,
        moved: Arc<AtomicU64>,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (file, end, told) = (self.file.clone(), self.offset + self.len, self.told.clone());
        stream::try_unfold(self.offset, move |at| {
            let (file, moved, told) = (file.clone(), moved.clone(), told.clone());
            async move {
                if at >= end {
                    return Ok(None);
                }
                let want = usize::try_from((end - at).min(READ)).unwrap_or(usize::MAX);
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; want];
                    file.read_exact_at(&mut bytes, at).map(|()| bytes)
                });
                let bytes = read.await.map_err(io::Error::other)??;
                let next = at + bytes.len() as u64;
                moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                told(next);
                Ok(Some((Bytes::from(bytes), next)))
            }
        })
    }
}
