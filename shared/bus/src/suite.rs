//! What every bus must do, as functions that every implementation runs.
//!
//! Each takes two connections to the same bus, `a` and `b`, which may be the same one, and uses queues and topics nobody used before. Each
//! panics when the bus does not behave.

mod stage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use crate::{Bus, BusError, Depth, Heard, PAYLOAD_BYTES_MAX, Policy, Said, Topic};
use stage::{
    ACK_WAIT, CALM, EARLY_MAX, PATIENCE, ack, assert_calm, fresh, heard, id, letters_of, patient, policy,
    queue, say, work, worker,
};

/// Runs everything, side by side.
pub async fn all(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    tokio::join!(
        at_least_once(a, b),
        redelivers_after_deadline(a, b),
        redelivers_what_a_dropped_worker_held(a, b),
        progress_extends_deadline(a, b),
        retry_after_delay(a, b),
        late_ack_still_counts(a, b),
        bounded_attempts_then_dead_letter(a, b),
        buries_on_demand(a, b),
        dedups_by_id_while_in_flight(a, b),
        accepts_id_again_after_ack(a, b),
        full_queue_refuses(a, b),
        in_flight_max_holds(a, b),
        dropped_next_loses_nothing(a, b),
        one_of_the_group_hears(a, b),
        counts_depths(a, b),
        news_reach_all_listeners(a, b),
        refuses_oversized_payload(a, b),
    );
}

/// What was said is heard, unchanged, also by a worker that comes later; what was acknowledged is not heard again.
pub async fn at_least_once(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("once", policy());
    for n in 0..20 {
        assert_eq!(say(a, &queue, n).await, Said::Queued);
    }
    let mut worker = worker(b, &queue, 4).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        let delivery = work(&mut worker).await;
        assert_eq!(format!("id-{}", String::from_utf8_lossy(&delivery.payload)), delivery.id.as_str());
        assert_eq!(delivery.attempt, 1);
        ids.push(delivery.id.clone());
        ack(delivery).await;
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_calm(&mut worker).await;
}

/// A message whose worker stays silent comes again, not before its deadline, as the next attempt.
pub async fn redelivers_after_deadline(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("deadline", policy());
    let (mut first, mut second) = (worker(a, &queue, 1).await, worker(b, &queue, 1).await);
    say(a, &queue, 1).await;
    let (held, mut other) = tokio::select! {
        held = work(&mut first) => (held, second),
        held = work(&mut second) => (held, first),
    };
    let begun = Instant::now();
    let again = work(&mut other).await;
    assert!(begun.elapsed() + EARLY_MAX >= ACK_WAIT, "redelivered after {:?}", begun.elapsed());
    assert_eq!(
        (again.id.clone(), again.attempt, again.payload.clone()),
        (held.id.clone(), 2, held.payload.clone())
    );
    ack(again).await;
}

/// What a worker held when it went away goes to another.
pub async fn redelivers_what_a_dropped_worker_held(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("dropped", policy());
    let mut leaving = worker(a, &queue, 2).await;
    say(a, &queue, 1).await;
    say(a, &queue, 2).await;
    drop(work(&mut leaving).await);
    drop(leaving);
    let mut staying = worker(b, &queue, 2).await;
    let (one, two) = (work(&mut staying).await, work(&mut staying).await);
    assert_ne!(one.id, two.id);
    ack(one).await;
    ack(two).await;
}

/// A worker that reports progress keeps its message beyond the deadline.
pub async fn progress_extends_deadline(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("progress", policy());
    let mut first = worker(a, &queue, 1).await;
    say(a, &queue, 1).await;
    let held = work(&mut first).await;
    let mut other = worker(b, &queue, 1).await;
    let mut beat = tokio::time::interval(ACK_WAIT / 4);
    let report = async {
        loop {
            beat.tick().await;
            held.progress().await.expect("progress is heard");
        }
    };
    tokio::select! {
        () = assert_calm(&mut other) => {}
        () = report => {}
    }
    ack(held).await;
    assert_calm(&mut other).await;
}

/// A message given back comes again after the delay that was asked for, at once if it was none.
pub async fn retry_after_delay(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("retry");
    let mut worker = worker(b, &queue, 1).await;
    say(a, &queue, 1).await;
    work(&mut worker).await.retry(Duration::ZERO).await.expect("it is given back");
    let again = work(&mut worker).await;
    assert_eq!(again.attempt, 2);
    let begun = Instant::now();
    again.retry(ACK_WAIT).await.expect("it is given back");
    let again = work(&mut worker).await;
    assert_eq!(again.attempt, 3);
    assert!(begun.elapsed() + EARLY_MAX >= ACK_WAIT, "retried after {:?}", begun.elapsed());
    ack(again).await;
}

/// Work that is finished after its deadline is finished, also while another worker has begun it again.
pub async fn late_ack_still_counts(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("late", policy());
    let mut worker = worker(b, &queue, 2).await;
    say(a, &queue, 1).await;
    let first = work(&mut worker).await;
    let second = work(&mut worker).await;
    assert_eq!(second.attempt, 2);
    ack(first).await;
    assert_calm(&mut worker).await;
    assert_eq!(say(a, &queue, 1).await, Said::Queued);
    drop(second);
}

/// A message that uses up its attempts is buried, and the worker hears of it.
pub async fn bounded_attempts_then_dead_letter(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("spent", Policy { attempts_max: 2, ..policy() });
    let mut worker = worker(b, &queue, 1).await;
    say(a, &queue, 7).await;
    drop(work(&mut worker).await);
    work(&mut worker).await.retry(Duration::ZERO).await.expect("it is given back");
    let Heard::Dead(letter) = heard(&mut worker).await else { panic!("delivered a third time") };
    assert_eq!((letter.id.clone(), letter.attempts), (id(7), 2));
    assert_eq!(letter.payload, "7");
    let [kept] = &letters_of(a, &queue).await[..] else { panic!("not exactly one letter") };
    assert_eq!(
        (&kept.id, kept.attempts, &kept.reason, &kept.payload),
        (&letter.id, 2, &letter.reason, &letter.payload)
    );
    assert_eq!(say(a, &queue, 7).await, Said::Queued, "the id is free again");
    ack(work(&mut worker).await).await;
}

/// A worker can give a message up, whatever it says about it.
pub async fn buries_on_demand(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("bury");
    let mut worker = worker(b, &queue, 1).await;
    for n in 1..=2 {
        say(a, &queue, n).await;
        work(&mut worker).await.bury("no such image: ä\r\nX: y").await.expect("it is buried");
    }
    let letters = letters_of(a, &queue).await;
    assert_eq!(
        letters.iter().map(|letter| letter.id.clone()).collect::<Vec<_>>(),
        [id(2), id(1)],
        "newest first"
    );
    assert!(letters[0].reason.starts_with("no such image: ä"), "{:?}", letters[0].reason);
    assert!(letters[0].time.elapsed().is_ok_and(|age| age < PATIENCE));
    assert_eq!(a.depths(&queue).await.expect("depths can be counted"), Depth::default());
}

/// A second message of one id is not taken while the first waits or is in work.
pub async fn dedups_by_id_while_in_flight(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("dedup");
    let mut worker = worker(b, &queue, 2).await;
    assert_eq!(say(a, &queue, 1).await, Said::Queued);
    assert_eq!(say(b, &queue, 1).await, Said::AlreadyQueued);
    let held = work(&mut worker).await;
    assert_eq!(say(a, &queue, 1).await, Said::AlreadyQueued);
    assert_eq!(say(a, &queue, 2).await, Said::Queued);
    ack(work(&mut worker).await).await;
    ack(held).await;
    assert_calm(&mut worker).await;
}

/// An id is free as soon as its message is acknowledged.
pub async fn accepts_id_again_after_ack(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("again");
    let mut worker = worker(b, &queue, 1).await;
    for _ in 0..10 {
        assert_eq!(say(a, &queue, 1).await, Said::Queued);
        let delivery = work(&mut worker).await;
        assert_eq!(delivery.attempt, 1);
        ack(delivery).await;
    }
}

/// A full queue takes nothing more, other queues do; one settled message makes room for one.
pub async fn full_queue_refuses(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = queue("full", Policy { ack_wait_ms: 60_000, depth_max: 3, ..policy() });
    for n in 0..3 {
        say(a, &queue, n).await;
    }
    let refused = b.say(&queue, &id(3), Bytes::new()).await;
    assert!(matches!(&refused, Err(BusError::Full { queue: full }) if full == queue.name()), "{refused:?}");
    assert_eq!(say(a, &queue, 0).await, Said::AlreadyQueued, "what is there is there");
    assert_eq!(say(a, &patient("roomy"), 0).await, Said::Queued);
    let mut worker = worker(b, &queue, 3).await;
    let held = work(&mut worker).await;
    assert!(
        matches!(a.say(&queue, &id(3), Bytes::new()).await, Err(BusError::Full { .. })),
        "in work is in the queue"
    );
    ack(held).await;
    assert_eq!(say(a, &queue, 3).await, Said::Queued);
}

/// A worker is handed no more than it said it can hold, and nothing waits in its pockets while another is free.
pub async fn in_flight_max_holds(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("flight");
    let (mut busy, mut idle) = (worker(a, &queue, 2).await, worker(b, &queue, 5).await);
    for n in 0..5 {
        say(a, &queue, n).await;
    }
    let held = [work(&mut busy).await, work(&mut busy).await];
    assert_calm(&mut busy).await;
    for _ in 0..3 {
        let delivery = work(&mut idle).await;
        assert_eq!(delivery.attempt, 1);
        ack(delivery).await;
    }
    say(a, &queue, 5).await;
    ack(work(&mut idle).await).await;
    for delivery in held {
        ack(delivery).await;
    }
    say(a, &queue, 6).await;
    tokio::select! {
        delivery = work(&mut busy) => ack(delivery).await,
        delivery = work(&mut idle) => ack(delivery).await,
    }
}

/// A worker may stop waiting at any time without losing a message.
pub async fn dropped_next_loses_nothing(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("cancel");
    let mut worker = worker(b, &queue, 1).await;
    for n in 0..20 {
        let _ = timeout(Duration::from_millis(1), worker.next())
            .await
            .is_ok_and(|_| panic!("heard nothing said"));
        let said = say(a, &queue, n);
        let (delivery, _) = tokio::join!(work(&mut worker), said);
        assert_eq!((delivery.id.clone(), delivery.attempt), (id(n), 1));
        ack(delivery).await;
    }
}

/// Of all workers of a queue, one hears each message.
pub async fn one_of_the_group_hears(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("group");
    let mut workers = [worker(a, &queue, 2).await, worker(b, &queue, 2).await, worker(b, &queue, 1).await];
    for n in 0..30 {
        say(a, &queue, n).await;
    }
    let shares = join_all(workers.iter_mut().map(async |worker| {
        let mut share = Vec::new();
        while let Ok(heard) = timeout(CALM, worker.next()).await {
            let Ok(Heard::Work(delivery)) = heard else { panic!("no work: {heard:?}") };
            share.push(delivery.id.clone());
            ack(delivery).await;
        }
        share
    }));
    let mut ids = shares.await.concat();
    ids.sort();
    let mut expected: Vec<_> = (0..30).map(id).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

/// What waits and what is in work is counted.
pub async fn counts_depths(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("depth");
    let depth = async || b.depths(&queue).await.expect("depths can be counted");
    assert_eq!(depth().await, Depth::default());
    for n in 0..3 {
        say(a, &queue, n).await;
    }
    assert_eq!(depth().await, Depth { queued: 3, in_work: 0 });
    let mut worker = worker(a, &queue, 1).await;
    let held = work(&mut worker).await;
    assert_eq!(depth().await, Depth { queued: 2, in_work: 1 });
    ack(held).await;
    assert_eq!(depth().await, Depth { queued: 2, in_work: 0 });
}

/// All who listen to a topic hear what is announced on it, each topic in its order, and nothing else.
pub async fn news_reach_all_listeners(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let topic = || fresh("news").parse::<Topic>().expect("purposes are tokens");
    let (one, two, other) = (topic(), topic(), topic());
    let mut listeners = Vec::new();
    for bus in [a, b, b] {
        listeners.push(bus.news(&[one.clone(), two.clone()]).await.expect("anybody may listen"));
    }
    for (topic, payload) in [(&one, "1"), (&other, "2"), (&one, "3"), (&two, "4")] {
        a.announce(topic, payload.into()).await.expect("it is announced");
    }
    for listener in &mut listeners {
        let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let heard = timeout(PATIENCE, listener.next())
                .await
                .expect("news come in time")
                .expect("the bus is open");
            let of = if heard.0 == one { &mut of_one } else { &mut of_two };
            of.push(heard);
        }
        assert_eq!(of_one, [(one.clone(), "1".into()), (one.clone(), "3".into())]);
        assert_eq!(of_two, [(two.clone(), "4".into())]);
    }
}

/// A payload of the largest size passes, one byte more is refused.
pub async fn refuses_oversized_payload(a: &Arc<dyn Bus>, b: &Arc<dyn Bus>) {
    let queue = patient("large");
    let topic: Topic = fresh("large").parse().expect("purposes are tokens");
    let large = Bytes::from(vec![7; PAYLOAD_BYTES_MAX]);
    let larger = Bytes::from(vec![7; PAYLOAD_BYTES_MAX + 1]);
    let refused = a.say(&queue, &id(1), larger.clone()).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
    assert!(matches!(a.announce(&topic, larger).await, Err(BusError::TooLarge { .. })));
    a.say(&queue, &id(1), large.clone()).await.expect("it just fits");
    let mut worker = worker(b, &queue, 1).await;
    let delivery = work(&mut worker).await;
    assert_eq!(delivery.payload, large);
    delivery.bury("too long to read").await.expect("it fits among the dead as well");
}
