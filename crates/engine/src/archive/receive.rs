//! Who takes the blobs of an archive as they pass.

use unlade_unpack::Digest;

use crate::error::Result;

/// Takes blobs. The bytes of one are complete and right when [`Receive::end`] is called, and not
/// before; those of a blob that no image needs may be given too.
pub trait Receive {
    /// A blob begins. `false` says that its bytes are not wanted: it is there already.
    ///
    /// # Errors
    /// Whatever keeps it from being taken; the load fails with it.
    fn begin(&mut self, digest: &Digest, size: u64) -> Result<bool>;

    /// The next bytes of the blob that has begun.
    ///
    /// # Errors
    /// As [`Receive::begin`].
    fn data(&mut self, bytes: &[u8]) -> Result<()>;

    /// The blob is complete, and its bytes have its digest.
    ///
    /// # Errors
    /// As [`Receive::begin`].
    fn end(&mut self, digest: &Digest) -> Result<()>;

    /// Reads a blob that was taken, or was there already; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is longer than `most` bytes.
    fn read(&mut self, digest: &Digest, most: u64) -> Result<Option<Vec<u8>>>;

    /// The size of a blob that was taken, or was there already, in bytes; `None` if there is
    /// none.
    ///
    /// # Errors
    /// If it cannot be found out.
    fn size(&mut self, digest: &Digest) -> Result<Option<u64>>;
}
