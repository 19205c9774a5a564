//! Asking for work and waiting for the news that answer it.

use std::time::Duration;

use larder_bus::BusError;
use larder_messages::{Job, News, Reason, WishRejected, Work, topic};
use larder_provider::ProviderError;
use larder_runtime::{Ear, Heard};
use tokio::time::Instant;

use crate::Facade;
use crate::error::{chain, refused};

/// How often an unanswered wish is said again. Asking again is free while the work waits or is worked on, and news can get lost.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(2);
/// When to say that nobody seems to do the work.
const WARN_AFTER: Duration = Duration::from_secs(10);

impl Facade {
    /// Asks for `work` and waits for the news that answer it.
    pub(crate) async fn ask<F: Work, A: News>(&self, work: &F) -> Result<A, ProviderError> {
        let id = work.id();
        let topics = [topic::<A>(Some(&id)), topic::<WishRejected>(Some(&id))];
        self.ask_on(&topics, work, |heard| {
            if let Some(rejected) = heard.of::<WishRejected>() {
                return Some(Err(rejected.reason));
            }
            heard.of::<A>().map(Ok)
        })
        .await
    }

    /// Asks for `work`, and gives all that is heard on `topics` to `judge` until it has an answer.
    pub(crate) async fn ask_on<F: Work, A>(
        &self,
        topics: &[String],
        work: &F,
        mut judge: impl FnMut(&Heard) -> Option<Result<A, Reason>>,
    ) -> Result<A, ProviderError> {
        let limit = self.answer_timeout;
        let job = Job::new(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let mut ear = self.voice.listen(topics).await.map_err(|error| bus_error(&error))?;
        self.voice.say(&job, work).await.map_err(|error| bus_error(&error))?;
        let listen = async {
            let mut again = tokio::time::interval_at(Instant::now() + ASK_AGAIN_EVERY, ASK_AGAIN_EVERY);
            let warn = tokio::time::sleep(WARN_AFTER);
            tokio::pin!(warn);
            let mut warned = false;
            loop {
                tokio::select! {
                    heard = hear(&mut ear) => {
                        if let Some(answer) = judge(&heard?) {
                            return answer.map_err(refused);
                        }
                    }
                    _ = again.tick() => {
                        if let Err(error) = self.voice.say(&job, work).await {
                            tracing::warn!(%error, "cannot ask again yet");
                        }
                    }
                    () = &mut warn, if !warned => {
                        warned = true;
                        self.warn_if_nobody_works::<F>().await;
                    }
                }
            }
        };
        match tokio::time::timeout(limit, listen).await {
            Ok(answer) => answer,
            Err(_) => Err(ProviderError::TimedOut(limit)),
        }
    }

    async fn warn_if_nobody_works<F: Work>(&self) {
        if let Ok(depth) = self.voice.depth::<F>().await
            && depth.queued > 0
            && depth.in_work == 0
        {
            let fact = F::NAME;
            tracing::warn!(fact, "nobody takes the work yet: is a service for it running on this bus?");
        }
    }
}

async fn hear(ear: &mut Ear) -> Result<Heard, ProviderError> {
    ear.next().await.ok_or_else(|| ProviderError::Unavailable("the bus was closed".to_owned()))
}

fn bus_error(error: &BusError) -> ProviderError {
    ProviderError::Unavailable(chain(error))
}
