//! The request for messages that is open at the server. Invariant: it never asks for more than the worker can take at once, so no message
//! runs down its deadline in a buffer.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::BatchConfig;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use crate::error::BusError;

/// How many messages one request asks for at most.
const MESSAGES_MAX: usize = 256;
/// How much an inbox must hold so that a request and its heartbeats never overflow it.
pub(super) const INBOX_MESSAGES_MIN: usize = 2 * MESSAGES_MAX;
/// How long the server keeps one request.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it still keeps it.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After how long a silent server has forgotten it.
const SILENCE_MAX: Duration = Duration::from_millis(3_500);

/// An inbox, and how many messages may still come into it.
pub(super) struct Pull {
    inbox: Subject,
    subscriber: Subscriber,
    outstanding: usize,
    silent_at: Instant,
}

/// What came of waiting.
pub(super) enum Pulled {
    Message(Message),
    /// The request has ended as it should; another can be made.
    Ended,
    /// The server has forgotten the request; whatever still comes for it must not be counted with the next one.
    Silent,
    /// The consumer or its stream is gone, or moves.
    Lost(String),
}

impl Pull {
    pub(super) async fn open(client: &Client) -> Result<Self, BusError> {
        let inbox = Subject::from(client.new_inbox());
        let subscriber = client
            .subscribe(inbox.clone())
            .await
            .map_err(|error| BusError::nats("subscribe to a queue", error))?;
        Ok(Self { inbox, subscriber, outstanding: 0, silent_at: Instant::now() })
    }

    pub(super) fn is_spent(&self) -> bool {
        self.outstanding == 0
    }

    pub(super) async fn ask(&mut self, consumer: &PullConsumer, messages: usize) -> Result<(), BusError> {
        let messages = messages.min(MESSAGES_MAX);
        let request = BatchConfig {
            batch: messages,
            expires: Some(EXPIRES),
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        let asked = consumer.request_batch(request, self.inbox.clone()).await;
        asked.map_err(|error| BusError::nats("ask for work", error))?;
        self.outstanding = messages;
        self.silent_at = Instant::now() + SILENCE_MAX;
        Ok(())
    }

    /// Waits for the next message; dropping the future loses none.
    pub(super) async fn next(&mut self) -> Pulled {
        loop {
            let Ok(heard) = timeout_at(self.silent_at, self.subscriber.next()).await else {
                return Pulled::Silent;
            };
            let Some(message) = heard else {
                return Pulled::Lost("subscription ended".to_owned());
            };
            self.silent_at = Instant::now() + SILENCE_MAX;
            match message.status {
                None | Some(StatusCode::OK) => {
                    self.outstanding = self.outstanding.saturating_sub(1);
                    return Pulled::Message(message);
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => {
                    self.outstanding = 0;
                    return Pulled::Ended;
                }
                Some(status) => {
                    let description = message.description.as_deref().unwrap_or_default();
                    return Pulled::Lost(format!("{status} {description}"));
                }
            }
        }
    }
}
