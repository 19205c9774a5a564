//! The thread that brings the view up to date behind the changes.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::Directory;

/// The last one to let go of it waits until the view is up to date.
#[derive(Default)]
pub(crate) struct Follower(Mutex<Option<Running>>);

struct Running {
    changes: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Follower {
    /// Says that there is something to be done.
    pub(crate) fn wake(&self, directory: &Arc<Directory>) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            let directory = Arc::clone(directory);
            let (changes, heard) = sync_channel(1);
            match Builder::new().name("catalog-view".to_owned()).spawn(move || follow(&directory, &heard)) {
                Ok(thread) => *running = Some(Running { changes, thread }),
                Err(error) => {
                    tracing::warn!(%error, "index.json waits for the next start: no thread to write it");
                }
            }
        }
        if let Some(running) = running.as_ref() {
            // When the word before it has not been heard yet, that one will do.
            let _ = running.changes.try_send(());
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let running = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { changes, thread }) = running {
            drop(changes);
            let _ = thread.join();
        }
    }
}

fn follow(directory: &Directory, changes: &Receiver<()>) {
    while changes.recv().is_ok() {
        let mut again = true;
        while std::mem::take(&mut again) {
            let begun = Instant::now();
            if let Err(error) = directory.catch_up() {
                tracing::warn!(error = &error as &dyn std::error::Error, "index.json lags behind the ledger");
            }
            // A rest as long as the work leaves half a core to others, however many names there are.
            again = hears_more(changes, begun.elapsed());
        }
    }
}

/// Whether there is more to do after `rest`, which the end of all changes cuts short.
fn hears_more(changes: &Receiver<()>, rest: Duration) -> bool {
    let until = Instant::now() + rest;
    let mut more = false;
    loop {
        match changes.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => more = true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return more,
        }
    }
}
