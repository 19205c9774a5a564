//! The bus within one process. Invariant: no task and no timer runs unless somebody waits; deadlines are looked at when a worker asks.

mod line;

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::bus::{
    Bus, Delivery, Depth, Heard, Letter, News, Said, Settle, Worker, check_in_flight, check_size,
    spent_reason,
};
use crate::config::Config;
use crate::error::BusError;
use crate::name::{MessageId, Queue, Topic};
use line::{Line, Taken};

/// How many dead letters the memory bus keeps, the oldest making room.
const DEAD_LETTERS_MAX: usize = 1_000;

/// Every mutation under these locks is complete before anything can panic, so a poisoned lock still guards a sound value.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bus that ends with its process.
pub(crate) struct MemoryBus {
    desks: Mutex<HashMap<Arc<str>, Arc<Desk>>>,
    listeners: Mutex<Vec<Listener>>,
    office: Arc<Office>,
    news_buffer_max: usize,
    news_missed: AtomicU64,
}

/// What all queues share.
#[derive(Default)]
struct Office {
    dead: Mutex<VecDeque<Letter>>,
    closed: AtomicBool,
}

/// One queue and those who wait at it.
#[derive(Default)]
struct Desk {
    line: Mutex<Line>,
    changed: Notify,
}

struct Listener {
    topics: Vec<Topic>,
    news: mpsc::Sender<(Topic, Bytes)>,
}

impl Office {
    fn check_open(&self) -> Result<(), BusError> {
        if self.closed.load(Ordering::Acquire) { Err(BusError::Closed) } else { Ok(()) }
    }

    fn bury(&self, letter: Letter) {
        let mut dead = lock(&self.dead);
        if dead.len() == DEAD_LETTERS_MAX {
            dead.pop_front();
        }
        dead.push_back(letter);
    }
}

impl MemoryBus {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            desks: Mutex::default(),
            listeners: Mutex::default(),
            office: Arc::default(),
            news_buffer_max: config.news_buffer_max,
            news_missed: AtomicU64::new(0),
        }
    }

    fn desk(&self, queue: &Queue) -> Arc<Desk> {
        let mut desks = lock(&self.desks);
        if let Some(desk) = desks.get(queue.name()) {
            return Arc::clone(desk);
        }
        Arc::clone(desks.entry(queue.shared_name()).or_default())
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn say(&self, queue: &Queue, id: &MessageId, payload: Bytes) -> Result<Said, BusError> {
        check_size(&payload)?;
        self.office.check_open()?;
        let desk = self.desk(queue);
        let said = lock(&desk.line).put(id, payload, queue.depth_max());
        let said = said.ok_or_else(|| BusError::Full { queue: queue.name().to_owned() })?;
        desk.changed.notify_waiters();
        Ok(said)
    }

    async fn work(&self, queue: &Queue, in_flight_max: usize) -> Result<Box<dyn Worker>, BusError> {
        check_in_flight(in_flight_max)?;
        self.office.check_open()?;
        Ok(Box::new(MemoryWorker {
            desk: self.desk(queue),
            office: Arc::clone(&self.office),
            queue: queue.clone(),
            slots: Arc::new(Semaphore::new(in_flight_max)),
        }))
    }

    async fn announce(&self, topic: &Topic, payload: Bytes) -> Result<(), BusError> {
        check_size(&payload)?;
        self.office.check_open()?;
        lock(&self.listeners).retain(|listener| {
            if !listener.topics.contains(topic) {
                return !listener.news.is_closed();
            }
            match listener.news.try_send((topic.clone(), payload.clone())) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.news_missed.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%topic, "listener lags, news lost");
                    true
                }
            }
        });
        Ok(())
    }

    async fn news(&self, topics: &[Topic]) -> Result<Box<dyn News>, BusError> {
        self.office.check_open()?;
        let (news, heard) = mpsc::channel(self.news_buffer_max);
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| !listener.news.is_closed());
        listeners.push(Listener { topics: topics.to_vec(), news });
        Ok(Box::new(MemoryNews(heard)))
    }

    async fn depths(&self, queue: &Queue) -> Result<Depth, BusError> {
        Ok(lock(&self.desk(queue).line).depth())
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<Letter>, BusError> {
        Ok(lock(&self.office.dead).iter().rev().take(limit).cloned().collect())
    }

    fn news_missed(&self) -> u64 {
        self.news_missed.load(Ordering::Relaxed)
    }

    async fn close(&self) {
        self.office.closed.store(true, Ordering::Release);
        lock(&self.listeners).clear();
        for desk in lock(&self.desks).values() {
            desk.changed.notify_waiters();
        }
    }
}

struct MemoryNews(mpsc::Receiver<(Topic, Bytes)>);

#[async_trait]
impl News for MemoryNews {
    async fn next(&mut self) -> Option<(Topic, Bytes)> {
        self.0.recv().await
    }
}

struct MemoryWorker {
    desk: Arc<Desk>,
    office: Arc<Office>,
    queue: Queue,
    slots: Arc<Semaphore>,
}

#[async_trait]
impl Worker for MemoryWorker {
    async fn next(&mut self) -> Result<Heard, BusError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("slots are never closed");
        loop {
            // Waiting begins before looking, or a message put in between would wake nobody.
            let mut changed = pin!(self.desk.changed.notified());
            changed.as_mut().enable();
            self.office.check_open()?;
            let taken =
                lock(&self.desk.line).take(Instant::now(), self.queue.ack_wait(), self.queue.attempts_max());
            match taken {
                Taken::Work { sequence, id, attempt, payload } => {
                    let lease = Lease {
                        desk: Arc::clone(&self.desk),
                        office: Arc::clone(&self.office),
                        queue: self.queue.clone(),
                        sequence,
                        attempt,
                        _slot: slot,
                    };
                    return Ok(Heard::Work(Delivery::new(id, attempt, payload, Box::new(lease))));
                }
                Taken::Spent { id, attempts, payload } => {
                    let letter = letter(&self.queue, id, attempts, spent_reason(attempts), payload);
                    self.office.bury(letter.clone());
                    return Ok(Heard::Dead(letter));
                }
                Taken::Nothing { until: None } => changed.await,
                Taken::Nothing { until: Some(until) } => {
                    // Whichever ends it, the line is looked at again.
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
    }
}

fn letter(queue: &Queue, id: MessageId, attempts: u32, reason: String, payload: Bytes) -> Letter {
    Letter { queue: queue.name().to_owned(), id, attempts, reason, payload, time: SystemTime::now() }
}

/// The hold of a worker on one message.
struct Lease {
    desk: Arc<Desk>,
    office: Arc<Office>,
    queue: Queue,
    sequence: u64,
    attempt: u32,
    _slot: OwnedSemaphorePermit,
}

impl Lease {
    fn postpone(&self, by: Duration) {
        lock(&self.desk.line).postpone(self.sequence, self.attempt, Instant::now() + by);
        // The next deadline may be nearer than the one the others sleep for.
        self.desk.changed.notify_waiters();
    }
}

#[async_trait]
impl Settle for Lease {
    async fn ack(&self) -> Result<(), BusError> {
        lock(&self.desk.line).remove(self.sequence);
        Ok(())
    }

    async fn retry(&self, after: Duration) -> Result<(), BusError> {
        self.postpone(after);
        Ok(())
    }

    async fn progress(&self) -> Result<(), BusError> {
        self.postpone(self.queue.ack_wait());
        Ok(())
    }

    async fn bury(&self, reason: &str) -> Result<(), BusError> {
        let removed = lock(&self.desk.line).remove(self.sequence);
        if let Some((id, payload)) = removed {
            self.office.bury(letter(&self.queue, id, self.attempt, reason.to_owned(), payload));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
