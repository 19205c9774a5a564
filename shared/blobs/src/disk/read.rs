//! Files read and hashed on a blocking thread.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use larder_oci::{Digest, Digester};
use tokio::sync::mpsc;

use super::{Disk, failed, received};
use crate::content::{READ_BYTES, Window};
use crate::verified::Verified;
use crate::{BlobError, CHUNKS_IN_FLIGHT_MAX, Content, Reader, check};

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
struct Source {
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
        Ok(source.stream(Window::WHOLE))
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
            source.file.seek(SeekFrom::Start(offset)).map_err(failed("read", &source.path))?;
            source.left = window.length;
            source.digester = None;
            window.skip = 0;
        }
        Ok(source.stream(window))
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
    /// Fills the beginning of `buffer`; nothing only at an end that holds.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, BlobError> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_exact(&mut buffer[..wanted]).map_err(failed("read", &self.path))?;
        self.see(&buffer[..wanted])?;
        Ok(wanted)
    }

    /// The next bytes, at most `bytes_max`; nothing only at an end that holds.
    fn chunk(&mut self, bytes_max: usize) -> Result<Vec<u8>, BlobError> {
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

    fn stream(self, window: Window) -> Content {
        let size = self.mark.size;
        let (chunks, stream) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = self.send(window, &chunks) {
                let _ = chunks.blocking_send(Err(error));
            }
        });
        Content { size, bytes: received(stream) }
    }

    fn send(
        mut self,
        mut window: Window,
        chunks: &mpsc::Sender<Result<Bytes, BlobError>>,
    ) -> Result<(), BlobError> {
        let mut held: Option<Bytes> = None;
        // Somebody who has gone needs no hash either.
        while !chunks.is_closed() {
            let chunk = self.chunk(READ_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            let wanted = window.cut(chunk.into());
            if wanted.is_empty() {
                continue;
            }
            if let Some(ready) = held.replace(wanted)
                && chunks.blocking_send(Ok(ready)).is_err()
            {
                return Ok(());
            }
        }
        if let Some(last) = held {
            let _ = chunks.blocking_send(Ok(last));
        }
        Ok(())
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
