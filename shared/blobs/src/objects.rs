//! Blobs in an object store: S3, GCS, Azure, memory.
//!
//! Bytes go up as parts of a multipart upload that is completed only when digest and size hold; until then no reader can see
//! them. A part is hashed on a blocking thread while it is on its way.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use larder_oci::{Digest, Digester};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

use crate::{BlobError, Claim, Content, Ingest, check};

/// S3 takes at most 10,000 parts of at least 5 MiB: this allows blobs of 80 GB.
const PART_BYTES: usize = 8 << 20;
const PARTS_IN_FLIGHT_MAX: usize = 2;

pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
}

pub(crate) struct Writer {
    store: Arc<dyn ObjectStore>,
    path: Path,
    digest: Digest,
    size: Option<u64>,
    digester: Digester,
    length: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
}

fn key(digest: &Digest) -> Path {
    Path::from_iter(["blobs", digest.algorithm().name(), digest.hex()])
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> BlobError {
    let key = path.to_string();
    move |source| BlobError::Objects { action, key, source }
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    pub(crate) async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let path = key(digest);
        match self.store.head(&path).await {
            Ok(object) => Ok(Some(object.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("look at", &path)(error)),
        }
    }

    pub(crate) async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        let existed = self.size(digest).await?.is_some();
        let path = key(digest);
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(existed),
            Err(error) => Err(failed("delete", &path)(error)),
        }
    }

    pub(crate) async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, BlobError> {
        if let Some(stored) = self.size(digest).await?
            && size.is_none_or(|size| size == stored)
        {
            return Ok(Claim::Present(stored));
        }
        let writer = Writer {
            store: Arc::clone(&self.store),
            path: key(digest),
            digest: digest.clone(),
            size,
            digester: Digester::new(digest.algorithm()),
            length: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            upload: None,
            parts: JoinSet::new(),
        };
        Ok(Claim::Granted(Ingest(crate::Writer::Objects(Box::new(writer)))))
    }

    pub(crate) async fn read(&self, digest: &Digest) -> Result<Content, BlobError> {
        let path = key(digest);
        let object = match self.store.get(&path).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(BlobError::NotFound(digest.clone()));
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let size = object.meta.size;
        let reading = Reading {
            chunks: object.into_stream(),
            digester: Some(Digester::new(digest.algorithm())),
            digest: digest.clone(),
            path,
            held: None,
        };
        let bytes = futures::stream::try_unfold(reading, Reading::next).boxed();
        Ok(Content { size, bytes })
    }
}

struct Reading {
    chunks: futures::stream::BoxStream<'static, object_store::Result<Bytes>>,
    digester: Option<Digester>,
    digest: Digest,
    path: Path,
    held: Option<Bytes>,
}

impl Reading {
    /// Yields the chunk before the one just hashed, so that the last one comes only after the digest held.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobError> {
        while let Some(digester) = self.digester.take() {
            match self.chunks.try_next().await.map_err(failed("read", &self.path))? {
                Some(chunk) => {
                    self.digester = Some(hash(digester, vec![chunk.clone()]).await?);
                    if let Some(ready) = self.held.replace(chunk) {
                        return Ok(Some((ready, self)));
                    }
                }
                None => check(&self.digest, None, digester.finish(), 0)?,
            }
        }
        Ok(self.held.take().map(|last| (last, self)))
    }
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

impl Writer {
    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.length += bytes.len() as u64;
        if let Some(size) = self.size
            && self.length > size
        {
            let (digest, got) = (self.digest.clone(), self.length);
            self.abort().await;
            return Err(BlobError::WrongSize { digest, want: size, got });
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
        if self.waiting_bytes >= PART_BYTES {
            self.send_part().await?;
        }
        Ok(())
    }

    pub(crate) async fn restart(&mut self) -> Result<(), BlobError> {
        self.abort().await;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.length = 0;
        self.digester = Digester::new(self.digest.algorithm());
        Ok(())
    }

    pub(crate) async fn commit(mut self) -> Result<u64, BlobError> {
        if self.upload.is_none() {
            return self.put_whole().await;
        }
        if !self.waiting.is_empty() {
            self.send_part().await?;
        }
        if let Err(error) = self.checked() {
            self.abort().await;
            return Err(error);
        }
        while let Some(part) = self.parts.join_next().await {
            self.joined(part)?;
        }
        let mut upload = self.upload.take().expect("an upload was begun");
        upload.complete().await.map_err(failed("complete the upload of", &self.path))?;
        Ok(self.length)
    }

    async fn put_whole(mut self) -> Result<u64, BlobError> {
        let chunks = std::mem::take(&mut self.waiting);
        self.digester = hash(self.digester.clone(), chunks.clone()).await?;
        self.checked()?;
        let put = self.store.put(&self.path, chunks.into_iter().collect::<PutPayload>()).await;
        put.map_err(failed("write", &self.path))?;
        Ok(self.length)
    }

    fn checked(&self) -> Result<(), BlobError> {
        check(&self.digest, self.size, self.digester.clone().finish(), self.length)
    }

    /// Starts the upload of what is waiting, and hashes it meanwhile.
    async fn send_part(&mut self) -> Result<(), BlobError> {
        if self.upload.is_none() {
            let upload = self.store.put_multipart(&self.path).await;
            self.upload = Some(upload.map_err(failed("begin the upload of", &self.path))?);
        }
        while self.parts.len() >= PARTS_IN_FLIGHT_MAX {
            if let Some(part) = self.parts.join_next().await {
                self.joined(part)?;
            }
        }
        let chunks = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let upload = self.upload.as_mut().expect("an upload was begun");
        self.parts.spawn(upload.put_part(chunks.iter().cloned().collect()));
        self.digester = hash(self.digester.clone(), chunks).await?;
        Ok(())
    }

    fn joined(
        &self,
        part: Result<object_store::Result<()>, tokio::task::JoinError>,
    ) -> Result<(), BlobError> {
        part.map_err(|_| BlobError::Interrupted)?.map_err(failed("upload a part of", &self.path))
    }

    async fn abort(&mut self) {
        self.parts.shutdown().await;
        if let Some(mut upload) = self.upload.take()
            && let Err(error) = upload.abort().await
        {
            tracing::warn!(key = %self.path, %error, "cannot abort an upload; its parts stay until the bucket's lifecycle removes them");
        }
    }
}

impl Drop for Writer {
    /// Frees the parts of an upload that nobody will complete.
    fn drop(&mut self) {
        if let Some(mut upload) = self.upload.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = upload.abort().await;
            });
        }
    }
}
