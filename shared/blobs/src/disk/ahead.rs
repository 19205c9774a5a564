//! Files read ahead of whoever takes their bytes.
//!
//! A blocking thread fills the shelf of a stream with a few chunks, goes on with another stream, and comes back when the shelf is
//! empty: a slow reader costs a little memory, and no thread. All streams of a directory share a few threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::Notify;

use super::buffers::Buffers;
use super::read::Source;
use crate::BlobError;
use crate::content::{CHUNK_BYTES, Window};

/// Chunks that are ready, per stream; one more may be on its way from the disk, and one be held back.
const CHUNKS_READY_MAX: usize = 2;
/// Chunks that a thread reads for one stream before it looks after others.
const CHUNKS_PER_TURN_MAX: usize = 32;
/// Threads are for disks that are slow and digests that are not known to hold: more than processors, and not one for each reader.
const THREADS_PER_PROCESSOR: usize = 2;
const THREADS_MIN: usize = 8;

/// The bytes of `source` that lie in the `window`.
pub(super) fn stream(
    feeders: &Feeders,
    source: Source,
    window: Window,
) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let is_verified = source.is_verified();
    let feeder = Feeder { source, window, buffers: feeders.buffers.clone(), is_verified, held: None };
    let shelf = Shelf { ready: VecDeque::new(), idle: Some(feeder), is_last: false };
    let shared =
        Arc::new(Shared { shelf: Mutex::new(shelf), stocked: Notify::new(), feeders: feeders.clone() });
    stream::unfold(shared, |shared| async move { shared.take().await.map(|chunk| (chunk, shared)) }).boxed()
}

struct Shared {
    shelf: Mutex<Shelf>,
    stocked: Notify,
    feeders: Feeders,
}

struct Shelf {
    ready: VecDeque<Result<Bytes, BlobError>>,
    /// Unless a thread has it.
    idle: Option<Feeder>,
    /// Whether nothing comes after what is ready.
    is_last: bool,
}

/// What a thread works on.
struct Feeder {
    source: Source,
    window: Window,
    buffers: Buffers,
    /// Whether the digest held before anything was read.
    is_verified: bool,
    held: Option<Bytes>,
}

/// A shelf to be filled.
struct Work {
    feeder: Feeder,
    shared: Arc<Shared>,
}

enum Step {
    Ready(Bytes),
    /// It was read, and is not to be given: not yet, or not at all.
    Unseen,
    End,
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(self: &Arc<Self>) -> Option<Result<Bytes, BlobError>> {
        loop {
            let (chunk, idle, is_last) = {
                let mut shelf = self.shelf();
                let chunk = shelf.ready.pop_front();
                // Not before the shelf is empty: one thread then brings several chunks.
                let idle = if shelf.ready.is_empty() { shelf.idle.take() } else { None };
                (chunk, idle, shelf.is_last)
            };
            if let Some(feeder) = idle {
                self.feeders.add(Work { feeder, shared: Arc::clone(self) });
            }
            if chunk.is_some() || is_last {
                return chunk;
            }
            self.stocked.notified().await;
        }
    }

    /// Puts a chunk on the shelf; without one, says that there are no more.
    fn put(&self, chunk: Option<Result<Bytes, BlobError>>) {
        let mut shelf = self.shelf();
        shelf.is_last = !matches!(chunk, Some(Ok(_)));
        shelf.ready.extend(chunk);
        drop(shelf);
        self.stocked.notify_one();
    }
}

impl Work {
    /// Fills the shelf; what is left to be done then comes after all others'.
    fn turn(mut self) -> Option<Self> {
        for _ in 0..CHUNKS_PER_TURN_MAX {
            // Somebody who has gone needs no hash either.
            if Arc::strong_count(&self.shared) == 1 {
                return None;
            }
            let mut shelf = self.shared.shelf();
            if shelf.ready.len() >= CHUNKS_READY_MAX {
                shelf.idle = Some(self.feeder);
                return None;
            }
            drop(shelf);
            match self.feeder.step() {
                Ok(Step::Ready(chunk)) => self.shared.put(Some(Ok(chunk))),
                Ok(Step::Unseen) => {}
                Ok(Step::End) => {
                    self.shared.put(None);
                    return None;
                }
                Err(error) => {
                    self.shared.put(Some(Err(error)));
                    return None;
                }
            }
        }
        Some(self)
    }
}

impl Feeder {
    fn chunk(&mut self) -> Result<Bytes, BlobError> {
        // What is much smaller than a buffer must not hold one.
        if self.source.left() < CHUNK_BYTES as u64 / 2 {
            return self.source.chunk(CHUNK_BYTES).map(Bytes::from);
        }
        let mut buffer = self.buffers.take();
        let length = self.source.fill(buffer.whole())?;
        Ok(buffer.into_bytes(length))
    }

    /// Reads the next chunk. Yields the one before it, so that the last one comes only after the digest held.
    fn step(&mut self) -> Result<Step, BlobError> {
        let chunk = self.chunk()?;
        if chunk.is_empty() {
            return Ok(self.held.take().map_or(Step::End, Step::Ready));
        }
        let wanted = self.window.cut(chunk);
        if wanted.is_empty() {
            return Ok(Step::Unseen);
        }
        let ready = if self.is_verified { Some(wanted) } else { self.held.replace(wanted) };
        Ok(ready.map_or(Step::Unseen, Step::Ready))
    }
}

/// The threads that read for the streams of a directory, and what they read into.
#[derive(Clone)]
pub(super) struct Feeders {
    queue: Arc<Mutex<Queue>>,
    buffers: Buffers,
}

struct Queue {
    waiting: VecDeque<Work>,
    threads: usize,
    threads_max: usize,
}

impl Default for Feeders {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads_max = THREADS_MIN.max(processors * THREADS_PER_PROCESSOR);
        let queue = Queue { waiting: VecDeque::new(), threads: 0, threads_max };
        Self { queue: Arc::new(Mutex::new(queue)), buffers: Buffers::default() }
    }
}

impl Feeders {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, work: Work) {
        let mut queue = self.queue();
        queue.waiting.push_back(work);
        if queue.threads < queue.threads_max {
            queue.threads += 1;
            drop(queue);
            let thread = Thread { feeders: self.clone(), is_counted: true };
            tokio::task::spawn_blocking(move || thread.run());
        }
    }
}

/// One of the threads, counted until it goes away, also when it never ran.
struct Thread {
    feeders: Feeders,
    is_counted: bool,
}

impl Thread {
    fn run(mut self) {
        while let Some(work) = self.next() {
            if let Some(rest) = work.turn() {
                self.feeders.queue().waiting.push_back(rest);
            }
        }
    }

    fn next(&mut self) -> Option<Work> {
        let mut queue = self.feeders.queue();
        let work = queue.waiting.pop_front();
        if work.is_none() {
            // In the same breath: who adds work must either be seen here or start a thread.
            queue.threads -= 1;
            self.is_counted = false;
        }
        work
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.is_counted {
            self.feeders.queue().threads -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use larder_oci::Digest;

    use crate::Blobs;

    #[test]
    fn streams_that_nobody_reads_hold_no_thread() {
        let folder = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().max_blocking_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let blobs = Blobs::on_disk(folder.path()).unwrap();
            let bytes = vec![7; 2 << 20];
            let digest = Digest::of(&bytes);
            blobs.put(&digest, bytes.into()).await.unwrap();
            let mut slow = Vec::new();
            for _ in 0..10 {
                for mut content in
                    [blobs.read(&digest).await.unwrap(), blobs.read_range(&digest, 0, None).await.unwrap()]
                {
                    content.bytes.try_next().await.unwrap();
                    slow.push(content);
                }
            }
            for content in slow {
                let rest: Vec<_> = content.bytes.try_collect().await.unwrap();
                assert!(rest.concat().len() > 1 << 20);
            }
        });
    }
}
