//! Blobs that are read while they are being written.
//!
//! The writer says how far it has come; each reader reads the file that holds the bytes so far, at its own pace. Neither waits for
//! the other, and a reader that waits for bytes holds no thread.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use larder_oci::Digest;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::BlobError;
use crate::content::CHUNK_BYTES;

/// A reader that has all there is looks again after this time, or later: many readers of a quick writer would otherwise be woken
/// for each packet.
const PACE: Duration = Duration::from_millis(10);

/// A blob that this process is writing, or was when it was found. What has come can be read, however the writing ends; clones
/// share it.
#[derive(Clone)]
pub struct Filling(Arc<Growing>);

struct Growing {
    digest: Digest,
    size: Option<u64>,
    file: File,
    path: PathBuf,
    progress: watch::Receiver<Progress>,
}

/// What the writer says. When it goes away without having proven the blob, the blob has failed.
#[derive(Clone, Copy, Default)]
struct Progress {
    written: u64,
    restarts: u64,
    is_proven: bool,
}

impl Filling {
    /// The size in bytes, if it was announced or the blob is complete.
    pub fn size(&self) -> Option<u64> {
        self.size_at(*self.0.progress.borrow())
    }

    /// How many bytes have come, those of an earlier try included.
    pub fn written(&self) -> u64 {
        self.0.progress.borrow().written
    }

    /// The bytes from `offset` on, `length` of them; without a length, or with that of zero, to the end of the blob, and no
    /// further than that. They come as they are written. The last bytes of the blob are held back until it is committed: whoever
    /// has read to a clean end at the end of the blob has what its digest names. A part that ends earlier is given as it comes: it is not
    /// yet proven.
    ///
    /// The stream ends in [`BlobError::Unfinished`] when the blob does not hold or its ingest is dropped, or is restarted after bytes
    /// were given; in [`BlobError::OutOfRange`] when `offset` is behind the end; in [`BlobError::Disk`].
    pub fn read(&self, offset: u64, length: Option<u64>) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let length = length.filter(|length| *length > 0);
        let reading = Reading {
            filling: self.clone(),
            progress: self.0.progress.clone(),
            at: offset,
            end: length.map_or(u64::MAX, |length| offset.saturating_add(length)),
            given: None,
        };
        stream::try_unfold(reading, Reading::next).boxed()
    }

    fn size_at(&self, progress: Progress) -> Option<u64> {
        if progress.is_proven { Some(progress.written) } else { self.0.size }
    }

    fn unfinished(&self) -> BlobError {
        BlobError::Unfinished(self.0.digest.clone())
    }
}

/// One reader.
struct Reading {
    filling: Filling,
    progress: watch::Receiver<Progress>,
    at: u64,
    end: u64,
    /// In which try of the writer bytes were given, and when last.
    given: Option<(u64, Instant)>,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BlobError> {
        loop {
            let has_ended = self.progress.has_changed().is_err();
            let seen = *self.progress.borrow_and_update();
            if has_ended && !seen.is_proven {
                return Err(self.filling.unfinished());
            }
            if self.given.is_some_and(|(restarts, _)| restarts != seen.restarts) {
                return Err(self.filling.unfinished());
            }
            let size = self.filling.size_at(seen);
            let end = size.map_or(self.end, |size| self.end.min(size));
            if self.at > end {
                return Err(self.out_of_range(end));
            }
            let holds_back = |until| !seen.is_proven && size == Some(until);
            if self.at == end && !holds_back(end) {
                return Ok(None);
            }
            // Where the size is not known, any byte may be the last.
            let open = seen.written.saturating_sub(u64::from(size.is_none()));
            let until = open.min(end).min(self.at.saturating_add(CHUNK_BYTES as u64));
            if until <= self.at || holds_back(until) {
                self.progress.changed().await.map_err(|_| self.filling.unfinished())?;
            } else if let Some(rest) = self.rest(until, end) {
                tokio::time::sleep(rest).await;
            } else {
                let chunk = self.chunk(until).await;
                // What was read while the writer began again may be anything.
                if self.is_still(&seen) {
                    self.at = until;
                    self.given = Some((seen.restarts, Instant::now()));
                    return Ok(Some((chunk?, self)));
                }
            }
        }
    }

    /// How long to wait for more, when there is less than a chunk and the last one was given just now.
    fn rest(&self, until: u64, end: u64) -> Option<Duration> {
        if until == end || until - self.at >= CHUNK_BYTES as u64 {
            return None;
        }
        let (_, last) = self.given?;
        PACE.checked_sub(last.elapsed()).filter(|rest| !rest.is_zero())
    }

    async fn chunk(&self, until: u64) -> Result<Bytes, BlobError> {
        let (filling, at) = (self.filling.clone(), self.at);
        let read = move || {
            let mut chunk = vec![0; usize::try_from(until - at).unwrap_or(CHUNK_BYTES)];
            filling.0.file.read_exact_at(&mut chunk, at).map(|()| Bytes::from(chunk))
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|_| BlobError::Interrupted)?;
        read.map_err(|source| {
            let path = self.filling.0.path.clone();
            BlobError::Disk { action: "read", path, source }
        })
    }

    /// Whether the writer is still at the try it was `seen` at, or has ended it well.
    fn is_still(&self, seen: &Progress) -> bool {
        let now = *self.progress.borrow();
        let has_ended = self.progress.has_changed().is_err();
        now.restarts == seen.restarts && (now.is_proven || !has_ended)
    }

    fn out_of_range(&self, size: u64) -> BlobError {
        BlobError::OutOfRange { digest: self.filling.0.digest.clone(), offset: self.at, size }
    }
}

/// The blobs that are being written here and can be read meanwhile.
#[derive(Clone, Default)]
pub(crate) struct Fillings(Arc<Mutex<HashMap<Digest, Filling>>>);

/// A blob to be shared, and its size if that is known.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) size: Option<u64>,
}

impl Fillings {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Filling> {
        self.all().get(digest).cloned()
    }

    /// Lets the blob be found until the feed goes away. Its bytes are those of `file`, which was opened at `path`. Where two write
    /// the same, only the first is found.
    pub(crate) fn share(&self, wanted: Wanted, file: File, path: PathBuf) -> Feed {
        let (progress, receiver) = watch::channel(Progress::default());
        let growing = Growing { digest: wanted.digest, size: wanted.size, file, path, progress: receiver };
        let filling = Filling(Arc::new(growing));
        self.all().entry(filling.0.digest.clone()).or_insert_with(|| filling.clone());
        Feed { fillings: self.clone(), filling, progress }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Filling>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's end of a [`Filling`]. When it goes away without [`Feed::prove`], all readers fail.
pub(crate) struct Feed {
    fillings: Fillings,
    filling: Filling,
    progress: watch::Sender<Progress>,
}

impl Feed {
    /// Says that the file has `written` bytes now.
    pub(crate) fn advance(&self, written: u64) {
        self.progress.send_modify(|progress| progress.written = written);
    }

    /// Says that what is in the file is no longer valid; to be called before it is changed.
    pub(crate) fn restart(&self) {
        self.progress.send_modify(|progress| {
            progress.written = 0;
            progress.restarts += 1;
        });
    }

    /// Says that the blob holds and is in the store.
    pub(crate) fn prove(self) {
        self.progress.send_modify(|progress| progress.is_proven = true);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut all = self.fillings.all();
        let digest = &self.filling.0.digest;
        if all.get(digest).is_some_and(|found| Arc::ptr_eq(&found.0, &self.filling.0)) {
            all.remove(digest);
        }
    }
}
