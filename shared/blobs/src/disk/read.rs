//! Files read and hashed on a blocking thread.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use larder_oci::{Digest, Digester};

use super::{Disk, ahead, failed};
use crate::content::Window;
use crate::verified::Verified;
use crate::{BlobError, Content, Reader, check};

/// What is read without another thread, in bytes: about what a switch of threads takes.
const TINY_BYTES_MAX: usize = 64 << 10;

/// What a file looked like when its digest held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Mark {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), modified, size: metadata.len() }
    }
}

/// A blob's file, which yields its last bytes only after the digest held.
pub(super) struct Source {
    file: File,
    path: PathBuf,
    digest: Digest,
    left: u64,
    /// Until the digest held.
    digester: Option<Digester>,
    mark: Mark,
    verified: Arc<Verified<Mark>>,
}

impl Disk {
    pub(crate) fn read(&self, digest: &Digest) -> Result<Content, BlobError> {
        let source = self.source(digest)?;
        Ok(Content { size: source.mark.size, bytes: ahead::stream(&self.feeders, source, Window::WHOLE) })
    }

    pub(crate) fn read_range(
        &self,
        digest: &Digest,
        offset: u64,
        length: Option<u64>,
    ) -> Result<Content, BlobError> {
        let mut source = self.source(digest)?;
        let size = source.mark.size;
        let mut window = Window::new(digest, size, offset, length)?;
        if window.length == 0 {
            return Ok(Content { size, bytes: stream::empty().boxed() });
        }
        if self.verified.holds(digest, &source.mark) {
            source.skip_to(&mut window)?;
        }
        Ok(Content { size, bytes: ahead::stream(&self.feeders, source, window) })
    }

    /// The bytes from `offset` on, which nobody hashes.
    pub(crate) fn read_unproven(&self, digest: &Digest, offset: u64) -> Result<Content, BlobError> {
        let mut source = self.source(digest)?;
        let size = source.mark.size;
        let mut window = Window::new(digest, size, offset, None)?;
        source.skip_to(&mut window)?;
        Ok(Content { size, bytes: ahead::stream(&self.feeders, source, window) })
    }

    /// A blob so small that another thread would cost more than reading it; `None` when it is larger.
    pub(crate) fn read_tiny(&self, digest: &Digest) -> Result<Option<Bytes>, BlobError> {
        let mut source = self.source(digest)?;
        if source.left > TINY_BYTES_MAX as u64 {
            return Ok(None);
        }
        source.chunk(TINY_BYTES_MAX).map(|bytes| Some(bytes.into()))
    }

    pub(crate) fn reader(&self, digest: &Digest) -> Result<Reader, BlobError> {
        let source = self.source(digest)?;
        Ok(Reader::new(source.mark.size, Box::new(source)))
    }

    pub(crate) fn verified_file(&self, digest: &Digest) -> Result<Option<(File, u64)>, BlobError> {
        let (file, _, metadata) = match self.open_blob(digest) {
            Ok(opened) => opened,
            Err(BlobError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_verified = self.verified.holds(digest, &Mark::of(&metadata));
        Ok(is_verified.then_some((file, metadata.len())))
    }

    fn source(&self, digest: &Digest) -> Result<Source, BlobError> {
        let (file, path, metadata) = self.open_blob(digest)?;
        Ok(Source {
            file,
            path,
            digest: digest.clone(),
            left: metadata.len(),
            digester: Some(Digester::new(digest.algorithm())),
            mark: Mark::of(&metadata),
            verified: Arc::clone(&self.verified),
        })
    }
}

impl Source {
    /// Reads no more than the `window`, whose bytes need not be hashed.
    fn skip_to(&mut self, window: &mut Window) -> Result<(), BlobError> {
        self.file.seek(SeekFrom::Start(window.skip)).map_err(failed("read", &self.path))?;
        self.left = window.length;
        self.digester = None;
        window.skip = 0;
        Ok(())
    }

    /// Fills the beginning of `buffer`; nothing only at an end that holds.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, BlobError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_exact(&mut buffer[..wanted]).map_err(failed("read", &self.path))?;
        self.see(&buffer[..wanted])?;
        Ok(wanted)
    }

    /// The next bytes, at most `bytes_max`; nothing only at an end that holds.
    pub(super) fn chunk(&mut self, bytes_max: usize) -> Result<Vec<u8>, BlobError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes_max);
        let mut chunk = Vec::with_capacity(wanted);
        let read = (&self.file).take(wanted as u64).read_to_end(&mut chunk);
        read.map_err(failed("read", &self.path))?;
        if chunk.len() < wanted {
            return Err(failed("read", &self.path)(ErrorKind::UnexpectedEof.into()));
        }
        self.see(&chunk)?;
        Ok(chunk)
    }

    /// Hashes what was read, and checks the digest once all is.
    fn see(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if let Some(digester) = &mut self.digester {
            digester.update(bytes);
        }
        self.left -= bytes.len() as u64;
        if self.left == 0
            && let Some(digester) = self.digester.take()
        {
            check(&self.digest, None, &digester.finish(), self.mark.size)?;
            self.verified.remember(self.digest.clone(), self.mark.clone());
        }
        Ok(())
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether the digest held, before or now.
    pub(super) fn is_verified(&self) -> bool {
        self.digester.is_none()
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.fill(buffer).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use futures::TryStreamExt;

    use super::*;
    use crate::Blobs;

    async fn stored(draft: bool) -> (tempfile::TempDir, Blobs, Digest, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::on_disk(folder.path()).unwrap();
        let bytes = Bytes::from_static(b"just written");
        let digest = Digest::of(&bytes);
        if draft {
            let mut draft = blobs.draft().await.unwrap();
            draft.write(bytes).await.unwrap();
            draft.commit(None).await.unwrap();
        } else {
            blobs.put(&digest, bytes).await.unwrap();
        }
        let path = folder.path().join("blobs/sha256").join(digest.hex());
        (folder, blobs, digest, path)
    }

    #[tokio::test]
    async fn what_was_written_here_is_known_to_hold_until_it_changes() {
        for draft in [true, false] {
            let (_folder, blobs, digest, path) = stored(draft).await;
            let (mut file, size) = blobs.verified_file(&digest).unwrap().unwrap();
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            assert_eq!((&all[..], size), (&b"just written"[..], 12));
            let then = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, b"Just written").unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(then).unwrap();
            let range = blobs.read_range(&digest, 0, Some(4)).await.unwrap();
            assert_eq!(
                range.bytes.try_collect::<Vec<_>>().await.unwrap().concat(),
                b"Just",
                "it was not hashed"
            );
            file.set_modified(SystemTime::now() - Duration::from_secs(9)).unwrap();
            assert!(blobs.verified_file(&digest).unwrap().is_none());
            let range = blobs.read_range(&digest, 0, Some(4)).await.unwrap();
            range.bytes.try_collect::<Vec<_>>().await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn what_others_wrote_must_be_read_once() {
        let (folder, _, digest, _) = stored(false).await;
        let other = Blobs::on_disk(folder.path()).unwrap();
        assert!(other.verified_file(&digest).unwrap().is_none());
        other.read(&digest).await.unwrap().bytes.try_collect::<Vec<_>>().await.unwrap();
        assert!(other.verified_file(&digest).unwrap().is_some());
        assert!(other.verified_file(&Digest::of(b"absent")).unwrap().is_none());
    }
}
