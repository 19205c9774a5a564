//! From fact to command to fact.

use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message};
use larder_bus::{BusError, Delivery, Heard, MessageId, Queue};
use larder_messages::{Announcement, Envelope, Job, News, Reason, ReasonKind, VERSION, Work};

use crate::voice::{payload, queue};
use crate::{Runtime, Voice, metrics};

/// How long to wait before trying again to reach a bus that is away.
const BUS_RETRY: Duration = Duration::from_secs(1);

/// What a handler returns to the pump.
pub type Outcome = Result<Says, Failure>;

/// What is to be said before the work is acknowledged.
#[derive(Default)]
pub struct Says {
    work: Vec<(Queue, String, serde_json::Value)>,
    news: Vec<Announcement>,
}

/// Why work was not done, and whether trying again may help.
#[derive(Debug)]
pub struct Failure {
    /// What to tell those who wait when it is given up.
    pub reason: Reason,
    /// When to try again; `None` when that would not help.
    pub retry_after: Option<Duration>,
}

impl Says {
    /// Asks for further work.
    #[must_use]
    pub fn work<F: Work>(mut self, fact: &F) -> Self {
        let json = serde_json::to_value(fact).expect("facts are plain data");
        self.work.push((queue::<F>(), fact.id(), json));
        self
    }

    /// Tells the world.
    #[must_use]
    pub fn news<N: News>(mut self, fact: &N) -> Self {
        self.news.push(Announcement::of(fact));
        self
    }

    async fn utter(&self, voice: &Voice, job: &Job) -> Result<(), BusError> {
        for (queue, id, fact) in &self.work {
            let id: MessageId = id.parse()?;
            voice.bus().say(queue, &id, payload(job, fact)).await?;
        }
        for news in &self.news {
            voice.utter(job, news).await?;
        }
        Ok(())
    }
}

impl Runtime {
    /// Has `actor` do the work that facts of kind `F` ask for, at most `in_flight_max` at a time; `command` turns the fact into
    /// what the actor obeys.
    pub fn listen<F, A, C>(
        &self,
        in_flight_max: usize,
        actor: Addr<A>,
        command: impl Fn(F, Job) -> C + Send + Sync + 'static,
    ) where
        F: Work,
        A: Actor + Handler<C>,
        A::Context: ToEnvelope<A, C>,
        C: Message<Result = Outcome> + Send + 'static,
    {
        let runtime = self.clone();
        let command = std::sync::Arc::new(command);
        let tasks = self.tasks.clone();
        let pump = async move {
            let mut worker = loop {
                match runtime.voice.bus().work(&queue::<F>(), in_flight_max).await {
                    Ok(worker) => break worker,
                    Err(error) => {
                        tracing::error!(fact = F::NAME, %error, "cannot listen; trying again");
                    }
                }
                tokio::time::sleep(BUS_RETRY).await;
            };
            loop {
                let delivery = match worker.next().await {
                    Ok(Heard::Work(delivery)) => delivery,
                    Ok(Heard::Dead(letter)) => {
                        runtime.mourn::<F>(&letter.payload, letter.attempts).await;
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(fact = F::NAME, %error, "no more work");
                        return;
                    }
                };
                let (runtime, actor) = (runtime.clone(), actor.clone());
                let command = std::sync::Arc::clone(&command);
                let task = async move {
                    let asked = |fact, job| actor.send(command(fact, job));
                    runtime.handle::<F, _, _>(delivery, asked).await;
                };
                tasks.spawn(task);
            }
        };
        let stopping = self.stopping();
        self.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = pump => {}
            }
        });
    }

    async fn handle<F, R, E>(&self, delivery: Delivery, ask: impl FnOnce(F, Job) -> R)
    where
        F: Work,
        R: Future<Output = Result<Outcome, E>>,
        E: std::fmt::Display,
    {
        let begun = Instant::now();
        let Ok(envelope) = serde_json::from_slice::<Envelope<F>>(&delivery.payload) else {
            metrics::JOBS.with_label_values(&[F::NAME, "unreadable"]).inc();
            settled(delivery.bury("not a fact of this kind").await);
            return;
        };
        if envelope.v > VERSION {
            // A later version may mean something else by the same words; a worker of that version will come by.
            metrics::JOBS.with_label_values(&[F::NAME, "retried"]).inc();
            settled(delivery.retry(BUS_RETRY).await);
            return;
        }
        let job = envelope.job.clone();
        let answer = with_progress(&delivery, ask(envelope.fact, envelope.job)).await;
        let outcome = match answer {
            Ok(Ok(says)) => self.finish(&job, delivery, &says).await,
            Ok(Err(failure)) => self.fail::<F>(&job, delivery, failure).await,
            Err(error) => {
                tracing::error!(fact = F::NAME, job = %job.id, %error, "the actor is gone");
                settled(delivery.retry(BUS_RETRY).await);
                "retried"
            }
        };
        metrics::JOBS.with_label_values(&[F::NAME, outcome]).inc();
        metrics::STAGE_SECONDS.with_label_values(&[F::NAME]).observe(begun.elapsed().as_secs_f64());
    }

    async fn finish(&self, job: &Job, delivery: Delivery, says: &Says) -> &'static str {
        if let Err(error) = says.utter(&self.voice, job).await {
            tracing::warn!(job = %job.id, %error, "cannot say what was done; it will be done again");
            settled(delivery.retry(BUS_RETRY).await);
            return "retried";
        }
        settled(delivery.ack().await);
        "done"
    }

    async fn fail<F: Work>(&self, job: &Job, delivery: Delivery, failure: Failure) -> &'static str {
        let message = &failure.reason.message;
        if let Some(after) = failure.retry_after
            && delivery.attempt < queue::<F>().attempts_max()
        {
            tracing::warn!(fact = F::NAME, job = %job.id, attempt = delivery.attempt, message, "trying again");
            settled(delivery.retry(after).await);
            return "retried";
        }
        tracing::info!(fact = F::NAME, job = %job.id, message, "rejected");
        if let Ok(envelope) = serde_json::from_slice::<Envelope<F>>(&delivery.payload) {
            let news = envelope.fact.rejected(failure.reason);
            if let Err(error) = self.voice.utter(job, &news).await {
                tracing::warn!(job = %job.id, %error, "cannot say why it was rejected");
            }
        }
        settled(delivery.ack().await);
        "rejected"
    }

    /// Tells those who wait that every worker that tried has died.
    async fn mourn<F: Work>(&self, payload: &[u8], attempts: u32) {
        metrics::JOBS.with_label_values(&[F::NAME, "dead"]).inc();
        let Ok(envelope) = serde_json::from_slice::<Envelope<F>>(payload) else {
            return;
        };
        let message = format!("given up after {attempts} workers did not finish it");
        tracing::error!(fact = F::NAME, job = %envelope.job.id, message);
        let news = envelope.fact.rejected(Reason::new(ReasonKind::Abandoned, message));
        if let Err(error) = self.voice.utter(&envelope.job, &news).await {
            tracing::warn!(%error, "cannot say that work was given up");
        }
    }
}

/// Awaits `answer`, saying often enough that the worker lives.
async fn with_progress<T>(delivery: &Delivery, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    let every = Duration::from_millis(1_500);
    loop {
        match tokio::time::timeout(every, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) => settled(delivery.progress().await),
        }
    }
}

/// An acknowledgement that does not arrive costs a repetition, which is harmless.
fn settled(result: Result<(), BusError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "an acknowledgement was lost");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use actix::{Context, ResponseFuture};
    use larder_messages::{NameRemoved, RemovalWanted, WishRejected, topic};

    use super::*;
    use crate::on_pool;

    /// Fails as often as it is told to, then does the work.
    struct Clumsy {
        failures: Arc<AtomicU32>,
        retry_after: Option<Duration>,
    }

    impl Actor for Clumsy {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "Outcome")]
    struct Remove(RemovalWanted);

    impl Handler<Remove> for Clumsy {
        type Result = ResponseFuture<Outcome>;

        fn handle(&mut self, Remove(wanted): Remove, _: &mut Context<Self>) -> Self::Result {
            let (failures, retry_after) = (Arc::clone(&self.failures), self.retry_after);
            on_pool(async move {
                let left =
                    failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if left.is_ok() {
                    return Err(Failure { reason: Reason::new(ReasonKind::Storage, "clumsy"), retry_after });
                }
                let (id, name) = (wanted.id(), wanted.name);
                Ok(Says::default().news(&NameRemoved { id, name, existed: true }))
            })
        }
    }

    /// Asks a worker that fails `failures` times, and returns whether the wish was granted and how many failures are left.
    fn ask(failures: u32, retry_after: Option<Duration>) -> (bool, u32) {
        actix::System::new().block_on(async move {
            let bus = larder_bus::open("mem:", &larder_bus::Config::default()).await.unwrap();
            let runtime = Runtime::new(bus);
            let left = Arc::new(AtomicU32::new(failures));
            let worker = Clumsy { failures: Arc::clone(&left), retry_after }.start();
            runtime.listen(1, worker, |wanted: RemovalWanted, _| Remove(wanted));
            let wanted = RemovalWanted { name: "n".to_owned() };
            let id = wanted.id();
            let topics = [topic::<NameRemoved>(Some(&id)), topic::<WishRejected>(Some(&id))];
            let mut ear = runtime.voice().listen(&topics).await.unwrap();
            runtime.voice().say(&Job::new(60_000), &wanted).await.unwrap();
            let heard = ear.next().await.unwrap();
            let granted = heard.of::<NameRemoved>().is_some();
            assert_ne!(granted, heard.of::<WishRejected>().is_some());
            runtime.stop(Duration::from_secs(5)).await;
            (granted, left.load(Ordering::SeqCst))
        })
    }

    #[test]
    fn work_that_fails_is_tried_again_and_then_answered() {
        assert_eq!(ask(0, None), (true, 0));
        assert_eq!(ask(3, Some(Duration::ZERO)), (true, 0));
    }

    #[test]
    fn work_that_cannot_succeed_is_rejected_at_once() {
        assert_eq!(ask(3, None), (false, 2));
    }

    #[test]
    fn work_that_fails_too_often_is_rejected() {
        let attempts_max = queue::<RemovalWanted>().attempts_max();
        assert_eq!(ask(100, Some(Duration::ZERO)), (false, 100 - attempts_max));
    }
}
