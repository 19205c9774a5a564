//! Objects read and hashed as they come.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_oci::{Digest, Digester};
use object_store::path::Path;
use object_store::{GetOptions, ObjectMeta, ObjectStoreExt};

use super::{Objects, failed, key};
use crate::content::Window;
use crate::verified::Verified;
use crate::{BlobError, Content, check, hash};

/// What the store said of an object whose digest held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    e_tag: Option<String>,
    modified: SystemTime,
    size: u64,
}

impl Mark {
    fn of(object: &ObjectMeta) -> Self {
        Self { e_tag: object.e_tag.clone(), modified: object.last_modified.into(), size: object.size }
    }
}

struct Reading {
    chunks: BoxStream<'static, object_store::Result<Bytes>>,
    /// Until the digest held.
    digester: Option<Digester>,
    digest: Digest,
    path: Path,
    window: Window,
    held: Option<Bytes>,
    mark: Mark,
    verified: Arc<Verified<Mark>>,
}

impl Objects {
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Content, BlobError> {
        self.read_whole(digest, |_| Ok(Window::WHOLE)).await
    }

    pub(crate) async fn read_range(
        &self,
        digest: &Digest,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Content, BlobError> {
        if let Some(mark) = self.verified.get(digest)
            && let Ok(window) = Window::new(digest, mark.size, offset, length)
            && let Some(content) = self.read_verified(&key(digest), &mark, window).await
        {
            return Ok(content);
        }
        self.read_whole(digest, |size| Window::new(digest, size, offset, length)).await
    }

    /// The range alone, if the object is still the one whose digest held. Any failure is left for the long way to tell.
    async fn read_verified(&self, path: &Path, mark: &Mark, window: Window) -> Option<Content> {
        let range = (window.length > 0).then(|| (window.skip..window.skip + window.length).into())?;
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let object = self.store.get_opts(path, options).await.ok()?;
        if Mark::of(&object.meta) != *mark {
            return None;
        }
        let path = path.clone();
        let bytes = object.into_stream().map_err(move |error| failed("read", &path)(error)).boxed();
        Some(Content { size: mark.size, bytes })
    }

    async fn read_whole(
        &self,
        digest: &Digest,
        window: impl FnOnce(u64) -> Result<Window, BlobError>,
    ) -> Result<Content, BlobError> {
        let path = key(digest);
        let object = match self.store.get(&path).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => {
                return Err(BlobError::NotFound(digest.clone()));
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let size = object.meta.size;
        let window = window(size)?;
        if window.length == 0 {
            return Ok(Content { size, bytes: stream::empty().boxed() });
        }
        let reading = Reading {
            mark: Mark::of(&object.meta),
            chunks: object.into_stream(),
            digester: Some(Digester::new(digest.algorithm())),
            digest: digest.clone(),
            path,
            window,
            held: None,
            verified: Arc::clone(&self.verified),
        };
        let bytes = stream::try_unfold(reading, Reading::next).boxed();
        Ok(Content { size, bytes })
    }
}

impl Reading {
    /// Yields the chunk before the one just hashed, so that the last one comes only after the digest held.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobError> {
        while let Some(digester) = self.digester.take() {
            match self.chunks.try_next().await.map_err(failed("read", &self.path))? {
                Some(chunk) => {
                    self.digester = Some(hash(digester, vec![chunk.clone()]).await?);
                    let wanted = self.window.cut(chunk);
                    if !wanted.is_empty()
                        && let Some(ready) = self.held.replace(wanted)
                    {
                        return Ok(Some((ready, self)));
                    }
                }
                None => {
                    check(&self.digest, None, &digester.finish(), 0)?;
                    self.verified.remember(self.digest.clone(), self.mark.clone());
                }
            }
        }
        Ok(self.held.take().map(|last| (last, self)))
    }
}
