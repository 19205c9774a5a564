//! The bus as everybody else sees it.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::BusError;
use crate::name::{MessageId, Queue, Topic};

/// How large a payload may be, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The longest a message waits for its next attempt; the stream forgets it about then anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Carries work and news between processes, or within one.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Puts a message on `queue`, unless one of the same id waits or is in work there. When it returns, the bus holds the message.
    ///
    /// # Errors
    /// [`BusError::TooLarge`]; [`BusError::Full`]; [`BusError::Closed`]; [`BusError::Nats`] when the server did not confirm, in which
    /// case it may hold the message or still receive it. Saying it again is always safe.
    async fn say(&self, queue: &Queue, id: &MessageId, payload: Bytes) -> Result<Said, BusError>;

    /// Joins the workers of `queue`. The worker never holds more than `in_flight_max` deliveries at once.
    ///
    /// # Errors
    /// [`BusError::InvalidConfig`] when `in_flight_max` is 0; [`BusError::Conflict`]; [`BusError::Closed`]; [`BusError::Nats`].
    async fn work(&self, queue: &Queue, in_flight_max: usize) -> Result<Box<dyn Worker>, BusError>;

    /// Tells everybody who listens to `topic` now.
    ///
    /// # Errors
    /// [`BusError::TooLarge`]; [`BusError::Closed`]; [`BusError::Nats`] when the connection takes no more.
    async fn announce(&self, topic: &Topic, payload: Bytes) -> Result<(), BusError>;

    /// Listens to `topics`; what is announced after this returns is heard.
    ///
    /// # Errors
    /// [`BusError::Closed`]; [`BusError::Nats`].
    async fn news(&self, topics: &[Topic]) -> Result<Box<dyn News>, BusError>;

    /// Counts the messages of `queue`; a queue nobody used yet has none.
    ///
    /// # Errors
    /// [`BusError::Nats`].
    async fn depths(&self, queue: &Queue) -> Result<Depth, BusError>;

    /// Reads the newest `limit` dead letters of all queues, newest first.
    ///
    /// # Errors
    /// [`BusError::Nats`].
    async fn dead_letters(&self, limit: usize) -> Result<Vec<Letter>, BusError>;

    /// How many news, or for a server at least how many bursts of news, listeners of this process lost because they lagged.
    fn news_missed(&self) -> u64;

    /// Sends what is still buffered and closes the bus for this process. Workers end with [`BusError::Closed`], news with `None`.
    /// Work in flight goes to others after its deadline.
    async fn close(&self);
}

/// Hears the work of one queue.
#[async_trait]
pub trait Worker: Send {
    /// Waits until a message is there and the worker may hold one more. Dropping the future loses nothing, but a worker that has room
    /// should be waiting here: a message may be on its way to it already, and its deadline runs. A worker that wants no more is dropped.
    /// A lost connection, a restarted server, a deleted stream or consumer are healed inside.
    ///
    /// # Errors
    /// [`BusError::Closed`]; [`BusError::Conflict`]; nothing that heals.
    async fn next(&mut self) -> Result<Heard, BusError>;
}

/// Hears news.
#[async_trait]
pub trait News: Send {
    /// Waits for the next news; `None` once the bus is closed. A listener that lags more than `news_buffer_max` behind loses what comes
    /// until it has caught up; that is counted and logged, never signalled here, because the truth is in the store and whoever waits
    /// asks it again anyway. Dropping the future loses nothing.
    async fn next(&mut self) -> Option<(Topic, Bytes)>;
}

/// What became of a message that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It waits for a worker.
    Queued,
    /// One of the same id waits or is in work; this one was not taken.
    AlreadyQueued,
}

/// What a worker hears.
#[derive(Debug)]
pub enum Heard {
    /// A message to work on.
    Work(Delivery),
    /// A message that used up its attempts and is now among the dead letters; the worker can say what failed.
    Dead(Letter),
}

/// Counts the messages of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Those never delivered.
    pub queued: u64,
    /// Those delivered and not settled, including those that wait for their next attempt.
    pub in_work: u64,
}

/// A message nobody managed to finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The queue it was on.
    pub queue: String,
    /// Its id there.
    pub id: MessageId,
    /// How often it was delivered.
    pub attempts: u32,
    /// Why it was given up.
    pub reason: String,
    /// What it said.
    pub payload: Bytes,
    /// When it was given up.
    pub time: SystemTime,
}

/// A message in the hands of a worker. Dropping it unsettled gives it to another worker after the deadline.
pub struct Delivery {
    /// The id it was said with.
    pub id: MessageId,
    /// How often it was delivered, this time included.
    pub attempt: u32,
    /// What it says.
    pub payload: Bytes,
    settle: Box<dyn Settle>,
}

impl Delivery {
    /// Makes a delivery that `settle` answers for; for buses and for decorators of buses.
    pub fn new(id: MessageId, attempt: u32, payload: Bytes, settle: Box<dyn Settle>) -> Self {
        Self { id, attempt, payload, settle }
    }

    /// Ends the message: the work is done. Also when the deadline has passed and another worker has it meanwhile.
    ///
    /// # Errors
    /// [`BusError::Nats`] when the server did not confirm; the message may come again.
    pub async fn ack(self) -> Result<(), BusError> {
        self.settle.ack().await
    }

    /// Gives the message back, for another attempt after `after`, one day at most.
    ///
    /// # Errors
    /// [`BusError::Nats`] when the server did not confirm; the message comes again after its deadline.
    pub async fn retry(self, after: Duration) -> Result<(), BusError> {
        self.settle.retry(after.min(RETRY_AFTER_MAX)).await
    }

    /// Says that the work goes on: the deadline starts anew.
    ///
    /// # Errors
    /// [`BusError::Nats`] when it could not be sent.
    pub async fn progress(&self) -> Result<(), BusError> {
        self.settle.progress().await
    }

    /// Moves the message to the dead letters: no attempt will do.
    ///
    /// # Errors
    /// [`BusError::Nats`] when the server did not confirm; the message may come again.
    pub async fn bury(self, reason: &str) -> Result<(), BusError> {
        self.settle.bury(reason).await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Answers for one delivery; see the methods of [`Delivery`].
#[async_trait]
pub trait Settle: Send + Sync {
    /// Ends the message.
    async fn ack(&self) -> Result<(), BusError>;
    /// Gives it back.
    async fn retry(&self, after: Duration) -> Result<(), BusError>;
    /// Starts its deadline anew.
    async fn progress(&self) -> Result<(), BusError>;
    /// Moves it to the dead letters.
    async fn bury(&self, reason: &str) -> Result<(), BusError>;
}

/// Says why a message that used up its attempts is dead.
pub(crate) fn spent_reason(attempts: u32) -> String {
    format!("delivered {attempts} times without acknowledgement")
}

/// Refuses a worker that could never hold a message.
pub(crate) fn check_in_flight(in_flight_max: usize) -> Result<(), BusError> {
    if (1..=tokio::sync::Semaphore::MAX_PERMITS).contains(&in_flight_max) {
        return Ok(());
    }
    Err(BusError::InvalidConfig { key: "in_flight_max", why: "is out of range" })
}

/// Refuses payloads the bus does not carry.
pub(crate) fn check_size(payload: &Bytes) -> Result<(), BusError> {
    if payload.len() <= PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(BusError::TooLarge { bytes: payload.len(), bytes_max: PAYLOAD_BYTES_MAX })
}
