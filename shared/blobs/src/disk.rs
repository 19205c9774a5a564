//! Blobs in a local directory.
//!
//! A blob is written to `ingest/<algorithm>-<hex>` under an exclusive lock on that file, so that of all processes sharing the
//! directory one writes it, the others wait, and after a crash the next one resumes where the last one stopped. A draft, whose
//! digest is not known, is written to a locked file of its own, which goes away with it.

mod ahead;
mod buffers;
mod list;
mod read;
mod write;

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use larder_oci::{Algorithm, Digest};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::filling::Fillings;
use crate::verified::Verified;
use crate::{BlobError, Claim, Ingest, Stored, USED_AGAIN_AFTER};

use ahead::Feeders;
use read::Mark;
use write::Goal;
pub(crate) use write::Writer;

const LOCK_RETRY: Duration = Duration::from_millis(20);

#[derive(Clone)]
pub(crate) struct Disk {
    root: PathBuf,
    verified: Arc<Verified<Mark>>,
    feeders: Feeders,
    fillings: Fillings,
    /// The directory itself, for small records beside the blobs.
    records: Arc<dyn ObjectStore>,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Disk { action, path, source }
}

fn received<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> BoxStream<'static, T> {
    let next =
        |mut receiver: mpsc::Receiver<T>| async move { receiver.recv().await.map(|item| (item, receiver)) };
    stream::unfold(receiver, next).boxed()
}

impl Disk {
    pub(crate) fn open(root: &Path) -> Result<Self, BlobError> {
        let root = root.to_owned();
        let folders = Algorithm::ALL.map(|algorithm| root.join("blobs").join(algorithm.name()));
        for folder in folders.iter().chain([&root.join("ingest")]) {
            match fs::create_dir_all(folder) {
                Ok(()) => {}
                // Somebody else's cache, mounted read-only, is still good for reading.
                Err(error) if root.join("index.json").exists() && is_read_only(&error) => break,
                Err(error) => return Err(failed("create", folder)(error)),
            }
        }
        let records = LocalFileSystem::new_with_prefix(&root).map_err(|source| {
            let key = root.display().to_string();
            BlobError::Objects { action: "open", key, source }
        })?;
        let records = Arc::new(records.with_automatic_cleanup(true));
        Ok(Self {
            root,
            verified: Arc::default(),
            feeders: Feeders::default(),
            fillings: Fillings::default(),
            records,
        })
    }

    pub(crate) fn fillings(&self) -> &Fillings {
        &self.fillings
    }

    pub(crate) fn records(&self) -> &Arc<dyn ObjectStore> {
        &self.records
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let folder = self.root.join("blobs").join(digest.algorithm().name());
        folder.join(digest.hex())
    }

    pub(crate) fn stat(&self, digest: &Digest) -> Result<Option<Stored>, BlobError> {
        let path = self.blob(digest);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("look at", &path)(error)),
        };
        let modified = metadata.modified().map_err(failed("look at", &path))?;
        Ok(Some(Stored { digest: digest.clone(), size: metadata.len(), modified }))
    }

    pub(crate) fn delete(&self, digest: &Digest) -> Result<bool, BlobError> {
        let path = self.blob(digest);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("delete", &path)(error)),
        }
    }

    pub(crate) async fn ingest(&self, digest: &Digest, size: Option<u64>) -> Result<Claim, BlobError> {
        let partial = self.root.join("ingest").join(digest.token());
        loop {
            if let Some(stored) = self.present(digest, size)? {
                return Ok(Claim::Present(stored));
            }
            if let Some(file) = lock(&partial, true)? {
                // Whoever held the lock may have committed between the look and the lock.
                if let Some(stored) = self.present(digest, size)? {
                    let _ = fs::remove_file(&partial);
                    return Ok(Claim::Present(stored));
                }
                let writer = Writer::start(self.clone(), file, partial, Goal::Blob(digest.clone(), size))?;
                return Ok(Claim::Granted(Ingest(crate::Writer::Disk(writer))));
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    pub(crate) fn draft(&self, algorithm: Algorithm) -> Result<Writer, BlobError> {
        let partial = self.root.join("ingest").join(format!("draft-{}", Uuid::now_v7()));
        // Nobody else knows the name, but a sweep that takes everything may come upon it before it is locked.
        let file = lock(&partial, true)?.ok_or(BlobError::Interrupted)?;
        Writer::start(self.clone(), file, partial, Goal::Draft(algorithm))
    }

    /// The size of a blob that is there, with `size` bytes if that is given; such a one is marked as used.
    fn present(&self, digest: &Digest, size: Option<u64>) -> Result<Option<u64>, BlobError> {
        let stored = self.stat(digest)?.filter(|stored| size.is_none_or(|size| size == stored.size));
        let Some(stored) = stored else { return Ok(None) };
        let age = SystemTime::now().duration_since(stored.modified);
        if age.is_ok_and(|age| age > USED_AGAIN_AFTER) {
            match self.touch(digest) {
                Ok(()) => {}
                Err(BlobError::NotFound(_)) => return Ok(None),
                // Where nothing can be written, nothing is collected either.
                Err(BlobError::Disk { source, .. }) if is_read_only(&source) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(stored.size))
    }

    pub(crate) fn touch(&self, digest: &Digest) -> Result<(), BlobError> {
        let (file, path, before) = self.open_blob(digest)?;
        file.set_modified(SystemTime::now()).map_err(failed("mark as used", &path))?;
        if self.verified.holds(digest, &Mark::of(&before)) {
            let after = file.metadata().map_err(failed("look at", &path))?;
            self.verified.remember(digest.clone(), Mark::of(&after));
        }
        Ok(())
    }

    fn open_blob(&self, digest: &Digest) -> Result<(File, PathBuf, Metadata), BlobError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(BlobError::NotFound(digest.clone()));
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(failed("look at", &path))?;
        Ok((file, path, metadata))
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Opens and locks the partial file; `None` when another holds it, or when it is not there and not to be created.
fn lock(partial: &Path, create: bool) -> Result<Option<File>, BlobError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false);
    let file = match options.open(partial) {
        Ok(file) => file,
        Err(error) if !create && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", partial)(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(failed("lock", partial)(error)),
    }
    let held = file.metadata().map_err(failed("look at", partial))?;
    // The name may by now belong to another file, or to none: the lock is then on a file that nobody else sees.
    let same = fs::metadata(partial).is_ok_and(|named| named.ino() == held.ino());
    Ok(same.then_some(file))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use bytes::Bytes;
    use futures::TryStreamExt;

    use super::*;
    use crate::Blobs;

    fn open() -> (tempfile::TempDir, Blobs) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::on_disk(folder.path()).unwrap();
        (folder, blobs)
    }

    async fn granted(blobs: &Blobs, digest: &Digest, size: u64) -> Ingest {
        match blobs.ingest(digest, Some(size)).await.unwrap() {
            Claim::Granted(ingest) => ingest,
            Claim::Present(_) => panic!("present"),
        }
    }

    #[tokio::test]
    async fn reader_ends_in_an_error_when_a_byte_was_flipped() {
        let (folder, blobs) = open();
        let bytes = Bytes::from(vec![7; 3 << 20]);
        let digest = Digest::of(&bytes);
        blobs.put(&digest, bytes.clone()).await.unwrap();
        let path = folder.path().join("blobs/sha256").join(digest.hex());
        let mut wrong = bytes.to_vec();
        wrong[5] = 0;
        fs::write(path, wrong).unwrap();
        let content = blobs.read(&digest).await.unwrap();
        let chunks: Vec<_> = content.bytes.collect().await;
        assert!(matches!(chunks.last(), Some(Err(BlobError::Corrupt { .. }))));
        let shown: usize = chunks.iter().flatten().map(Bytes::len).sum();
        assert!(shown < bytes.len(), "the last chunk is held back");
    }

    #[tokio::test]
    async fn second_writer_waits_for_the_first() {
        let (_folder, blobs) = open();
        let bytes = Bytes::from_static(b"once");
        let digest = Digest::of(&bytes);
        let mut first = granted(&blobs, &digest, 4).await;
        let second = tokio::spawn({
            let (blobs, digest) = (blobs.clone(), digest.clone());
            async move { blobs.ingest(&digest, Some(4)).await.unwrap() }
        });
        first.write(bytes).await.unwrap();
        assert!(!second.is_finished());
        first.commit().await.unwrap();
        assert!(matches!(second.await.unwrap(), Claim::Present(4)));
    }

    #[tokio::test]
    async fn writer_resumes_where_another_process_stopped() {
        let (folder, blobs) = open();
        let bytes = Bytes::from_static(b"half and half");
        let digest = Digest::of(&bytes);
        fs::write(folder.path().join("ingest").join(digest.token()), &bytes[..4]).unwrap();
        let mut ingest = granted(&blobs, &digest, 13).await;
        assert_eq!(ingest.offset(), 4);
        ingest.share().await.unwrap();
        let filling = blobs.filling(&digest).unwrap();
        let begun: Vec<_> = filling.read(0, Some(4)).try_collect().await.unwrap();
        assert_eq!(
            (&begun.concat()[..], filling.written()),
            (&b"half"[..], 4),
            "what was there is shared too"
        );
        ingest.write(bytes.slice(4..)).await.unwrap();
        ingest.commit().await.unwrap();
        assert_eq!(fs::read_dir(folder.path().join("ingest")).unwrap().count(), 0);
    }

    /// Stores three MiB, and returns where they lie.
    async fn stored(folder: &tempfile::TempDir, blobs: &Blobs) -> (Digest, Vec<u8>, PathBuf) {
        let bytes = Bytes::from(vec![7; 3 << 20]);
        let digest = Digest::of(&bytes);
        blobs.put(&digest, bytes.clone()).await.unwrap();
        let path = folder.path().join("blobs/sha256").join(digest.hex());
        (digest, bytes.to_vec(), path)
    }

    fn set_age(path: &Path, age: Duration) -> SystemTime {
        let then = SystemTime::now() - age;
        File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
        then
    }

    fn modified(path: &Path) -> SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    async fn range(blobs: &Blobs, digest: &Digest) -> Result<Vec<Bytes>, BlobError> {
        blobs.read_range(digest, 2 << 20, Some(10)).await?.bytes.try_collect().await
    }

    #[tokio::test]
    async fn range_is_held_back_when_a_byte_outside_it_was_flipped() {
        let (folder, blobs) = open();
        let (digest, mut bytes, path) = stored(&folder, &blobs).await;
        bytes[5] = 0;
        fs::write(&path, &bytes).unwrap();
        let refused = range(&blobs, &digest).await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn verified_file_is_hashed_again_only_when_it_changed() {
        let (folder, blobs) = open();
        let (digest, mut bytes, path) = stored(&folder, &blobs).await;
        range(&blobs, &digest).await.unwrap();
        blobs.touch(&digest).await.unwrap();
        let then = modified(&path);
        bytes[5] = 0;
        fs::write(&path, &bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        assert_eq!(range(&blobs, &digest).await.unwrap().concat(), [7; 10], "nothing else was read");
        set_age(&path, Duration::from_secs(1));
        let refused = range(&blobs, &digest).await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
    }

    #[tokio::test]
    async fn blocking_reader_fails_instead_of_ending_and_goes_on_failing() {
        let (folder, blobs) = open();
        let (digest, mut bytes, path) = stored(&folder, &blobs).await;
        bytes[5] = 0;
        for damaged in [&bytes[..], &bytes[..100], &[]] {
            fs::write(&path, damaged).unwrap();
            let mut reader = blobs.reader(&digest).await.unwrap();
            let mut all = Vec::new();
            let error = reader.read_to_end(&mut all).unwrap_err();
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>());
            assert!(matches!(inner, Some(BlobError::Corrupt { .. })), "{error:?}");
            assert!(damaged.is_empty() || all.len() < damaged.len());
            assert!(reader.read(&mut [0]).is_err());
        }
    }

    #[tokio::test]
    async fn file_cut_while_it_is_read_is_an_error() {
        let (folder, blobs) = open();
        let (digest, _, path) = stored(&folder, &blobs).await;
        let mut reader = blobs.reader(&digest).await.unwrap();
        File::options().write(true).open(path).unwrap().set_len(10).unwrap();
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
    }

    #[tokio::test]
    async fn blob_relied_on_after_long_is_marked_as_used() {
        let (folder, blobs) = open();
        let (digest, bytes, path) = stored(&folder, &blobs).await;
        let recent = set_age(&path, USED_AGAIN_AFTER / 2);
        blobs.put(&digest, bytes.clone().into()).await.unwrap();
        assert_eq!(modified(&path), recent);
        let old = set_age(&path, USED_AGAIN_AFTER * 2);
        blobs.read(&digest).await.unwrap().bytes.try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(modified(&path), old, "to read is not to rely on");
        blobs.put(&digest, bytes.clone().into()).await.unwrap();
        assert!(modified(&path) > recent);
        set_age(&path, USED_AGAIN_AFTER * 2);
        let mut draft = blobs.draft().await.unwrap();
        draft.write(bytes.into()).await.unwrap();
        draft.commit(None).await.unwrap();
        assert!(modified(&path) > recent);
    }

    #[tokio::test]
    async fn list_passes_over_what_is_no_blob() {
        let (folder, blobs) = open();
        let (digest, ..) = stored(&folder, &blobs).await;
        let blob_folder = folder.path().join("blobs/sha256");
        fs::write(blob_folder.join("README"), "x").unwrap();
        fs::write(blob_folder.join(format!("{}#1", digest.hex())), "x").unwrap();
        fs::create_dir(blob_folder.join(Digest::of(b"folder").hex())).unwrap();
        fs::remove_dir(folder.path().join("blobs/sha512")).unwrap();
        let listed: Vec<_> = blobs.list().try_collect().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].digest, listed[0].size), (&digest, 3 << 20));
    }

    #[test]
    fn dropped_draft_takes_its_file_along() {
        let (folder, blobs) = open();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut draft = blobs.draft().await.unwrap();
            draft.write(Bytes::from_static(b"x")).await.unwrap();
            assert_eq!(fs::read_dir(folder.path().join("ingest")).unwrap().count(), 1);
        });
        // Waits for the thread that writes.
        drop(runtime);
        assert_eq!(fs::read_dir(folder.path().join("ingest")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn sweep_takes_only_what_is_old_and_held_by_nobody() {
        let (folder, blobs) = open();
        let ingests = folder.path().join("ingest");
        let hour = Duration::from_hours(1);
        for (name, age) in
            [("sha256-old", hour * 2), ("draft-old", hour * 2), ("draft-young", Duration::ZERO)]
        {
            fs::write(ingests.join(name), "x").unwrap();
            set_age(&ingests.join(name), age);
        }
        fs::create_dir(ingests.join("of another tool")).unwrap();
        let held = Digest::of(b"held");
        let ingest = granted(&blobs, &held, 4).await;
        set_age(&ingests.join(held.token()), hour * 2);
        assert_eq!(blobs.sweep(hour).await.unwrap(), 2);
        assert!(ingests.join(held.token()).exists());
        assert!(ingests.join("draft-young").exists());
        drop(ingest);
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn disk_passes_the_suite() {
        let (_folder, blobs) = open();
        crate::suite::all(&blobs, "disk").await;
    }
}
