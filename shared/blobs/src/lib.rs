//! Verified ingest and verified reads by digest, on a local directory or an object store.
//!
//! A blob lives at `blobs/<algorithm>/<hex>`, as in an OCI image layout. [`Ingest`] hashes while it writes to a place nobody
//! reads, and [`Ingest::commit`] is the only door to visibility: it compares digest and size, makes the bytes durable, and
//! only then gives them their name. Reads hash too: a stream of [`Content`] ends in an error, never in a clean end, when a
//! byte is wrong.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod closure;
mod disk;
mod error;
mod objects;
#[cfg(feature = "suite")]
pub mod suite;

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_oci::{Descriptor, Digest, Document, MANIFEST_BYTES_MAX};
use object_store::ObjectStore;

pub use error::BlobError;

/// Chunks that can be waiting between a network and a disk, per blob.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Questions to an object store about presence, at a time.
const LOOKS_IN_FLIGHT_MAX: usize = 32;

/// A store of blobs; clones share it.
#[derive(Clone)]
pub struct Blobs(Arc<Backend>);

enum Backend {
    Disk(disk::Disk),
    Objects(objects::Objects),
}

/// A blob being written. Dropped without [`Ingest::commit`] it stays invisible; on disk what came so far is kept, and the next
/// ingest of the same digest resumes there.
pub struct Ingest(Writer);

enum Writer {
    Disk(disk::Writer),
    Objects(Box<objects::Writer>),
}

/// The answer to a wish to write a blob.
pub enum Claim {
    /// It is there already, with this many bytes: perhaps another process has just written it.
    Present(u64),
    /// It is yours to write. No other process sharing the directory writes it at the same time.
    Granted(Ingest),
}

/// A stored blob, open for reading.
pub struct Content {
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes. The last chunk is held back until the digest holds; if it does not, the stream ends in
    /// [`BlobError::Corrupt`].
    pub bytes: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl Blobs {
    /// Opens the directory `root`, creating `blobs/` and `ingest/` below it where it can. A directory that is read-only can be read.
    ///
    /// # Errors
    /// [`BlobError::Disk`] when `root` cannot be created or is no directory.
    pub fn on_disk(root: &Path) -> Result<Self, BlobError> {
        Ok(Self(Arc::new(Backend::Disk(disk::Disk::open(root)?))))
    }

    /// Uses an object store.
    pub fn on_objects(objects: Arc<dyn ObjectStore>) -> Self {
        Self(Arc::new(Backend::Objects(objects::Objects::new(objects))))
    }

    /// The size in bytes of a blob, or `None` when it is not there. Does not read it.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.size(digest),
            Backend::Objects(objects) => objects.size(digest).await,
        }
    }

    /// Whether a blob is there with the size its descriptor gives.
    ///
    /// # Errors
    /// As [`Blobs::size`].
    pub async fn has(&self, blob: &Descriptor) -> Result<bool, BlobError> {
        Ok(self.size(&blob.digest).await? == Some(blob.size))
    }

    /// Those of `wanted` that are not there with the size their descriptor gives, in their order.
    ///
    /// # Errors
    /// As [`Blobs::size`].
    pub async fn missing(&self, wanted: &[Descriptor]) -> Result<Vec<Descriptor>, BlobError> {
        let looks = wanted.iter().cloned().map(|blob| {
            let blobs = self.clone();
            async move { Ok::<_, BlobError>((!blobs.has(&blob).await?).then_some(blob)) }
        });
        let looks: Vec<_> = stream::iter(looks).buffered(LOOKS_IN_FLIGHT_MAX).try_collect().await?;
        Ok(looks.into_iter().flatten().collect())
    }

    /// Starts to write the blob `digest`; waits while another process sharing the directory writes it. A stored blob of
    /// another size than `size` is not trusted and will be replaced.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.ingest(digest, size).await,
            Backend::Objects(objects) => objects.ingest(digest, size).await,
        }
    }

    /// Stores `bytes` as the blob `digest`; does nothing when it is there.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] when they hash to something else; otherwise as [`Ingest::commit`].
    pub async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), BlobError> {
        match self.ingest(digest, Some(bytes.len() as u64)).await? {
            Claim::Present(_) => Ok(()),
            Claim::Granted(mut ingest) => {
                if ingest.offset() > 0 {
                    ingest.restart().await?;
                }
                ingest.write(bytes).await?;
                ingest.commit().await.map(drop)
            }
        }
    }

    /// Opens a blob.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; the stream itself may end in [`BlobError::Corrupt`].
    pub async fn read(&self, digest: &Digest) -> Result<Content, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.read(digest),
            Backend::Objects(objects) => objects.read(digest).await,
        }
    }

    /// Reads a whole blob that may have at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`], [`BlobError::WrongSize`] when it is larger.
    pub async fn read_small(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        let mut content = self.read(digest).await?;
        if content.size > bytes_max {
            return Err(BlobError::WrongSize { digest: digest.clone(), want: bytes_max, got: content.size });
        }
        let mut whole = BytesMut::with_capacity(usize::try_from(content.size).unwrap_or(0));
        while let Some(chunk) = content.bytes.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.freeze())
    }

    /// Reads a manifest and checks that it is what `descriptor` says; `None` when it is not stored.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`], [`BlobError::WrongSize`], [`BlobError::Document`].
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Option<Document>, BlobError> {
        let digest = &descriptor.digest;
        let bytes = match self.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => bytes,
            Err(BlobError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if bytes.len() as u64 != descriptor.size {
            return Err(BlobError::WrongSize {
                digest: digest.clone(),
                want: descriptor.size,
                got: bytes.len() as u64,
            });
        }
        let document = Document::parse(bytes, Some(&descriptor.media_type));
        document.map(Some).map_err(|source| BlobError::Document { digest: digest.clone(), source })
    }

    /// Deletes a blob; `false` when it was not there.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.delete(digest),
            Backend::Objects(objects) => objects.delete(digest).await,
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

    /// Takes the next bytes; waits while too many are on their way to the store.
    ///
    /// # Errors
    /// [`BlobError::WrongSize`] as soon as there are more than announced; [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        match &mut self.0 {
            Writer::Disk(writer) => writer.write(bytes).await,
            Writer::Objects(writer) => writer.write(bytes).await,
        }
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
        match self.0 {
            Writer::Disk(writer) => writer.commit().await,
            Writer::Objects(writer) => writer.commit().await,
        }
    }
}

/// Refuses a blob whose digest or size is not what was asked for.
fn check(want: &Digest, size: Option<u64>, got: Digest, length: u64) -> Result<(), BlobError> {
    if let Some(size) = size
        && size != length
    {
        return Err(BlobError::WrongSize { digest: want.clone(), want: size, got: length });
    }
    if *want == got {
        Ok(())
    } else {
        let want = want.clone();
        Err(BlobError::Corrupt { want, got })
    }
}
