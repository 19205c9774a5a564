//! Stored blobs as readers see them: as a stream, as a blocking reader, as an entry of a list.

use std::io::{self, BufReader, Read};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::BoxStream;
use larder_oci::Digest;

use crate::BlobError;

/// Few system calls, and few crossings between tasks and threads.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// What a stream yields at a time: a few of these per reader are little, and switching between tasks costs little per byte.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// A stored blob, open for reading.
pub struct Content {
    /// The size of the whole blob in bytes, whichever range of it was asked for.
    pub size: u64,
    /// Its bytes, or those of the range. The last chunk is held back until the digest of the whole holds; if it does not, the
    /// stream ends in [`BlobError::Corrupt`].
    pub bytes: BoxStream<'static, Result<Bytes, BlobError>>,
}

/// A stored blob, open for reading on a thread that may block. It never comes to a clean end when a byte is wrong: the last
/// bytes are yielded only after the digest held. Its errors are [`BlobError`]s inside [`io::Error::other`].
///
/// To read it on a thread that runs async tasks panics for a store of objects: it waits there for the tasks that bring the bytes.
pub struct Reader {
    size: u64,
    bytes: BufReader<Box<dyn Read + Send>>,
    has_failed: bool,
}

/// A stored blob, as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its address.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written or, if that is later, last marked as used.
    pub modified: SystemTime,
}

impl Reader {
    pub(crate) fn new(size: u64, bytes: Box<dyn Read + Send>) -> Self {
        Self { size, bytes: BufReader::with_capacity(READ_BYTES, bytes), has_failed: false }
    }

    /// The size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // Whoever asks again after a failure must not take silence for the end.
        if self.has_failed {
            return Err(io::Error::other(BlobError::Interrupted));
        }
        let count = self.bytes.read(buffer);
        self.has_failed = count.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        count
    }
}

/// The part of a blob that is wanted, moved over its chunks.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) skip: u64,
    pub(crate) length: u64,
}

impl Window {
    pub(crate) const WHOLE: Self = Self { skip: 0, length: u64::MAX };

    /// The range as containerd's content service means it: a length of nothing or zero reaches to the end, one that reaches
    /// further is clipped.
    pub(crate) fn new(
        digest: &Digest,
        size: u64,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Self, BlobError> {
        let Some(rest) = size.checked_sub(offset) else {
            return Err(BlobError::OutOfRange { digest: digest.clone(), offset, size });
        };
        let length = length.filter(|length| *length > 0).map_or(rest, |length| length.min(rest));
        Ok(Self { skip: offset, length })
    }

    /// The part of the next `chunk` that lies in the window.
    pub(crate) fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
        self.skip -= skipped as u64;
        let mut wanted = chunk.split_off(skipped);
        wanted.truncate(usize::try_from(self.length).unwrap_or(usize::MAX));
        self.length -= wanted.len() as u64;
        wanted
    }
}
