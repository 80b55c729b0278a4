//! A thread that hashes.

use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Receiver;

use super::flow::Busy;
use crate::{
    digest::{Algorithm, Digest, Hasher},
    sys::thread_cpu,
};

/// Digest of all pieces, and what it cost.
pub(super) fn digest(pieces: &Receiver<Bytes>, algorithm: Algorithm) -> (Digest, Busy) {
    let mut hasher = Hasher::new(algorithm);
    let mut busy = Busy::default();
    for piece in pieces {
        let at = Instant::now();
        hasher.update(&piece);
        busy.bytes += piece.len() as u64;
        drop(piece);
        busy.wall += at.elapsed();
    }
    busy.cpu = thread_cpu();
    (hasher.finish(), busy)
}
