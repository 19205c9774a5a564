//! What the cases of the suite are played on: fresh queues, workers that must hear something in time, workers that must hear nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::timeout;

use crate::{Bus, Delivery, Heard, Letter, MessageId, Policy, Queue, Said, Worker};

/// The deadline of the queues of the suite.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(1);
/// How much earlier than asked a server may be, by rounding.
pub(super) const EARLY_MAX: Duration = Duration::from_millis(30);
/// After how long something that should happen is held to never happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// For how long something must not happen to be held to never happen; more than two deadlines.
pub(super) const CALM: Duration = Duration::from_millis(2_200);

pub(super) fn fresh(purpose: &str) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos());
    format!("{purpose}-{now:x}-{}", LAST.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn policy() -> Policy {
    let ack_wait_ms = u64::try_from(ACK_WAIT.as_millis()).expect("it is short");
    Policy { ack_wait_ms, attempts_max: 10, depth_max: 1_000 }
}

pub(super) fn queue(purpose: &str, policy: Policy) -> Queue {
    Queue::new(&fresh(purpose), policy).expect("purposes are tokens")
}

/// A deadline that nothing in the suite outlasts.
pub(super) fn patient(purpose: &str) -> Queue {
    queue(purpose, Policy { ack_wait_ms: 60_000, ..policy() })
}

pub(super) fn id(n: usize) -> MessageId {
    format!("id-{n}").parse().expect("numbers are tokens")
}

pub(super) async fn say(bus: &Arc<dyn Bus>, queue: &Queue, n: usize) -> Said {
    bus.say(queue, &id(n), Bytes::from(n.to_string())).await.expect("the message is taken")
}

pub(super) async fn worker(bus: &Arc<dyn Bus>, queue: &Queue, in_flight_max: usize) -> Box<dyn Worker> {
    bus.work(queue, in_flight_max).await.expect("the worker joins")
}

pub(super) async fn heard(worker: &mut Box<dyn Worker>) -> Heard {
    timeout(PATIENCE, worker.next()).await.expect("something is heard in time").expect("the worker works")
}

pub(super) async fn work(worker: &mut Box<dyn Worker>) -> Delivery {
    match heard(worker).await {
        Heard::Work(delivery) => delivery,
        Heard::Dead(letter) => panic!("work died: {letter:?}"),
    }
}

pub(super) async fn assert_calm(worker: &mut Box<dyn Worker>) {
    if let Ok(heard) = timeout(CALM, worker.next()).await {
        panic!("heard {heard:?} where nothing was to be heard");
    }
}

pub(super) async fn ack(delivery: Delivery) {
    delivery.ack().await.expect("the acknowledgement is heard");
}

pub(super) async fn letters_of(bus: &Arc<dyn Bus>, queue: &Queue) -> Vec<Letter> {
    let letters = bus.dead_letters(1_000).await.expect("dead letters can be read");
    letters.into_iter().filter(|letter| letter.queue == queue.name()).collect()
}
