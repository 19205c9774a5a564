//! The content store behind the cache, as builders see it.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use larder_blobs::{Blobs, Claim, Ingest, Stored};
use larder_oci::{Descriptor, Digest};
use larder_provider::{Content, ContentStore, ContentWriter, Info, ProviderError};
use serde::Deserialize;

use crate::error::blob_error;
use crate::grpc::ContentListen;

/// Where the content service listens, and what users of the content store may do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContentConfig {
    /// Whether they may write and delete; a builder that may delete can take from others what they rely on.
    pub writable: bool,
    /// Where containerd's content service is: loopback, or a unix socket.
    pub listen: ContentListen,
}

/// Blobs by digest.
pub(crate) struct Store {
    pub(crate) blobs: Blobs,
    pub(crate) writable: bool,
}

impl Store {
    fn refuse_read_only(&self, what: &str) -> Result<(), ProviderError> {
        if self.writable {
            return Ok(());
        }
        let message = format!("the content store is read-only: cannot {what} unless content.writable is set");
        Err(ProviderError::PermissionDenied(message))
    }
}

#[async_trait]
impl ContentStore for Store {
    async fn info(&self, digest: &Digest) -> Result<Info, ProviderError> {
        let stat = self.blobs.stat(digest).await.map_err(|error| blob_error(&error))?;
        let stat = stat.map(info);
        stat.ok_or_else(|| ProviderError::NotFound(format!("{digest} is not in the cache")))
    }

    async fn read(&self, digest: &Digest, offset: u64, size: Option<u64>) -> Result<Content, ProviderError> {
        let content =
            self.blobs.read_range(digest, offset, size).await.map_err(|error| blob_error(&error))?;
        Ok(opened(content))
    }

    fn walk(&self) -> BoxStream<'static, Result<Info, ProviderError>> {
        let all = self.blobs.list();
        all.map(|blob| blob.map(info).map_err(|error| blob_error(&error))).boxed()
    }

    async fn delete(&self, digest: &Digest) -> Result<(), ProviderError> {
        self.refuse_read_only("delete")?;
        if self.blobs.delete(digest).await.map_err(|error| blob_error(&error))? {
            return Ok(());
        }
        Err(ProviderError::NotFound(format!("{digest} is not in the cache")))
    }

    async fn writer(&self, expected: &Descriptor) -> Result<Option<Box<dyn ContentWriter>>, ProviderError> {
        self.refuse_read_only("write")?;
        let claim = self.blobs.ingest(&expected.digest, Some(expected.size)).await;
        match claim.map_err(|error| blob_error(&error))? {
            Claim::Present(_) => Ok(None),
            Claim::Granted(ingest) => Ok(Some(Box::new(Writer(ingest)))),
        }
    }
}

struct Writer(Ingest);

#[async_trait]
impl ContentWriter for Writer {
    fn offset(&self) -> u64 {
        self.0.offset()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), ProviderError> {
        self.0.write(bytes).await.map_err(|error| blob_error(&error))
    }

    async fn commit(self: Box<Self>) -> Result<(), ProviderError> {
        self.0.commit().await.map(drop).map_err(|error| blob_error(&error))
    }
}

fn info(blob: Stored) -> Info {
    Info { digest: blob.digest, size: blob.size, updated_at: blob.modified }
}

pub(crate) fn opened(content: larder_blobs::Content) -> Content {
    let bytes = content.bytes.map(|chunk| chunk.map_err(|error| blob_error(&error)));
    Content { size: content.size, bytes: bytes.boxed() }
}
