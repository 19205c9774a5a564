//! What the bus, its workers and their deliveries share: the connection, and streams that are there when they are needed.

use std::collections::HashSet;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::{CreateStreamErrorKind, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{self, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::sync::watch;

use super::layout::Layout;
use super::link::Link;
use crate::error::BusError;
use crate::name::Queue;

/// The shared half of everything on one connection.
pub(super) struct Hub {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    pub(super) layout: Layout,
    pub(super) link: watch::Sender<Link>,
    /// The streams this process has seen with the wanted settings.
    seen: Mutex<HashSet<String>>,
}

/// Why a stream did not take a message.
pub(super) enum Refusal {
    SameId,
    Full,
    NoStream,
    Failed(PublishError),
    /// The stream was missing and could not be made.
    Unmade(BusError),
}

impl Hub {
    pub(super) fn new(client: Client, layout: Layout, link: watch::Sender<Link>) -> Self {
        let jetstream =
            jetstream::context::ContextBuilder::new().backpressure_on_inflight(true).build(client.clone());
        Self { client, jetstream, layout, link, seen: Mutex::default() }
    }

    pub(super) fn check_open(&self) -> Result<(), BusError> {
        if self.link.borrow().closed { Err(BusError::Closed) } else { Ok(()) }
    }

    /// Publishes into a stream that is made when it is missing, be it that nobody made it yet or that somebody deleted it.
    pub(super) async fn publish(
        &self,
        stream: impl Fn() -> stream::Config,
        name: &str,
        subject: &str,
        message: PublishMessage,
    ) -> Result<(), Refusal> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        if seen {
            match self.publish_once(subject, message.clone()).await {
                Err(Refusal::NoStream) => {}
                outcome => return outcome,
            }
        }
        self.ensure_stream(stream()).await.map_err(Refusal::Unmade)?;
        self.publish_once(subject, message).await
    }

    async fn publish_once(&self, subject: &str, message: PublishMessage) -> Result<(), Refusal> {
        let sent = self.jetstream.send_publish(subject.to_owned(), message).await;
        let confirmed = match sent {
            Ok(confirmation) => confirmation.await,
            Err(error) => Err(error),
        };
        confirmed.map(drop).map_err(Refusal::of)
    }

    /// Makes the stream, or brings an existing one to these settings. Any number of processes may do so at once.
    pub(super) async fn ensure_stream(&self, config: stream::Config) -> Result<(), BusError> {
        let name = config.name.clone();
        let created = self.jetstream.create_stream(config.clone()).await.map(drop);
        let ensured = match created.as_ref().map_err(async_nats::error::Error::kind) {
            Err(CreateStreamErrorKind::JetStream(error))
                if error.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                self.jetstream.update_stream(config).await.map(drop)
            }
            _ => created,
        };
        match ensured {
            Ok(()) => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
                Ok(())
            }
            Err(error) => match error.kind() {
                CreateStreamErrorKind::JetStream(refusal) if is_final(&refusal) => {
                    Err(BusError::Conflict { name, source: error.into() })
                }
                _ => Err(BusError::nats("make a stream", error)),
            },
        }
    }

    /// Makes the stream and the consumer of a queue.
    pub(super) async fn ensure_consumer(&self, queue: &Queue) -> Result<PullConsumer, BusError> {
        self.ensure_stream(self.layout.work_stream(queue)).await?;
        let stream = self.layout.work_stream_name(queue);
        let consumer = self.jetstream.create_consumer_on_stream(self.layout.consumer(queue), &stream).await;
        consumer.map_err(|error| match error.kind() {
            ConsumerErrorKind::JetStream(refusal) if is_final(&refusal) => BusError::Conflict {
                name: format!("consumer {} of {stream}", queue.name()),
                source: error.into(),
            },
            _ => BusError::nats("make a consumer", error),
        })
    }

    /// Answers a delivery and waits until the server has heard the answer.
    pub(super) async fn settle(&self, reply: &Subject, answer: jetstream::AckKind) -> Result<(), BusError> {
        let heard = self.client.request(reply.clone(), Bytes::from(answer)).await;
        heard.map(drop).map_err(|error| BusError::nats("settle a delivery", error))
    }
}

/// Tells whether a server that said this will say it again until somebody changes something.
fn is_final(refusal: &jetstream::Error) -> bool {
    match refusal.error_code() {
        ErrorCode::CONSUMER_WQ_CONSUMER_NOT_UNIQUE
        | ErrorCode::CONSUMER_WQ_MULTIPLE_UNFILTERED
        | ErrorCode::MAXIMUM_CONSUMERS_LIMIT
        | ErrorCode::MAXIMUM_STREAMS_LIMIT
        | ErrorCode::STREAM_INVALID
        | ErrorCode::STREAM_INVALID_CONFIG
        | ErrorCode::STREAM_LIMITS
        | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        | ErrorCode::STREAM_REPLICAS_NOT_UPDATABLE
        | ErrorCode::STREAM_SUBJECT_OVERLAP
        | ErrorCode::STREAM_UPDATE => true,
        // Also said of a stream that is being deleted.
        ErrorCode::CONSUMER_CREATE => refusal.to_string().contains("can not"),
        _ => false,
    }
}

impl Refusal {
    fn of(error: PublishError) -> Self {
        if error.kind() == PublishErrorKind::StreamNotFound {
            return Self::NoStream;
        }
        let Some(told) = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>()) else {
            return Self::Failed(error);
        };
        match told.error_code() {
            ErrorCode::STREAM_NOT_FOUND | ErrorCode::STREAM_NOT_MATCH => Self::NoStream,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Self::Full,
            // One code stands for all limits of a stream; only the text tells them apart.
            ErrorCode::STREAM_STORE_FAILED => match told.to_string() {
                text if text.contains("per subject exceeded") => Self::SameId,
                text if text.contains("maximum") => Self::Full,
                _ => Self::Failed(error),
            },
            _ => Self::Failed(error),
        }
    }

    /// Says it as an error, where only success was expected.
    pub(super) fn into_error(self, act: &'static str) -> BusError {
        match self {
            Self::SameId => BusError::nats(act, "a message with this id exists"),
            Self::Full => BusError::nats(act, "stream or storage is full"),
            Self::NoStream => BusError::nats(act, "stream does not exist"),
            Self::Failed(error) => BusError::nats(act, error),
            Self::Unmade(error) => error,
        }
    }
}
