//! Blobs in an object store: S3, GCS, Azure, memory.
//!
//! Bytes go up as parts of a multipart upload that is completed only when digest and size hold; until then no reader can see
//! them. A part is hashed on a blocking thread while it is on its way. A draft, whose digest is not known, goes to a key below
//! `ingest/` first, and is copied to the blob's key within the store.

mod list;
mod read;
mod spool;
mod write;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use larder_oci::{Algorithm, Digest};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use uuid::Uuid;

use crate::filling::Fillings;
use crate::verified::Verified;
use crate::{BlobError, Claim, Ingest, Stored, USED_AGAIN_AFTER};

use read::Mark;
pub(crate) use write::Writer;

/// S3 copies at most 5 GB at a time.
const COPY_BYTES_MAX: u64 = 5_000_000_000;

#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    verified: Arc<Verified<Mark>>,
    fillings: Fillings,
    /// The folder of temporary files.
    spool: Arc<std::path::Path>,
    used_again_after: Duration,
    copy_bytes_max: u64,
}

fn key(digest: &Digest) -> Path {
    Path::from_iter(["blobs", digest.algorithm().name(), digest.hex()])
}

/// The key of an empty object that is written when a stored blob is relied on again.
fn used_key(digest: &Digest) -> Path {
    Path::from_iter(["used".to_owned(), digest.token()])
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(object_store::Error) -> BlobError {
    let key = path.to_string();
    move |source| BlobError::Objects { action, key, source }
}

fn age(object: &ObjectMeta) -> Option<Duration> {
    SystemTime::now().duration_since(object.last_modified.into()).ok()
}

/// Runs `work` on the runtime, if this thread belongs to one, and lets nobody wait for it.
fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            verified: Arc::default(),
            fillings: Fillings::default(),
            spool: std::env::temp_dir().into(),
            used_again_after: USED_AGAIN_AFTER,
            copy_bytes_max: COPY_BYTES_MAX,
        }
    }

    pub(crate) fn with_spool(&self, folder: &std::path::Path) -> Self {
        Self { spool: folder.into(), ..self.clone() }
    }

    pub(crate) fn fillings(&self) -> &Fillings {
        &self.fillings
    }

    pub(crate) fn records(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, BlobError> {
        match self.store.head(path).await {
            Ok(object) => Ok(Some(object)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("look at", path)(error)),
        }
    }

    pub(crate) async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        Ok(self.head(&key(digest)).await?.map(|object| object.size))
    }

    pub(crate) async fn stat(&self, digest: &Digest) -> Result<Option<Stored>, BlobError> {
        let Some(object) = self.head(&key(digest)).await? else {
            return Ok(None);
        };
        let used = self.head(&used_key(digest)).await?.map(|marker| marker.last_modified);
        let modified = used.unwrap_or(object.last_modified).max(object.last_modified).into();
        Ok(Some(Stored { digest: digest.clone(), size: object.size, modified }))
    }

    pub(crate) async fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        let existed = self.size(digest).await?.is_some();
        for path in [key(digest), used_key(digest)] {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("delete", &path)(error)),
            }
        }
        Ok(existed)
    }

    pub(crate) async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, BlobError> {
        if let Some(stored) = self.present(digest, size).await? {
            return Ok(Claim::Present(stored));
        }
        let writer = Writer::new(self.clone(), key(digest), digest.algorithm(), Some(digest.clone()), size);
        Ok(Claim::Granted(Ingest(crate::Writer::Objects(Box::new(writer)))))
    }

    pub(crate) fn draft(&self, algorithm: Algorithm) -> Writer {
        let staging = Path::from_iter(["ingest".to_owned(), Uuid::now_v7().to_string()]);
        Writer::new(self.clone(), staging, algorithm, None, None)
    }

    /// The size of a blob that is there, with `size` bytes if that is given; such a one is marked as used.
    async fn present(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, BlobError> {
        let Some(object) = self.head(&key(digest)).await? else {
            return Ok(None);
        };
        if size.is_some_and(|size| size != object.size) {
            return Ok(None);
        }
        let is_old = |object: &ObjectMeta| age(object).is_some_and(|age| age > self.used_again_after);
        if is_old(&object) && self.head(&used_key(digest)).await?.is_none_or(|marker| is_old(&marker)) {
            self.mark_used(digest).await?;
        }
        Ok(Some(object.size))
    }

    pub(crate) async fn touch(&self, digest: &Digest) -> Result<(), BlobError> {
        match self.head(&key(digest)).await? {
            Some(_) => self.mark_used(digest).await,
            None => Err(BlobError::NotFound(digest.clone())),
        }
    }

    async fn mark_used(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = used_key(digest);
        let put = self.store.put(&path, PutPayload::new()).await;
        put.map(drop).map_err(failed("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::TryStreamExt;
    use object_store::memory::InMemory;

    use super::*;
    use crate::{Backend, Blobs};

    fn open(change: impl FnOnce(&mut Objects)) -> (Arc<InMemory>, Blobs) {
        let store = Arc::new(InMemory::new());
        let mut objects = Objects::new(Arc::clone(&store) as Arc<dyn ObjectStore>);
        change(&mut objects);
        (store, Blobs(Arc::new(Backend::Objects(objects))))
    }

    async fn keys(store: &InMemory, prefix: &str) -> Vec<String> {
        let objects = store.list(Some(&Path::from(prefix)));
        objects.map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
    }

    async fn range(blobs: &Blobs, digest: &Digest) -> Result<Vec<Bytes>, BlobError> {
        blobs.read_range(digest, 4, Some(2)).await?.bytes.try_collect().await
    }

    #[tokio::test]
    async fn blob_relied_on_after_long_is_marked_as_used() {
        let (store, blobs) = open(|objects| objects.used_again_after = Duration::ZERO);
        let bytes = Bytes::from_static(b"relied on");
        let digest = Digest::of(&bytes);
        blobs.put(&digest, bytes.clone()).await.unwrap();
        assert!(keys(&store, "used").await.is_empty());
        let written = store.head(&key(&digest)).await.unwrap().last_modified;
        blobs.put(&digest, bytes).await.unwrap();
        assert_eq!(keys(&store, "used").await, [format!("used/{}", digest.token())]);
        let listed: Vec<_> = blobs.list().try_collect().await.unwrap();
        assert_eq!(listed.len(), 1, "a marker is no blob");
        assert!(listed[0].modified > written.into());
        assert!(blobs.delete(&digest).await.unwrap());
        assert!(keys(&store, "").await.is_empty(), "the marker goes with the blob");
    }

    #[tokio::test]
    async fn draft_too_large_to_be_copied_gets_its_name_too() {
        let (store, blobs) = open(|objects| objects.copy_bytes_max = 1 << 20);
        let bytes = Bytes::from(vec![3; 9 << 20]);
        let mut draft = blobs.draft().await.unwrap();
        draft.write(bytes.clone()).await.unwrap();
        draft.commit(None).await.unwrap();
        assert_eq!(blobs.read_small(&Digest::of(&bytes), 9 << 20).await.unwrap(), bytes);
        assert!(keys(&store, "ingest").await.is_empty(), "the draft is gone");
    }

    #[tokio::test]
    async fn drafts_left_behind_are_swept() {
        let (store, blobs) = open(|_| ());
        store.put(&Path::from("ingest/left"), PutPayload::from_static(b"x")).await.unwrap();
        assert_eq!(blobs.sweep(Duration::from_hours(1)).await.unwrap(), 0);
        assert_eq!(blobs.sweep(Duration::ZERO).await.unwrap(), 1);
        assert!(keys(&store, "ingest").await.is_empty());
    }

    #[tokio::test]
    async fn verified_object_is_hashed_again_when_it_changed() {
        let (store, blobs) = open(|_| ());
        let bytes = Bytes::from_static(b"some bytes");
        let digest = Digest::of(&bytes);
        blobs.put(&digest, bytes).await.unwrap();
        for _ in 0..2 {
            assert_eq!(range(&blobs, &digest).await.unwrap().concat(), b" b");
        }
        store.put(&key(&digest), PutPayload::from_static(b"Some bytes")).await.unwrap();
        let refused = range(&blobs, &digest).await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn memory_passes_the_suite() {
        let store = std::sync::Arc::new(InMemory::new());
        crate::suite::all(&Blobs::on_objects(store), "memory").await;
    }
}
