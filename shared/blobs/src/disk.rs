//! Blobs in a local directory.
//!
//! A blob is written to `ingest/<algorithm>-<hex>` under an exclusive lock on that file, so that of all processes sharing the
//! directory one writes it, the others wait, and after a crash the next one resumes where the last one stopped. One blocking
//! thread per blob hashes and writes what the network task hands it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use larder_oci::{Algorithm, Digest, Digester};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::{BlobError, CHUNKS_IN_FLIGHT_MAX, Claim, Content, Ingest, check};

const READ_BYTES: usize = 1 << 20;
const LOCK_RETRY: Duration = Duration::from_millis(20);

pub(crate) struct Disk {
    root: PathBuf,
}

pub(crate) struct Writer {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<Result<u64, BlobError>>>,
    offset: u64,
}

enum Order {
    Bytes(Bytes),
    Restart,
    Commit,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Disk { action, path, source }
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
        Ok(Self { root })
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        let folder = self.root.join("blobs").join(digest.algorithm().name());
        folder.join(digest.hex())
    }

    pub(crate) fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let path = self.blob(digest);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at", &path)(error)),
        }
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
            if let Some(stored) = self.size(digest)?
                && size.is_none_or(|size| size == stored)
            {
                return Ok(Claim::Present(stored));
            }
            if let Some(file) = lock(&partial)? {
                // Whoever held the lock may have committed between the look and the lock.
                if let Some(stored) = self.size(digest)?
                    && size.is_none_or(|size| size == stored)
                {
                    let _ = fs::remove_file(&partial);
                    return Ok(Claim::Present(stored));
                }
                let writer = self.writer(file, partial, digest.clone(), size)?;
                return Ok(Claim::Granted(Ingest(crate::Writer::Disk(writer))));
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
    }

    fn writer(
        &self,
        file: File,
        partial: PathBuf,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<Writer, BlobError> {
        let there = file.metadata().map_err(failed("look at", &partial))?.len();
        let offset = if size.is_some_and(|size| there <= size) { there } else { 0 };
        let (orders, inbox) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        let spool = Spool {
            file,
            partial,
            target: self.blob(&digest),
            digester: Digester::new(digest.algorithm()),
            digest,
            size,
            length: offset,
        };
        let thread = tokio::task::spawn_blocking(move || spool.run(inbox));
        Ok(Writer { orders, thread: Some(thread), offset })
    }

    pub(crate) fn read(&self, digest: &Digest) -> Result<Content, BlobError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(BlobError::NotFound(digest.clone()));
            }
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let size = file.metadata().map_err(failed("look at", &path))?.len();
        let (chunks, stream) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        let digest = digest.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read_verified(file, &path, &digest, size, &chunks) {
                let _ = chunks.blocking_send(Err(error));
            }
        });
        let bytes = futures::stream::unfold(stream, |mut stream| async move {
            stream.recv().await.map(|chunk| (chunk, stream))
        });
        let bytes = bytes.boxed();
        Ok(Content { size, bytes })
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Opens and locks the partial file; `None` when another holds it.
fn lock(partial: &Path) -> Result<Option<File>, BlobError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(partial).map_err(failed("create", partial))?;
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

fn read_verified(
    mut file: File,
    path: &Path,
    digest: &Digest,
    size: u64,
    chunks: &mpsc::Sender<Result<Bytes, BlobError>>,
) -> Result<(), BlobError> {
    let mut digester = Digester::new(digest.algorithm());
    let mut left = size;
    loop {
        let length = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        let mut chunk = vec![0; length];
        file.read_exact(&mut chunk).map_err(failed("read", path))?;
        digester.update(&chunk);
        left -= length as u64;
        if left == 0 {
            check(digest, None, digester.finish(), size)?;
            let _ = chunks.blocking_send(Ok(chunk.into()));
            return Ok(());
        }
        if chunks.blocking_send(Ok(chunk.into())).is_err() {
            return Ok(());
        }
    }
}

impl Writer {
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.order(Order::Bytes(bytes)).await
    }

    pub(crate) async fn restart(&mut self) -> Result<(), BlobError> {
        self.offset = 0;
        self.order(Order::Restart).await
    }

    pub(crate) async fn commit(mut self) -> Result<u64, BlobError> {
        self.order(Order::Commit).await?;
        self.finish().await
    }

    async fn order(&mut self, order: Order) -> Result<(), BlobError> {
        match self.orders.send(order).await {
            Ok(()) => Ok(()),
            // The thread takes orders until it fails.
            Err(_) => self.finish().await.map(drop),
        }
    }

    async fn finish(&mut self) -> Result<u64, BlobError> {
        match self.thread.take() {
            Some(thread) => thread.await.unwrap_or(Err(BlobError::Interrupted)),
            None => Err(BlobError::Interrupted),
        }
    }
}

/// What the blocking thread works on.
struct Spool {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    digester: Digester,
    digest: Digest,
    size: Option<u64>,
    length: u64,
}

impl Spool {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) -> Result<u64, BlobError> {
        self.take_up()?;
        while let Some(order) = inbox.blocking_recv() {
            match order {
                Order::Bytes(bytes) => self.write(&bytes)?,
                Order::Restart => self.clear()?,
                Order::Commit => return self.commit(),
            }
        }
        Err(BlobError::Interrupted)
    }

    /// Hashes what an earlier try has left.
    fn take_up(&mut self) -> Result<(), BlobError> {
        let offset = self.length;
        if offset == 0 {
            return self.clear();
        }
        let mut buffer = vec![0; READ_BYTES];
        let mut left = offset;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            let chunk = &mut buffer[..length];
            self.file.read_exact(chunk).map_err(failed("read", &self.partial))?;
            self.digester.update(chunk);
            left -= length as u64;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &Bytes) -> Result<(), BlobError> {
        let length = self.length + bytes.len() as u64;
        if let Some(size) = self.size
            && length > size
        {
            let _ = fs::remove_file(&self.partial);
            return Err(BlobError::WrongSize { digest: self.digest.clone(), want: size, got: length });
        }
        self.digester.update(bytes);
        self.file.write_all(bytes).map_err(failed("write", &self.partial))?;
        self.length = length;
        Ok(())
    }

    fn clear(&mut self) -> Result<(), BlobError> {
        self.file.set_len(0).map_err(failed("truncate", &self.partial))?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed("rewind", &self.partial))?;
        self.digester = Digester::new(self.digest.algorithm());
        self.length = 0;
        Ok(())
    }

    fn commit(self) -> Result<u64, BlobError> {
        if let Err(error) = check(&self.digest, self.size, self.digester.finish(), self.length) {
            let _ = fs::remove_file(&self.partial);
            return Err(error);
        }
        self.file.sync_all().map_err(failed("sync", &self.partial))?;
        fs::rename(&self.partial, &self.target).map_err(failed("rename to", &self.target))?;
        let folder = self.target.parent().expect("a blob has a folder");
        let opened = File::open(folder).and_then(|folder| folder.sync_all());
        opened.map_err(failed("sync", folder))?;
        Ok(self.length)
    }
}

#[cfg(test)]
mod tests {
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
        ingest.write(bytes.slice(4..)).await.unwrap();
        ingest.commit().await.unwrap();
        assert_eq!(fs::read_dir(folder.path().join("ingest")).unwrap().count(), 0);
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn disk_passes_the_suite() {
        let (_folder, blobs) = open();
        crate::suite::all(&blobs, "disk").await;
    }

    #[cfg(feature = "suite")]
    #[tokio::test(flavor = "multi_thread")]
    async fn memory_passes_the_suite() {
        let store = std::sync::Arc::new(object_store::memory::InMemory::new());
        crate::suite::all(&Blobs::on_objects(store), "memory").await;
    }
}
