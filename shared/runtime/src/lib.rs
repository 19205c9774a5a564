//! The pump between bus and actors, telemetry and shutdown.
//!
//! An actor never sees the bus: the pump turns a fact into the actor's command, awaits the outcome, says what follows from it,
//! and only then acknowledges. Whatever dies in between is done again by somebody else, so all work is idempotent.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admin;
pub mod metrics;
mod pump;
pub mod telemetry;
mod voice;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use larder_bus::Bus;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use pump::{Failure, Outcome, Says};
pub use voice::{Ear, Heard, Voice};

/// What all actors of a process share: a voice, tasks that are counted, and the word to stop.
#[derive(Clone)]
pub struct Runtime {
    voice: Voice,
    tasks: TaskTracker,
    stopping: CancellationToken,
    watchers: TaskTracker,
    stopped: CancellationToken,
}

impl Runtime {
    /// A runtime on `bus`.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            voice: Voice::new(bus),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            watchers: TaskTracker::new(),
            stopped: CancellationToken::new(),
        }
    }

    /// What actors speak with.
    pub fn voice(&self) -> &Voice {
        &self.voice
    }

    /// Starts a task that the runtime waits for when it stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Starts a task that may go on while the others are drained, and ends when they are.
    pub(crate) fn spawn_watcher(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.watchers.spawn(task);
    }

    /// Completes when the runtime begins to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Completes when the runtime has stopped: what is still in flight then has no more time.
    pub fn stopped(&self) -> CancellationToken {
        self.stopped.clone()
    }

    /// Takes no more work, waits up to `limit` for what is in flight, and closes the bus. Work that is not done by then goes
    /// to another process.
    pub async fn stop(&self, limit: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(limit, self.tasks.wait()).await.is_err() {
            tracing::warn!(left = self.tasks.len(), "work in flight is left to others");
        }
        self.voice.close().await;
        self.stopped.cancel();
        self.watchers.close();
        // They have nothing to finish; one that hangs is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.watchers.wait()).await;
    }
}

/// Runs a handler's work on the thread pool, so that no actor's thread does I/O. Dropping the answer ends the work.
pub fn on_pool<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> actix::ResponseFuture<T> {
    let task = AbortOnDropHandle::new(tokio::spawn(work));
    Box::pin(async move {
        match task.await {
            Ok(answer) => answer,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is shutting down: nobody reads the answer.
            Err(_) => std::future::pending().await,
        }
    })
}
