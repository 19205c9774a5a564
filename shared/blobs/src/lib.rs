//! Verified ingest and verified reads by digest, on a local directory or an object store.
//!
//! A blob lives at `blobs/<algorithm>/<hex>`, as in an OCI image layout. [`Ingest`] hashes while it writes to a place nobody
//! reads, and [`Ingest::commit`] is the only door to visibility: it compares digest and size, makes the bytes durable, and
//! only then gives them their name; a [`Draft`] is an ingest whose digest is known only then. Reads hash too: a stream of
//! [`Content`] and a [`Reader`] end in an error, never in a clean end, when a byte is wrong. A [`Filling`] shows what an ingest has
//! written so far, with the same promise about its end. [`Uploads`] are blobs that come in parts, to whichever process.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod closure;
mod content;
mod disk;
mod error;
mod filling;
mod ingest;
mod objects;
#[cfg(feature = "suite")]
pub mod suite;
mod uploads;
mod verified;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_oci::{Algorithm, Descriptor, Digest, Digester, Document, MANIFEST_BYTES_MAX};
use object_store::ObjectStore;
use tokio_util::io::{StreamReader, SyncIoBridge};

pub use content::{Content, Reader, Stored};
pub use error::BlobError;
pub use filling::Filling;
use ingest::Writer;
pub use ingest::{Claim, Draft, Ingest};
pub use uploads::{Part, Upload, Uploads};

/// Chunks that can be waiting between a network and a disk, per blob.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Questions to an object store about presence, at a time.
const LOOKS_IN_FLIGHT_MAX: usize = 32;
/// Entries of a list that can be waiting for who asked for it.
const LISTED_IN_FLIGHT_MAX: usize = 256;
/// A blob that is relied on again is marked as used when the last mark is older: often enough for a collector that spares what
/// was used in the last hours, and seldom enough to cost nothing.
const USED_AGAIN_AFTER: Duration = Duration::from_mins(10);

/// A store of blobs; clones share it.
#[derive(Clone)]
pub struct Blobs(Arc<Backend>);

enum Backend {
    Disk(disk::Disk),
    Objects(objects::Objects),
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

    /// Keeps the temporary files of shared ingests into an object store in `folder`, instead of the system's folder for such files.
    /// They have no name there, and go away with the process at the latest. Handles cloned before are not affected.
    #[must_use]
    pub fn with_spool(self, folder: &Path) -> Self {
        match &*self.0 {
            Backend::Disk(_) => self,
            Backend::Objects(objects) => Self(Arc::new(Backend::Objects(objects.with_spool(folder)))),
        }
    }

    /// The size in bytes of a blob, or `None` when it is not there. Does not read it.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => Ok(disk.stat(digest)?.map(|blob| blob.size)),
            Backend::Objects(objects) => objects.size(digest).await,
        }
    }

    /// What [`Blobs::list`] says of one blob, or `None` when it is not there. Does not read it.
    ///
    /// # Errors
    /// As [`Blobs::size`].
    pub async fn stat(&self, digest: &Digest) -> Result<Option<Stored>, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.stat(digest),
            Backend::Objects(objects) => objects.stat(digest).await,
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
    /// another size than `size` is not trusted and will be replaced. One that is there is marked as used, unless it was within
    /// the last ten minutes or the store is read-only.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.ingest(digest, size).await,
            Backend::Objects(objects) => objects.ingest(digest, size).await,
        }
    }

    /// A blob that this process is writing now, if its [`Ingest`] was shared. Once it is committed it is found in the store instead; to
    /// miss neither, look into the store again when there is no filling.
    pub fn filling(&self, digest: &Digest) -> Option<Filling> {
        let fillings = match &*self.0 {
            Backend::Disk(disk) => disk.fillings(),
            Backend::Objects(objects) => objects.fillings(),
        };
        fillings.get(digest)
    }

    /// The blobs that come in parts.
    pub fn uploads(&self) -> Uploads {
        let records = match &*self.0 {
            Backend::Disk(disk) => disk.records(),
            Backend::Objects(objects) => objects.records(),
        };
        Uploads::new(self.clone(), Arc::clone(records))
    }

    /// Starts to write a blob whose sha256 digest is not known.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn draft(&self) -> Result<Draft, BlobError> {
        self.draft_for(Algorithm::Sha256).await
    }

    /// Starts to write a blob that `algorithm` will name.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    #[expect(clippy::unused_async, reason = "a store may have to be asked, as for every other way in")]
    pub async fn draft_for(&self, algorithm: Algorithm) -> Result<Draft, BlobError> {
        Ok(Draft::new(match &*self.0 {
            Backend::Disk(disk) => Writer::Disk(disk.draft(algorithm)?),
            Backend::Objects(objects) => Writer::Objects(Box::new(objects.draft(algorithm))),
        }))
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

    /// Opens a blob at `offset` bytes for a receiver that proves its digest: what comes from a disk is not hashed here, so damage does
    /// not show.
    ///
    /// # Errors
    /// As [`Blobs::read_range`].
    pub async fn read_unproven(&self, digest: &Digest, offset: u64) -> Result<Content, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.read_unproven(digest, offset),
            Backend::Objects(objects) => objects.read_range(digest, offset, None).await,
        }
    }

    /// Opens a blob at `offset` bytes for `length` bytes; without a length, or with that of zero, to its end, and no further
    /// than that. The range is as verified as the whole: its last chunk waits until the whole is hashed, except when this process
    /// has written, or read and verified, the blob before and file or object have not changed since (inode, modification time and size; ETag,
    /// modification time and size). Then nothing but the range is read.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::OutOfRange`] when `offset` is behind the end; the stream itself may end in
    /// [`BlobError::Corrupt`].
    pub async fn read_range(
        &self,
        digest: &Digest,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Content, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.read_range(digest, offset, length),
            Backend::Objects(objects) => objects.read_range(digest, offset, length).await,
        }
    }

    /// The file of a blob, open at its beginning, and its size in bytes. Only in a directory, and only when this process has written or
    /// read and verified the blob and its file has not changed since; otherwise `None`, and [`Blobs::read_range`] is the way.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn verified_file(&self, digest: &Digest) -> Result<Option<(File, u64)>, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.verified_file(digest),
            Backend::Objects(_) => Ok(None),
        }
    }

    /// Opens a blob for a thread that may block. What the reader yields comes, for a store of objects, by way of the runtime
    /// that polled this.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; the reader itself may end in [`BlobError::Corrupt`].
    pub async fn reader(&self, digest: &Digest) -> Result<Reader, BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.reader(digest),
            Backend::Objects(objects) => {
                let content = objects.read(digest).await?;
                let bytes = StreamReader::new(content.bytes.map_err(io::Error::other));
                Ok(Reader::new(content.size, Box::new(SyncIoBridge::new(bytes))))
            }
        }
    }

    /// Reads a whole blob that may have at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Corrupt`], [`BlobError::WrongSize`] when it is larger.
    pub async fn read_small(&self, digest: &Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        if let Backend::Disk(disk) = &*self.0
            && let Some(bytes) = disk.read_tiny(digest)?.filter(|bytes| bytes.len() as u64 <= bytes_max)
        {
            return Ok(bytes);
        }
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

    /// Marks a blob as used now: [`Stored::modified`] says so afterwards.
    ///
    /// # Errors
    /// [`BlobError::NotFound`]; [`BlobError::Disk`] or [`BlobError::Objects`], also when the store is read-only.
    pub async fn touch(&self, digest: &Digest) -> Result<(), BlobError> {
        match &*self.0 {
            Backend::Disk(disk) => disk.touch(digest),
            Backend::Objects(objects) => objects.touch(digest).await,
        }
    }

    /// All blobs, in no order. What has another name than a digest is passed over; what is written or deleted meanwhile may or
    /// may not be among them. An error ends the list.
    pub fn list(&self) -> BoxStream<'static, Result<Stored, BlobError>> {
        match &*self.0 {
            Backend::Disk(disk) => disk.list(),
            Backend::Objects(objects) => objects.list(),
        }
    }

    /// Removes what was begun and never committed, is held by nobody and was last written at least `older_than` ago, and says
    /// how many these were. To an upload nothing is written before a part of it is finished. In a store of objects these are drafts left between upload and copy; uploads that were never
    /// completed cannot be listed through it, and are left to the bucket's lifecycle rule (`AbortIncompleteMultipartUpload`).
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn sweep(&self, older_than: Duration) -> Result<u64, BlobError> {
        let ingests = match &*self.0 {
            Backend::Disk(disk) => disk.sweep(older_than).await?,
            Backend::Objects(objects) => objects.sweep(older_than).await?,
        };
        Ok(ingests + self.uploads().sweep(older_than).await?)
    }
}

/// Refuses a blob whose digest or size is not what was asked for.
fn check(want: &Digest, size: Option<u64>, got: &Digest, length: u64) -> Result<(), BlobError> {
    if let Some(size) = size
        && size != length
    {
        return Err(BlobError::WrongSize { digest: want.clone(), want: size, got: length });
    }
    if want == got { Ok(()) } else { Err(BlobError::Corrupt { want: want.clone(), got: got.clone() }) }
}

/// Hashing less than this is quicker than handing it to another thread.
const HASH_INLINE_BYTES_MAX: usize = 64 << 10;

async fn hash(mut digester: Digester, chunks: Vec<Bytes>) -> Result<Digester, BlobError> {
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    let update = move || {
        for chunk in &chunks {
            digester.update(chunk);
        }
        digester
    };
    if bytes <= HASH_INLINE_BYTES_MAX {
        return Ok(update());
    }
    let hashed = tokio::task::spawn_blocking(update).await;
    hashed.map_err(|_| BlobError::Interrupted)
}
