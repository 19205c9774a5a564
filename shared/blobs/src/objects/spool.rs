//! A copy on disk of what goes to the object store, for readers who do not wait until it is there.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::filling::{Feed, Fillings, Wanted};
use crate::{BlobError, CHUNKS_IN_FLIGHT_MAX};

enum Order {
    Bytes(Bytes),
    Restart,
}

/// A thread that writes to a file without a name.
pub(super) struct Spool {
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<Option<Feed>>,
}

impl Spool {
    pub(super) async fn start(folder: &Path, fillings: Fillings, wanted: Wanted) -> Result<Self, BlobError> {
        let folder = folder.to_owned();
        let open = move || {
            let file = tempfile::tempfile_in(&folder).and_then(|file| Ok((file.try_clone()?, file)));
            file.map(|(file, copy)| (file, fillings.share(wanted, copy, folder.clone())))
                .map_err(|source| BlobError::Disk { action: "create a file in", path: folder, source })
        };
        let opened = tokio::task::spawn_blocking(open).await;
        let (file, feed) = opened.unwrap_or(Err(BlobError::Interrupted))?;
        let (orders, inbox) = mpsc::channel(CHUNKS_IN_FLIGHT_MAX);
        let thread = tokio::task::spawn_blocking(move || match run(file, &feed, inbox) {
            Ok(()) => Some(feed),
            Err(error) => {
                tracing::warn!(%error, "cannot write a temporary file; those who read from it fail");
                None
            }
        });
        Ok(Self { orders, thread })
    }

    /// Whether it still takes bytes.
    pub(super) async fn write(&self, bytes: Bytes) -> bool {
        self.orders.send(Order::Bytes(bytes)).await.is_ok()
    }

    pub(super) async fn restart(&self) -> bool {
        self.orders.send(Order::Restart).await.is_ok()
    }

    /// Says that the blob is in the store, once the readers have all of it.
    pub(super) async fn prove(self) {
        drop(self.orders);
        if let Ok(Some(feed)) = self.thread.await {
            feed.prove();
        }
    }
}

fn run(mut file: File, feed: &Feed, mut inbox: mpsc::Receiver<Order>) -> io::Result<()> {
    let mut length = 0;
    while let Some(order) = inbox.blocking_recv() {
        match order {
            Order::Bytes(bytes) => {
                file.write_all(&bytes)?;
                length += bytes.len() as u64;
                feed.advance(length);
            }
            Order::Restart => {
                feed.restart();
                file.set_len(0)?;
                file.seek(SeekFrom::Start(0))?;
                length = 0;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use futures::TryStreamExt;
    use larder_oci::Digest;
    use object_store::memory::InMemory;

    use crate::{Blobs, Claim};

    #[tokio::test]
    async fn temporary_file_has_no_name_and_is_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = Bytes::from_static(b"spooled");
        let digest = Digest::of(&bytes);
        for (spool, is_shared) in [(folder.path().join("absent"), false), (folder.path().to_owned(), true)] {
            let blobs = Blobs::on_objects(Arc::new(InMemory::new())).with_spool(&spool);
            let Claim::Granted(mut ingest) = blobs.ingest(&digest, None).await.unwrap() else {
                panic!("present");
            };
            assert_eq!(ingest.share().await.is_ok(), is_shared);
            let filling = blobs.filling(&digest);
            assert_eq!(filling.is_some(), is_shared);
            ingest.write(bytes.clone()).await.unwrap();
            ingest.commit().await.unwrap();
            if let Some(filling) = filling {
                let read: Vec<_> = filling.read(0, None).try_collect().await.unwrap();
                assert_eq!(read.concat(), bytes);
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
