//! Saying and hearing facts.

use std::sync::Arc;

use bytes::Bytes;
use larder_bus::{Bus, BusError, Depth, Letter, MessageId, Policy, Queue, Said, Topic};
use larder_messages::{Announcement, Envelope, Fact, Job, News, Work};
use serde::Serialize;

/// How patient every queue is: a worker that is silent for five seconds is taken for dead (busy ones say so more often), and work
/// that eight workers could not finish is buried.
const POLICY: Policy = Policy { ack_wait_ms: 5_000, attempts_max: 8, depth_max: 100_000 };

/// Speaks facts on the bus; clones share it.
#[derive(Clone)]
pub struct Voice {
    bus: Arc<dyn Bus>,
}

/// Hears news.
pub struct Ear(Box<dyn larder_bus::News>);

/// News, as heard.
pub struct Heard {
    topic: Topic,
    payload: Bytes,
}

impl Voice {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self { bus }
    }

    pub(crate) fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }

    pub(crate) async fn close(&self) {
        self.bus.close().await;
    }

    /// Asks for work; asking for the same again while it waits or is worked on changes nothing.
    ///
    /// # Errors
    /// Those of [`Bus::say`].
    pub async fn say<F: Work>(&self, job: &Job, fact: &F) -> Result<Said, BusError> {
        let id: MessageId = fact.id().parse()?;
        let payload = payload(job, fact);
        self.bus.say(&queue::<F>(), &id, payload).await
    }

    /// Tells all who listen. News may get lost: who waits for them asks again.
    ///
    /// # Errors
    /// Those of [`Bus::announce`].
    pub async fn announce<N: News>(&self, job: &Job, news: &N) -> Result<(), BusError> {
        let topic: Topic = larder_messages::topic::<N>(news.key().as_deref()).parse()?;
        self.bus.announce(&topic, payload(job, news)).await
    }

    pub(crate) async fn utter(&self, job: &Job, news: &Announcement) -> Result<(), BusError> {
        let topic: Topic = news.topic.parse()?;
        self.bus.announce(&topic, payload(job, &news.fact)).await
    }

    /// Listens to topics as [`larder_messages::topic`] names them; what is said after this returns is heard.
    ///
    /// # Errors
    /// Those of [`Bus::news`].
    pub async fn listen(&self, topics: &[String]) -> Result<Ear, BusError> {
        let topics: Vec<Topic> = topics.iter().map(|topic| topic.parse()).collect::<Result<_, _>>()?;
        Ok(Ear(self.bus.news(&topics).await?))
    }

    /// How much work of kind `F` there is.
    ///
    /// # Errors
    /// Those of [`Bus::depths`].
    pub async fn depth<F: Work>(&self) -> Result<Depth, BusError> {
        self.bus.depths(&queue::<F>()).await
    }

    /// The newest work that nobody could finish.
    ///
    /// # Errors
    /// Those of [`Bus::dead_letters`].
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<Letter>, BusError> {
        self.bus.dead_letters(limit).await
    }
}

impl Ear {
    /// The next news; `None` once the bus is closed.
    pub async fn next(&mut self) -> Option<Heard> {
        let (topic, payload) = self.0.next().await?;
        Some(Heard { topic, payload })
    }
}

impl Heard {
    /// The news, if they are of kind `N` and can be read.
    pub fn of<N: News>(&self) -> Option<N> {
        let name = self.topic.as_str().strip_prefix(N::NAME)?;
        if !name.is_empty() && !name.starts_with('-') {
            return None;
        }
        serde_json::from_slice::<Envelope<N>>(&self.payload).ok().map(|envelope| envelope.fact)
    }
}

pub(crate) fn queue<F: Fact>() -> Queue {
    Queue::new(F::NAME, POLICY).expect("a fact's name is a token")
}

pub(crate) fn payload(job: &Job, fact: &impl Serialize) -> Bytes {
    let envelope = Envelope::new(job.clone(), fact);
    serde_json::to_vec(&envelope).expect("facts are plain data").into()
}
