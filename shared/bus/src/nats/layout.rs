//! What the bus looks like on the server: streams, consumers, subjects.
//!
//! Each queue is one stream with one durable consumer. The server bounds and deduplicates per stream exactly: one message per subject, the
//! subject ending in the message id, refuses an id in flight; `max_messages` is the depth of the queue. One stream for all queues could
//! bound only their sum, and a full queue would stop the others.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};

use crate::bus::PAYLOAD_BYTES_MAX;
use crate::config::Config;
use crate::name::{MessageId, Queue, Topic};

/// Room for the headers of a dead letter.
const HEADERS_BYTES_MAX: usize = 4 * 1024;

/// Names everything on the server.
pub(super) struct Layout {
    prefix: String,
    subjects: String,
    config: Config,
}

impl Layout {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            prefix: config.stream_prefix.clone(),
            subjects: config.stream_prefix.to_ascii_lowercase(),
            config: config.clone(),
        }
    }

    pub(super) fn work_stream_name(&self, queue: &Queue) -> String {
        format!("{}_WORK_{}", self.prefix, queue.name())
    }

    pub(super) fn dead_stream_name(&self) -> String {
        format!("{}_DEAD", self.prefix)
    }

    pub(super) fn work_subject(&self, queue: &Queue, id: &MessageId) -> String {
        format!("{}.work.{}.{id}", self.subjects, queue.name())
    }

    pub(super) fn dead_subject(&self, queue: &str, id: &MessageId) -> String {
        format!("{}.dead.{queue}.{id}", self.subjects)
    }

    pub(super) fn news_subject(&self, topic: &Topic) -> String {
        format!("{}.news.{topic}", self.subjects)
    }

    /// A subject nobody listens to; see `NatsBus::news`.
    pub(super) fn nobody_subject(&self) -> String {
        format!("{}.nobody", self.subjects)
    }

    pub(super) fn work_stream(&self, queue: &Queue) -> stream::Config {
        stream::Config {
            name: self.work_stream_name(queue),
            subjects: vec![format!("{}.work.{}.*", self.subjects, queue.name())],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            discard_new_per_subject: true,
            max_messages_per_subject: 1,
            max_messages: i64::try_from(queue.depth_max()).expect("a policy holds no deeper queue"),
            max_age: Duration::from_secs(self.config.work_age_s_max),
            ..self.stream()
        }
    }

    pub(super) fn dead_stream(&self) -> stream::Config {
        stream::Config {
            name: self.dead_stream_name(),
            subjects: vec![format!("{}.dead.*.*", self.subjects)],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages: i64::from(self.config.dead_letters_max),
            max_age: Duration::from_secs(self.config.dead_letter_age_s_max),
            ..self.stream()
        }
    }

    fn stream(&self) -> stream::Config {
        stream::Config {
            storage: StorageType::File,
            num_replicas: self.config.replicas,
            max_message_size: i32::try_from(PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX).expect("a few KiB fit"),
            max_bytes: -1,
            max_consumers: -1,
            ..stream::Config::default()
        }
    }

    /// The one consumer of a queue. Its attempts are unbounded: the worker counts them, so that it can bury what used them up.
    pub(super) fn consumer(&self, queue: &Queue) -> pull::Config {
        pull::Config {
            durable_name: Some(queue.name().to_owned()),
            name: Some(queue.name().to_owned()),
            filter_subject: format!("{}.work.{}.*", self.subjects, queue.name()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: queue.ack_wait(),
            max_ack_pending: i64::from(self.config.in_work_max),
            max_deliver: -1,
            ..pull::Config::default()
        }
    }
}
