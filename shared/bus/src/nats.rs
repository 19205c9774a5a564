//! The bus on NATS JetStream.

mod address;
mod connect;
mod hub;
mod layout;
mod letters;
mod link;
mod pull;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{ConsumerInfoErrorKind, GetStreamErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{SelectAll, select_all};
use tokio::time::{Instant, timeout};

use crate::bus::{Bus, Depth, Letter, News, Said, Worker, check_in_flight, check_size};
use crate::config::Config;
use crate::error::BusError;
use crate::name::{MessageId, Queue, Topic};
pub(crate) use address::Address;
use hub::{Hub, Refusal};
use layout::Layout;
use link::Link;
use worker::NatsWorker;

/// A bus that outlives its processes.
pub(crate) struct NatsBus {
    hub: Arc<Hub>,
    request_timeout: Duration,
}

impl NatsBus {
    pub(crate) async fn open(url: &str, config: &Config) -> Result<Self, BusError> {
        let address = Address::parse(url)?;
        let deadline = Instant::now() + config.connect_timeout();
        let link = Link::new();
        let client = connect::connect(&address, config, &link, deadline).await?;
        let hub = Hub::new(client, Layout::new(config), link);
        connect::persist(deadline, async || hub.ensure_stream(hub.layout.dead_stream()).await).await?;
        Ok(Self { hub: Arc::new(hub), request_timeout: config.request_timeout() })
    }

    /// Waits until the server has handled everything sent so far. A flush only empties our own buffer; the answer that nobody listens to a
    /// subject where nobody ever does comes after all the server was told before.
    async fn round_trip(&self) -> Result<(), BusError> {
        match self.hub.client.request(self.hub.layout.nobody_subject(), Bytes::new()).await {
            Err(error) if error.kind() != RequestErrorKind::NoResponders => {
                Err(BusError::nats("reach the server", error))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn say(&self, queue: &Queue, id: &MessageId, payload: Bytes) -> Result<Said, BusError> {
        check_size(&payload)?;
        self.hub.check_open()?;
        let layout = &self.hub.layout;
        let message = PublishMessage::build().payload(payload);
        let stream = || layout.work_stream(queue);
        let said = self
            .hub
            .publish(stream, &layout.work_stream_name(queue), &layout.work_subject(queue, id), message)
            .await;
        match said {
            Ok(()) => Ok(Said::Queued),
            Err(Refusal::SameId) => Ok(Said::AlreadyQueued),
            Err(Refusal::Full) => Err(BusError::Full { queue: queue.name().to_owned() }),
            Err(refusal) => Err(refusal.into_error("put a message on a queue")),
        }
    }

    async fn work(&self, queue: &Queue, in_flight_max: usize) -> Result<Box<dyn Worker>, BusError> {
        check_in_flight(in_flight_max)?;
        self.hub.check_open()?;
        Ok(Box::new(NatsWorker::join(Arc::clone(&self.hub), queue.clone(), in_flight_max).await?))
    }

    async fn announce(&self, topic: &Topic, payload: Bytes) -> Result<(), BusError> {
        check_size(&payload)?;
        self.hub.check_open()?;
        // The buffer to a lost server fills up, and then publishing waits.
        let sent = timeout(
            self.request_timeout,
            self.hub.client.publish(self.hub.layout.news_subject(topic), payload),
        )
        .await;
        sent.map_err(|elapsed| BusError::nats("announce news", elapsed))?
            .map_err(|error| BusError::nats("announce news", error))
    }

    async fn news(&self, topics: &[Topic]) -> Result<Box<dyn News>, BusError> {
        self.hub.check_open()?;
        let mut subscribers = Vec::with_capacity(topics.len());
        for topic in topics.iter().collect::<BTreeSet<_>>() {
            let subscriber = self.hub.client.subscribe(self.hub.layout.news_subject(topic)).await;
            subscribers.push(subscriber.map_err(|error| BusError::nats("subscribe to news", error))?);
        }
        self.round_trip().await?;
        Ok(Box::new(NatsNews(select_all(subscribers))))
    }

    async fn depths(&self, queue: &Queue) -> Result<Depth, BusError> {
        let stream = match self.hub.jetstream.get_stream(self.hub.layout.work_stream_name(queue)).await {
            Ok(stream) => stream,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    return Ok(Depth::default());
                }
                _ => return Err(BusError::nats("count messages", error)),
            },
        };
        let held = stream.cached_info().state.messages;
        let in_work = match stream.consumer_info(queue.name()).await {
            Ok(consumer) => consumer.num_ack_pending as u64,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => 0,
            Err(error) => return Err(BusError::nats("count messages", error)),
        };
        Ok(Depth { queued: held.saturating_sub(in_work), in_work })
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<Letter>, BusError> {
        letters::read(&self.hub, limit).await
    }

    fn news_missed(&self) -> u64 {
        self.hub.link.borrow().news_missed
    }

    async fn close(&self) {
        Link::close(&self.hub.link);
        let drained = timeout(self.request_timeout, async {
            if let Err(error) = self.hub.client.flush().await {
                tracing::warn!(%error, "bus closes without its last words");
            }
            self.hub.client.drain().await
        });
        match drained.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "bus connection was closed before"),
            Err(_) => tracing::warn!("bus closes without its last words"),
        }
    }
}

struct NatsNews(SelectAll<Subscriber>);

#[async_trait]
impl News for NatsNews {
    async fn next(&mut self) -> Option<(Topic, Bytes)> {
        loop {
            let Message { subject, payload, .. } = self.0.next().await?;
            if let Some(topic) = subject.rsplit('.').next().and_then(|topic| topic.parse().ok()) {
                return Some((topic, payload));
            }
        }
    }
}
