//! One of those who hear a queue on the server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::{Message, Subject, jetstream};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::connect::pause_before;
use super::hub::Hub;
use super::letters;
use super::link::Link;
use super::pull::{Pull, Pulled};
use crate::bus::{Delivery, Heard, Letter, Settle, Worker, spent_reason};
use crate::error::BusError;
use crate::name::{MessageId, Queue};

/// Hears one queue. All state that must outlive a dropped `next` is here.
pub(super) struct NatsWorker {
    hub: Arc<Hub>,
    queue: Queue,
    slots: Arc<Semaphore>,
    link: watch::Receiver<Link>,
    consumer: Option<PullConsumer>,
    pull: Option<Pull>,
    spent: Option<Parcel>,
    failures: usize,
}

/// A message as it came, with what the server knows of it.
struct Parcel {
    id: MessageId,
    attempt: u32,
    sequence: u64,
    payload: Bytes,
    reply: Subject,
}

impl NatsWorker {
    pub(super) async fn join(hub: Arc<Hub>, queue: Queue, in_flight_max: usize) -> Result<Self, BusError> {
        let consumer = hub.ensure_consumer(&queue).await?;
        Ok(Self {
            link: hub.link.subscribe(),
            hub,
            queue,
            slots: Arc::new(Semaphore::new(in_flight_max)),
            consumer: Some(consumer),
            pull: None,
            spent: None,
            failures: 0,
        })
    }

    /// Waits for a message; `None` when something was healed or buried meanwhile and the caller should come again.
    async fn pull(&mut self) -> Result<Option<Message>, BusError> {
        self.link.wait_for(|link| link.up || link.closed).await.map_err(|_| BusError::Closed)?;
        self.hub.check_open()?;
        if self.consumer.is_none() {
            self.consumer = Some(self.hub.ensure_consumer(&self.queue).await?);
        }
        let consumer = self.consumer.as_ref().expect("it was just made");
        if self.pull.is_none() {
            self.pull = Some(Pull::open(&self.hub.client).await?);
        }
        let pull = self.pull.as_mut().expect("it was just opened");
        if pull.is_spent() {
            // The slot in the hands of `next` counts as free.
            pull.ask(consumer, self.slots.available_permits() + 1).await?;
        }
        let pulled = tokio::select! {
            biased;
            pulled = pull.next() => pulled,
            // The server forgets requests with the connection they came by.
            _ = self.link.changed() => Pulled::Silent,
        };
        match pulled {
            Pulled::Message(message) => return Ok(Some(message)),
            Pulled::Ended => {}
            Pulled::Silent => self.pull = None,
            Pulled::Lost(why) => return Err(BusError::nats("keep pulling", why)),
        }
        Ok(None)
    }

    /// Moves the message that used up its attempts, kept in `spent` until that is done.
    async fn bury_spent(&mut self) -> Result<Option<Letter>, BusError> {
        let Some(spent) = &self.spent else {
            return Ok(None);
        };
        let attempts = spent.attempt.saturating_sub(1);
        let letter = spent.letter(&self.queue, attempts, spent_reason(attempts));
        letters::write(&self.hub, &letter, spent.sequence).await?;
        if let Err(error) = self.hub.settle(&spent.reply, AckKind::Term).await {
            // The letter is written; insisting would hold up the queue if the consumer is gone.
            tracing::debug!(%error, id = %spent.id, "buried message will come again");
        }
        self.spent = None;
        Ok(Some(letter))
    }

    /// Turns a message into work, unless it is no message of this bus or has used up its attempts.
    async fn accept(&mut self, message: Message, slot: &mut Option<OwnedSemaphorePermit>) -> Option<Heard> {
        let parcel = Parcel::open(message, &self.hub).await?;
        if parcel.attempt > self.queue.attempts_max() {
            self.spent = Some(parcel);
            return None;
        }
        let (id, attempt, payload) = (parcel.id.clone(), parcel.attempt, parcel.payload.clone());
        let lease =
            Lease { hub: Arc::clone(&self.hub), queue: self.queue.clone(), parcel, _slot: slot.take() };
        Some(Heard::Work(Delivery::new(id, attempt, payload, Box::new(lease))))
    }

    async fn step(&mut self, slot: &mut Option<OwnedSemaphorePermit>) -> Result<Option<Heard>, BusError> {
        if let Some(letter) = self.bury_spent().await? {
            return Ok(Some(Heard::Dead(letter)));
        }
        match self.pull().await? {
            Some(message) => Ok(self.accept(message, slot).await),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Worker for NatsWorker {
    async fn next(&mut self) -> Result<Heard, BusError> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("slots are never closed");
        let mut slot = Some(slot);
        loop {
            match self.step(&mut slot).await {
                Ok(heard) => {
                    self.failures = 0;
                    if let Some(heard) = heard {
                        return Ok(heard);
                    }
                }
                Err(error) if error.heals() => {
                    self.failures += 1;
                    (self.consumer, self.pull) = (None, None);
                    tracing::warn!(
                        queue = self.queue.name(),
                        error = &error as &dyn std::error::Error,
                        failures = self.failures,
                        "worker heals"
                    );
                    tokio::time::sleep(pause_before(self.failures)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Parcel {
    /// Reads what a worker needs; ends a message that somebody else put on our subjects.
    async fn open(message: Message, hub: &Hub) -> Option<Self> {
        let reply = message.reply.clone()?;
        let message = jetstream::Message { message, context: hub.jetstream.clone() };
        let id = message.subject.rsplit('.').next().and_then(|id| id.parse().ok());
        let known = message.info().ok().map(|info| (info.delivered, info.stream_sequence));
        let (Some(id), Some((delivered, sequence))) = (id, known) else {
            tracing::warn!(subject = %message.subject, "message is none of this bus, dropped");
            if let Err(error) = hub.settle(&reply, AckKind::Term).await {
                tracing::debug!(%error, "it will come again");
            }
            return None;
        };
        let attempt = u32::try_from(delivered).unwrap_or(u32::MAX);
        Some(Self { id, attempt, sequence, payload: message.message.payload, reply })
    }

    fn letter(&self, queue: &Queue, attempts: u32, reason: String) -> Letter {
        let (id, payload) = (self.id.clone(), self.payload.clone());
        Letter { queue: queue.name().to_owned(), id, attempts, reason, payload, time: SystemTime::now() }
    }
}

/// The hold of a worker on one message.
struct Lease {
    hub: Arc<Hub>,
    queue: Queue,
    parcel: Parcel,
    _slot: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl Settle for Lease {
    async fn ack(&self) -> Result<(), BusError> {
        self.hub.settle(&self.parcel.reply, AckKind::Ack).await
    }

    async fn retry(&self, after: Duration) -> Result<(), BusError> {
        let after = (!after.is_zero()).then_some(after);
        self.hub.settle(&self.parcel.reply, AckKind::Nak(after)).await
    }

    async fn progress(&self) -> Result<(), BusError> {
        let sent = self.hub.client.publish(self.parcel.reply.clone(), AckKind::Progress.into()).await;
        sent.map_err(|error| BusError::nats("report progress", error))
    }

    async fn bury(&self, reason: &str) -> Result<(), BusError> {
        let letter = self.parcel.letter(&self.queue, self.parcel.attempt, reason.to_owned());
        letters::write(&self.hub, &letter, self.parcel.sequence).await?;
        self.hub.settle(&self.parcel.reply, AckKind::Term).await
    }
}
