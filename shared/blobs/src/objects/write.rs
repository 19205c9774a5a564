//! Parts on their way to the object store.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use larder_oci::{Algorithm, Digest, Digester};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::task::{JoinError, JoinSet};

use super::spool::Spool;
use super::{Objects, failed, in_background, key};
use crate::filling::Wanted;
use crate::{BlobError, check, hash};

/// S3 takes at most 10,000 parts of at least 5 MiB: this allows blobs of 80 GB.
const PART_BYTES: usize = 8 << 20;
const PARTS_IN_FLIGHT_MAX: usize = 2;

pub(crate) struct Writer {
    objects: Objects,
    /// Where the parts go: to the blob's own key when that is known, else to one that nobody reads.
    path: Path,
    algorithm: Algorithm,
    want: Option<Digest>,
    size: Option<u64>,
    digester: Digester,
    length: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    upload: Option<Box<dyn MultipartUpload>>,
    parts: JoinSet<object_store::Result<()>>,
    spool: Option<Spool>,
}

impl Writer {
    pub(super) fn new(
        objects: Objects,
        path: Path,
        algorithm: Algorithm,
        want: Option<Digest>,
        size: Option<u64>,
    ) -> Self {
        Self {
            objects,
            path,
            algorithm,
            want,
            size,
            digester: Digester::new(algorithm),
            length: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            upload: None,
            parts: JoinSet::new(),
            spool: None,
        }
    }

    pub(crate) async fn share(&mut self) -> Result<(), BlobError> {
        if let Some(digest) = self.want.clone()
            && self.length == 0
            && self.spool.is_none()
        {
            let (fillings, wanted) = (self.objects.fillings.clone(), Wanted { digest, size: self.size });
            self.spool = Some(Spool::start(&self.objects.spool, fillings, wanted).await?);
        }
        Ok(())
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.length += bytes.len() as u64;
        if let (Some(size), Some(want)) = (self.size, &self.want)
            && self.length > size
        {
            let (digest, got) = (want.clone(), self.length);
            self.spool = None;
            self.abort().await;
            return Err(BlobError::WrongSize { digest, want: size, got });
        }
        if let Some(spool) = &self.spool
            && !spool.write(bytes.clone()).await
        {
            self.spool = None;
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
        self.digester = Digester::new(self.algorithm);
        if let Some(spool) = &self.spool
            && !spool.restart().await
        {
            self.spool = None;
        }
        Ok(())
    }

    pub(crate) async fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        if self.upload.is_some() && !self.waiting.is_empty() {
            self.send_part().await?;
        }
        let rest = std::mem::take(&mut self.waiting);
        self.digester = hash(self.digester.clone(), rest.clone()).await?;
        let got = self.digester.clone().finish();
        if let Some(want) = self.want.as_ref().or(expected)
            && let Err(error) = check(want, self.size, &got, self.length)
        {
            self.abort().await;
            return Err(error);
        }
        if self.want.is_none() && self.objects.present(&got, Some(self.length)).await?.is_some() {
            self.abort().await;
        } else if self.upload.is_none() {
            let (path, payload) = (key(&got), rest.into_iter().collect::<PutPayload>());
            self.objects.store.put(&path, payload).await.map_err(failed("write", &path))?;
        } else {
            self.complete().await?;
            if self.want.is_none() {
                self.publish(&got).await?;
            }
        }
        if let Some(spool) = self.spool.take() {
            spool.prove().await;
        }
        Ok((got, self.length))
    }

    async fn complete(&mut self) -> Result<(), BlobError> {
        while let Some(part) = self.parts.join_next().await {
            self.joined(part)?;
        }
        let mut upload = self.upload.take().expect("an upload was begun");
        upload.complete().await.map(drop).map_err(failed("complete the upload of", &self.path))
    }

    /// Gives a complete draft its name.
    async fn publish(&mut self, digest: &Digest) -> Result<(), BlobError> {
        let (store, target) = (Arc::clone(&self.objects.store), key(digest));
        let copied = if self.length <= self.objects.copy_bytes_max {
            store.copy(&self.path, &target).await.map_err(failed("copy to", &target))
        } else {
            Box::pin(self.copy_by_hand(digest)).await
        };
        if let Err(error) = store.delete(&self.path).await {
            tracing::warn!(key = %self.path, %error, "cannot delete a draft; it stays until it is swept");
        }
        copied
    }

    /// What is too large for the store to copy is read and written again.
    async fn copy_by_hand(&mut self, digest: &Digest) -> Result<(), BlobError> {
        let (objects, want) = (self.objects.clone(), Some(digest.clone()));
        let mut copy = Self::new(objects, key(digest), self.algorithm, want, Some(self.length));
        let draft = self.objects.store.get(&self.path).await.map_err(failed("read", &self.path))?;
        let mut chunks = draft.into_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(failed("read", &self.path))? {
            copy.write(chunk).await?;
        }
        copy.commit(None).await.map(drop)
    }

    /// Starts the upload of what is waiting, and hashes it meanwhile.
    async fn send_part(&mut self) -> Result<(), BlobError> {
        if self.upload.is_none() {
            let upload = self.objects.store.put_multipart(&self.path).await;
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

    fn joined(&self, part: Result<object_store::Result<()>, JoinError>) -> Result<(), BlobError> {
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
        if let Some(mut upload) = self.upload.take() {
            in_background(async move {
                let _ = upload.abort().await;
            });
        }
    }
}
