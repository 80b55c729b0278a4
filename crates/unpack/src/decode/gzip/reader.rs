//! The streaming decoder as others use it.

use std::io::{self, BufRead, BufReader, Read};

use super::{checkpoint::Checkpoint, header::cut, stream::Gzip};
use crate::{decode::Progress, error::Result};

/// A streaming decoder of a gzip file with any number of members.
#[derive(Debug, Default)]
pub struct Decoder(Box<Gzip>);

impl Decoder {
    /// At the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// At a checkpoint: input goes on at [`Checkpoint::input_offset`].
    pub fn resume(checkpoint: &Checkpoint) -> Self {
        Self(Box::new(Gzip::resume(checkpoint)))
    }

    /// Decodes from `input` into `output`. Call again with the rest of the input and fresh
    /// output until all input is consumed and the output was not filled.
    ///
    /// # Errors
    /// Anything that is not a well-formed, undamaged stream, with the place in the file.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Progress> {
        self.0.decode(input, output)
    }

    /// How many bytes the last call of [`Decoder::decode`] wrote. After an error they are what
    /// came before the fault, under no checksum as yet.
    pub fn written(&self) -> usize {
        self.0.written()
    }

    /// Checks that the file may end here.
    ///
    /// # Errors
    /// A file cut short, or without a member.
    pub fn finish(&self) -> Result<()> {
        if self.0.at_end() {
            return Ok(());
        }
        Err(cut(self.0.taken()))
    }

    /// Makes [`Decoder::decode`] come back early, at the first boundary between blocks or members
    /// from this offset of the input on. Then [`Decoder::paused`] is true until this is called
    /// again; `None` decodes on without a pause.
    pub fn pause_at(&mut self, input_offset: Option<u64>) {
        self.0.stop_at(input_offset.map(|byte| byte * 8));
    }

    /// Whether it has come to the place set by [`Decoder::pause_at`].
    pub fn paused(&self) -> bool {
        self.0.stopped()
    }

    /// The state, if this is between two blocks of a member.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.0.checkpoint()
    }
}

/// A [`Decoder`] behind [`Read`].
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    decoder: Decoder,
}

impl<R: Read> Reader<BufReader<R>> {
    /// Reads from `input`, buffered.
    pub fn new(input: R) -> Self {
        Self::buffered(BufReader::with_capacity(128 << 10, input))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`, which has a buffer of its own.
    pub fn buffered(input: R) -> Self {
        let decoder = Decoder::new();
        Self { input, decoder }
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.input.fill_buf()?;
            let end = input.is_empty();
            let done = self.decoder.decode(input, buf).map_err(io::Error::other)?;
            self.input.consume(done.read);
            if done.written > 0 {
                return Ok(done.written);
            }
            if end {
                let whole = self.decoder.finish();
                return whole
                    .map(|()| 0)
                    .map_err(|e| io::Error::new(io::ErrorKind::UnexpectedEof, e));
            }
        }
    }
}
