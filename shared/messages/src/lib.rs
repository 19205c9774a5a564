//! The vocabulary of facts that cross the bus.
//!
//! A fact is named for the thing said. [`Work`] is heard by one worker of one role and is answered by other facts;
//! [`News`] is heard by all who listen. Facts are serde-JSON in an [`Envelope`]; a reader ignores fields it does not know.

mod blob;
mod image;
mod listing;
mod name;
mod push;
mod reason;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use larder_oci::{Expected, OnLocal, PushMode};

pub use blob::{
    BlobDeleted, BlobProgress, BlobRejected, BlobSeen, BlobSought, BlobStored, BlobWanted, ContentDeleted,
    DeletionWanted,
};
pub use image::{
    Fetched, ImageIndexed, ImageProgress, ImageRejected, ImageSeen, ImageSought, ImageStored, ImageVerified,
    ImageWanted, Naming, Reach, WantedId,
};
pub use listing::{Listing, ListingSeen, ListingSought, UpstreamResting};
pub use name::{
    AuditFinished, AuditWanted, CollectionFinished, CollectionWanted, NameChanged, NameRemoved, Problem,
    RemovalWanted, WishRejected,
};
pub use push::{ImagePushed, MOUNT_FROM_MAX, PushWanted};
pub use reason::{Reason, ReasonKind};

/// The version of the vocabulary that this crate speaks; readers take this one and the one before.
pub const VERSION: u32 = 1;

/// Something that can be said.
pub trait Fact: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name on the bus.
    const NAME: &'static str;
}

/// A fact that asks for work, heard by one worker.
pub trait Work: Fact {
    /// Names the work: while a fact of the same id is waiting or worked on, saying another changes nothing.
    fn id(&self) -> String;
    /// What to tell the world when nobody could do the work.
    fn rejected(&self, reason: Reason) -> Announcement;
}

/// A fact for all who listen.
pub trait News: Fact {
    /// Who listens only for news of one thing names it by this key; `None` where all news of this kind go to all.
    fn key(&self) -> Option<String>;
}

/// News, made ready for the bus.
#[derive(Clone, Debug)]
pub struct Announcement {
    /// The fact's name, with its key if it has one.
    pub topic: String,
    /// The fact as JSON, without its envelope.
    pub fact: serde_json::Value,
}

impl Announcement {
    /// Makes `news` ready.
    pub fn of<N: News>(news: &N) -> Self {
        Self {
            topic: topic::<N>(news.key().as_deref()),
            fact: serde_json::to_value(news).expect("facts are plain data"),
        }
    }
}

/// The topic on which news of kind `N` about `key` is heard.
pub fn topic<N: News>(key: Option<&str>) -> String {
    match key {
        Some(key) => format!("{}-{key}", N::NAME),
        None => N::NAME.to_owned(),
    }
}

/// What every fact carries of the job it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Names the job in logs of all services (UUIDv7, so it sorts by time).
    pub id: Uuid,
    /// When nobody waits for the answer any more, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// The W3C trace context of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Job {
    /// A new job that may take `limit_ms` milliseconds.
    pub fn new(limit_ms: u64) -> Self {
        Self { id: Uuid::now_v7(), deadline_ms: now_ms().saturating_add(limit_ms), traceparent: None }
    }

    /// Whether its deadline has passed.
    pub fn is_over(&self) -> bool {
        now_ms() > self.deadline_ms
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A fact on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope<F> {
    /// The vocabulary's version, see [`VERSION`].
    pub v: u32,
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// What is said.
    pub fact: F,
}

impl<F> Envelope<F> {
    /// Puts `fact` in an envelope.
    pub fn new(job: Job, fact: F) -> Self {
        Self { v: VERSION, job, fact }
    }
}
