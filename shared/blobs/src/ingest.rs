//! Blobs on their way into the store.

use bytes::Bytes;
use larder_oci::Digest;

use crate::{BlobError, disk, objects};

/// A blob being written. Dropped without [`Ingest::commit`] it stays invisible; on disk what came so far is kept, and the next
/// ingest of the same digest resumes there.
pub struct Ingest(pub(crate) Writer);

/// A blob being written whose digest nobody knows yet. Dropped without [`Draft::commit`] it goes away with all that was written.
pub struct Draft {
    writer: Writer,
    written: u64,
}

/// The answer to a wish to write a blob.
pub enum Claim {
    /// It is there already, with this many bytes: perhaps another process has just written it.
    Present(u64),
    /// It is yours to write. No other process sharing the directory writes it at the same time.
    Granted(Ingest),
}

pub(crate) enum Writer {
    Disk(disk::Writer),
    Objects(Box<objects::Writer>),
}

impl Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        match self {
            Self::Disk(writer) => writer.write(bytes).await,
            Self::Objects(writer) => writer.write(bytes).await,
        }
    }

    async fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        match self {
            Self::Disk(writer) => writer.commit(expected).await,
            Self::Objects(writer) => writer.commit(expected).await,
        }
    }
}

impl Ingest {
    /// How many bytes are there from an earlier try: write from here on, or [`Ingest::restart`].
    pub fn offset(&self) -> u64 {
        match &self.0 {
            Writer::Disk(writer) => writer.offset(),
            Writer::Objects(_) => 0,
        }
    }

    /// Lets everybody in this process read what comes while it comes: see [`crate::Blobs::filling`]. In a directory the readers read
    /// the file that is written; for a store of objects the bytes are also written to a temporary file, which must begin with the
    /// first one: after a write nothing is shared. When that file cannot be written any more, the readers fail and the ingest goes on.
    ///
    /// # Errors
    /// [`BlobError::Disk`] when the file cannot be opened or created; the ingest can go on.
    pub async fn share(&mut self) -> Result<(), BlobError> {
        match &mut self.0 {
            Writer::Disk(writer) => writer.share().await,
            Writer::Objects(writer) => writer.share().await,
        }
    }

    /// Takes the next bytes; waits while too many are on their way to the store.
    ///
    /// # Errors
    /// [`BlobError::WrongSize`] as soon as there are more than announced; [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.0.write(bytes).await
    }

    /// Forgets all bytes taken so far, those of an earlier try included.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn restart(&mut self) -> Result<(), BlobError> {
        match &mut self.0 {
            Writer::Disk(writer) => writer.restart().await,
            Writer::Objects(writer) => writer.restart().await,
        }
    }

    /// Makes the blob durable and visible, and returns its size, if its digest and size hold. If they do not, what was written
    /// is gone.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`], [`BlobError::WrongSize`], [`BlobError::Disk`], [`BlobError::Objects`].
    pub async fn commit(self) -> Result<u64, BlobError> {
        self.0.commit(None).await.map(|(_, size)| size)
    }
}

impl Draft {
    pub(crate) fn new(writer: Writer) -> Self {
        Self { writer, written: 0 }
    }

    /// Takes the next bytes; waits while too many are on their way to the store.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let length = bytes.len() as u64;
        self.writer.write(bytes).await?;
        self.written += length;
        Ok(())
    }

    /// How many bytes were taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the blob durable and visible under the digest of its bytes, and returns that and its size. When the store has it
    /// already, that one is marked as used, and the draft goes away.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] when its digest is not the one `expected`, [`BlobError::Disk`], [`BlobError::Objects`]; nothing
    /// becomes visible then.
    pub async fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        self.writer.commit(expected).await
    }
}
