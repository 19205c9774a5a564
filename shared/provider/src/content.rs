//! Content by digest, in the roles containerd gives a content store.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use larder_oci::{Descriptor, Digest};
use serde::Serialize;

use crate::ProviderError;

/// Bytes on their way. A clean end means that all of them have come and hold; anything else ends in an error.
pub type ByteStream = BoxStream<'static, Result<Bytes, ProviderError>>;

/// Stored content, open for reading.
pub struct Content {
    /// The size of the whole blob in bytes, also when only a range of it is read.
    pub size: u64,
    /// Its bytes. The last chunk is held back until the digest holds; if it does not, the stream ends in
    /// [`ProviderError::Corrupt`].
    pub bytes: ByteStream,
}

/// What is known of a stored blob without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written or relied on.
    pub updated_at: SystemTime,
}

/// Content by digest: the roles of `containerd/content.Store`. A store handed to a builder can be read; it can be written and
/// deleted from only where the cache's owner allows that.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// What is known of `digest` (containerd's `InfoProvider`).
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Storage`].
    async fn info(&self, digest: &Digest) -> Result<Info, ProviderError>;

    /// Reads `digest` from `offset` on (containerd's `Provider`): `size` bytes, or less where it ends before; to its end without
    /// `size`, or with 0.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::OutOfRange`] when `offset` is behind the end, [`ProviderError::Storage`]; the
    /// stream itself may end in [`ProviderError::Corrupt`].
    async fn read(&self, digest: &Digest, offset: u64, size: Option<u64>) -> Result<Content, ProviderError>;

    /// All stored blobs, in no order (containerd's `Manager.Walk`).
    fn walk(&self) -> BoxStream<'static, Result<Info, ProviderError>>;

    /// Deletes `digest` (containerd's `Manager.Delete`).
    ///
    /// # Errors
    /// [`ProviderError::PermissionDenied`] unless the store is writable, [`ProviderError::NotFound`], [`ProviderError::Storage`].
    async fn delete(&self, digest: &Digest) -> Result<(), ProviderError>;

    /// Opens the blob `expected` for writing (containerd's `Ingester`); `None` when it is there already.
    ///
    /// # Errors
    /// [`ProviderError::PermissionDenied`] unless the store is writable, [`ProviderError::Storage`].
    async fn writer(&self, expected: &Descriptor) -> Result<Option<Box<dyn ContentWriter>>, ProviderError>;
}

/// A blob being written. Nothing is visible before [`ContentWriter::commit`].
#[async_trait]
pub trait ContentWriter: Send {
    /// How many bytes are there, from an earlier try included.
    fn offset(&self) -> u64;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`ProviderError::Corrupt`] as soon as there are more than expected, [`ProviderError::Storage`].
    async fn write(&mut self, bytes: Bytes) -> Result<(), ProviderError>;

    /// Makes the blob visible if its size and digest are those expected.
    ///
    /// # Errors
    /// [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn commit(self: Box<Self>) -> Result<(), ProviderError>;
}
