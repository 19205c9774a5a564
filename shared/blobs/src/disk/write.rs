//! One blocking thread per blob, which hashes and writes what the network task hands it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use bytes::Bytes;
use larder_oci::{Algorithm, Digest, Digester};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::read::Mark;
use super::{Disk, failed};
use crate::content::READ_BYTES;
use crate::filling::{Feed, Fillings, Wanted};
use crate::{BlobError, CHUNKS_IN_FLIGHT_MAX, check};

pub(crate) struct Writer {
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<Result<(Digest, u64), BlobError>>>,
    offset: u64,
    /// Until it is shared; a draft never is.
    shareable: Option<Shareable>,
}

struct Shareable {
    fillings: Fillings,
    wanted: Wanted,
    partial: PathBuf,
}

enum Order {
    Bytes(Bytes),
    Share(Feed),
    Restart,
    Commit(Option<Digest>),
}

/// What is written.
pub(super) enum Goal {
    /// A blob, of this size if it is known. What is there when the writing is given up stays, to be taken up again.
    Blob(Digest, Option<u64>),
    /// A blob that this algorithm will name.
    Draft(Algorithm),
}

impl Writer {
    /// Starts to write to `file`, which is locked and has the name `partial`.
    pub(super) fn start(disk: Disk, file: File, partial: PathBuf, goal: Goal) -> Result<Self, BlobError> {
        let there = file.metadata().map_err(failed("look at", &partial))?.len();
        let (algorithm, want, size) = match goal {
            Goal::Blob(digest, size) => (digest.algorithm(), Some(digest), size),
            Goal::Draft(algorithm) => (algorithm, None, None),
        };
        let offset = if size.is_some_and(|size| there <= size) { there } else { 0 };
        let (orders, inbox) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        let digester = Digester::new(algorithm);
        let shareable = want.clone().map(|digest| Shareable {
            fillings: disk.fillings.clone(),
            wanted: Wanted { digest, size },
            partial: partial.clone(),
        });
        let spool =
            Spool { feed: None, disk, file, partial, algorithm, digester, want, size, length: offset };
        let thread = tokio::task::spawn_blocking(move || spool.run(inbox));
        Ok(Self { orders, thread: Some(thread), offset, shareable })
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) async fn share(&mut self) -> Result<(), BlobError> {
        let Some(Shareable { fillings, wanted, partial }) = self.shareable.take() else {
            return Ok(());
        };
        // Opened anew: a copy of the writer's own file would hold its lock for as long as somebody reads.
        let file = File::open(&partial).map_err(failed("open", &partial))?;
        self.order(Order::Share(fillings.share(wanted, file, partial))).await
    }

    pub(crate) async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.order(Order::Bytes(bytes)).await
    }

    pub(crate) async fn restart(&mut self) -> Result<(), BlobError> {
        self.offset = 0;
        self.order(Order::Restart).await
    }

    pub(crate) async fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        self.order(Order::Commit(expected.cloned())).await?;
        self.finish().await
    }

    async fn order(&mut self, order: Order) -> Result<(), BlobError> {
        match self.orders.send(order).await {
            Ok(()) => Ok(()),
            // The thread takes orders until it fails.
            Err(_) => self.finish().await.map(drop),
        }
    }

    async fn finish(&mut self) -> Result<(Digest, u64), BlobError> {
        match self.thread.take() {
            Some(thread) => thread.await.unwrap_or(Err(BlobError::Interrupted)),
            None => Err(BlobError::Interrupted),
        }
    }
}

/// What the blocking thread works on.
struct Spool {
    /// Goes away before the file, and so before the lock on it: the next writer may truncate what readers read.
    feed: Option<Feed>,
    disk: Disk,
    file: File,
    partial: PathBuf,
    algorithm: Algorithm,
    digester: Digester,
    want: Option<Digest>,
    size: Option<u64>,
    length: u64,
}

impl Spool {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) -> Result<(Digest, u64), BlobError> {
        self.take_up()?;
        while let Some(order) = inbox.blocking_recv() {
            match order {
                Order::Bytes(bytes) => self.write(&bytes)?,
                Order::Share(feed) => {
                    feed.advance(self.length);
                    self.feed = Some(feed);
                }
                Order::Restart => self.clear()?,
                Order::Commit(expected) => return self.commit(expected.as_ref()),
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
        if let (Some(size), Some(want)) = (self.size, &self.want)
            && length > size
        {
            let _ = fs::remove_file(&self.partial);
            return Err(BlobError::WrongSize { digest: want.clone(), want: size, got: length });
        }
        self.digester.update(bytes);
        self.file.write_all(bytes).map_err(failed("write", &self.partial))?;
        self.length = length;
        if let Some(feed) = &self.feed {
            feed.advance(length);
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), BlobError> {
        if let Some(feed) = &self.feed {
            feed.restart();
        }
        self.file.set_len(0).map_err(failed("truncate", &self.partial))?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed("rewind", &self.partial))?;
        self.digester = Digester::new(self.algorithm);
        self.length = 0;
        Ok(())
    }

    fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64), BlobError> {
        let got = self.digester.clone().finish();
        if let Some(want) = self.want.as_ref().or(expected)
            && let Err(error) = check(want, self.size, &got, self.length)
        {
            let _ = fs::remove_file(&self.partial);
            return Err(error);
        }
        let is_there = self.want.is_none() && self.disk.present(&got, Some(self.length))?.is_some();
        if !is_there {
            self.publish(&got)?;
        }
        if let Some(feed) = self.feed.take() {
            feed.prove();
        }
        Ok((got, self.length))
    }

    fn publish(&self, digest: &Digest) -> Result<(), BlobError> {
        let target = self.disk.blob(digest);
        self.file.sync_all().map_err(failed("sync", &self.partial))?;
        fs::rename(&self.partial, &target).map_err(failed("rename to", &target))?;
        let folder = target.parent().expect("a blob has a folder");
        let opened = File::open(folder).and_then(|folder| folder.sync_all());
        opened.map_err(failed("sync", folder))?;
        // Its bytes were hashed on their way into this file: nobody has to do it again.
        let metadata = self.file.metadata().map_err(failed("look at", &target))?;
        self.disk.verified.remember(digest.clone(), Mark::of(&metadata));
        Ok(())
    }
}

impl Drop for Spool {
    /// Nobody can take up a draft again; one that was published no longer has this name.
    fn drop(&mut self) {
        if self.want.is_none() {
            let _ = fs::remove_file(&self.partial);
        }
    }
}
