//! Where a blob's bytes come from.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    cancel::Cancel,
    pool::{Pool, Share},
};

/// Size of the pieces read from files and pipes, in bytes.
const CHUNK: usize = 128 << 10;

/// A blob as it is stored or sent. Pulled by a thread of the pipeline, so it may block.
pub trait BlobSource: Send + 'static {
    /// The next bytes, in pieces of any size above 0; `None` at the end.
    ///
    /// # Errors
    /// Whatever keeps the bytes from coming; the layer fails with it.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;

    /// Length of the blob in bytes where it is known. Untrusted: used for progress and for
    /// choosing a decoder.
    fn len_hint(&self) -> Option<u64> {
        None
    }

    /// Whether every byte can be had without waiting for anything but this machine.
    fn is_local(&self) -> bool {
        false
    }
}

impl BlobSource for Box<dyn BlobSource> {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        (**self).next_chunk()
    }

    fn len_hint(&self) -> Option<u64> {
        (**self).len_hint()
    }

    fn is_local(&self) -> bool {
        (**self).is_local()
    }
}

static GO: AtomicBool = AtomicBool::new(false);

/// Re-used read buffers: pieces come back here once decoded and hashed.
#[derive(Debug)]
struct Buffers(Pool);

impl Buffers {
    fn new() -> Self {
        Self(Pool::new(CHUNK, usize::MAX))
    }

    fn read(
        &self,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<Bytes>> {
        let mut block = self
            .0
            .take(|| Share::All, &Cancel::new(), &GO)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let most = most.min(CHUNK);
        let n = read(&mut block.spare()[..most])?;
        block.fill(n);
        Ok((n > 0).then(|| block.freeze()))
    }
}

/// A regular file or a range of one. Read, not mapped: a file that someone truncates must give
/// an error, not a signal.
#[derive(Debug)]
pub struct FileSource {
    file: Arc<File>,
    at: u64,
    left: u64,
    len: u64,
    buffers: Buffers,
}

impl FileSource {
    /// The whole file, as long as it is now.
    ///
    /// # Errors
    /// If the file's length cannot be read.
    pub fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::range(Arc::new(file), 0, len))
    }

    /// `len` bytes from byte `start`.
    pub fn range(file: Arc<File>, start: u64, len: u64) -> Self {
        Self {
            file,
            at: start,
            left: len,
            len,
            buffers: Buffers::new(),
        }
    }
}

impl BlobSource for FileSource {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let most = usize::try_from(self.left).unwrap_or(CHUNK);
        let chunk = self
            .buffers
            .read(most, |buf| retry(|| self.file.read_at(buf, self.at)))?;
        let Some(chunk) = chunk else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends {} bytes early", self.left),
            ));
        };
        self.at += chunk.len() as u64;
        self.left -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.len)
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Any reader: a pipe, a socket, a decoder of something else.
#[derive(Debug)]
pub struct ReadSource<R> {
    reader: R,
    buffers: Buffers,
}

impl<R: Read + Send + 'static> ReadSource<R> {
    /// Reads `reader` to its end.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffers: Buffers::new(),
        }
    }
}

impl<R: Read + Send + 'static> BlobSource for ReadSource<R> {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let reader = &mut self.reader;
        self.buffers.read(CHUNK, |buf| retry(|| reader.read(buf)))
    }
}

/// Bytes that are already in memory.
#[derive(Debug)]
pub struct BytesSource {
    bytes: Bytes,
    len: u64,
}

impl BytesSource {
    /// All of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            len: bytes.len() as u64,
            bytes,
        }
    }
}

impl BlobSource for BytesSource {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        let n = self.bytes.len().min(CHUNK);
        Ok((n > 0).then(|| self.bytes.split_to(n)))
    }

    fn len_hint(&self) -> Option<u64> {
        Some(self.len)
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// The receiving end of [`channel`].
#[derive(Debug)]
pub struct ChannelSource {
    chunks: Receiver<io::Result<Option<Bytes>>>,
    len: Option<u64>,
}

/// The sending end of [`channel`]: give it chunks as they arrive, then [`ChannelWriter::finish`].
#[derive(Debug)]
pub struct ChannelWriter {
    chunks: Sender<io::Result<Option<Bytes>>>,
}

/// A source that another thread fills, such as one that receives from a network.
///
/// At most `chunks` pieces wait in between; then [`ChannelWriter::send`] blocks, which is how
/// a slow disk slows the network. A writer dropped before `finish` makes the layer fail: a cut
/// connection never looks like the end of a blob.
pub fn channel(chunks: usize, len: Option<u64>) -> (ChannelWriter, ChannelSource) {
    let (sender, receiver) = bounded(chunks.max(1));
    (
        ChannelWriter { chunks: sender },
        ChannelSource {
            chunks: receiver,
            len,
        },
    )
}

impl ChannelWriter {
    /// Passes `chunk` on; waits while the channel is full. `false` when the layer has failed or
    /// was cancelled and takes no more.
    #[must_use]
    pub fn send(&self, chunk: Bytes) -> bool {
        chunk.is_empty() || self.chunks.send(Ok(Some(chunk))).is_ok()
    }

    /// The blob is complete.
    pub fn finish(self) {
        // A receiver that is gone has its reason already.
        let _ = self.chunks.send(Ok(None));
    }

    /// The blob cannot be completed; the layer fails with `error`.
    pub fn fail(self, error: io::Error) {
        let _ = self.chunks.send(Err(error));
    }
}

impl BlobSource for ChannelSource {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        self.chunks.recv().unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the sender stopped before the blob was complete",
            ))
        })
    }

    fn len_hint(&self) -> Option<u64> {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn all(mut source: impl BlobSource) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while let Some(chunk) = source.next_chunk()? {
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    }

    #[test]
    fn all_sources_give_the_same_bytes() {
        let data: Vec<u8> = (0..300_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        assert_eq!(
            all(FileSource::new(file.try_clone().unwrap()).unwrap()).unwrap(),
            data
        );
        let range = FileSource::range(Arc::new(file.try_clone().unwrap()), 7, 1000);
        assert_eq!(all(range).unwrap(), data[7..1007]);
        assert_eq!(all(BytesSource::new(data.clone())).unwrap(), data);
        assert_eq!(
            all(ReadSource::new(io::Cursor::new(data.clone()))).unwrap(),
            data
        );
        file.set_len(10).unwrap();
        assert!(all(FileSource::range(Arc::new(file), 0, 11)).is_err());
    }

    #[test]
    fn a_channel_knows_a_cut_from_an_end() {
        let (writer, source) = channel(4, None);
        assert!(writer.send(Bytes::from_static(b"abc")));
        drop(writer);
        assert_eq!(
            all(source).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        let (writer, source) = channel(4, None);
        assert!(writer.send(Bytes::from_static(b"abc")));
        writer.finish();
        assert_eq!(all(source).unwrap(), b"abc");
    }
}
