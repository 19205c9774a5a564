use super::*;
use crate::Policy;

fn bus(news_buffer_max: usize) -> MemoryBus {
    MemoryBus::new(&Config { news_buffer_max, ..Config::default() })
}

fn queue(policy: Policy) -> Queue {
    Queue::new("q", policy).unwrap()
}

fn id(n: usize) -> MessageId {
    n.to_string().parse().unwrap()
}

#[cfg(feature = "suite")]
#[tokio::test]
async fn passes_the_suite() {
    let bus: Arc<dyn Bus> = Arc::new(bus(100));
    crate::suite::all(&bus, &bus).await;
}

#[cfg(feature = "suite")]
#[tokio::test(start_paused = true)]
async fn passes_the_suite_under_paused_time() {
    let bus: Arc<dyn Bus> = Arc::new(bus(100));
    crate::suite::all(&bus, &bus).await;
}

#[tokio::test]
async fn lagging_listener_loses_news_and_they_are_counted() {
    let bus = bus(2);
    let topic: Topic = "t".parse().unwrap();
    let mut news = bus.news(std::slice::from_ref(&topic)).await.unwrap();
    for n in 0..5u8 {
        bus.announce(&topic, Bytes::from(vec![n])).await.unwrap();
    }
    assert_eq!(news.next().await.unwrap().1[..], [0]);
    assert_eq!(news.next().await.unwrap().1[..], [1]);
    assert_eq!(bus.news_missed(), 3);
}

#[tokio::test]
async fn forgets_listeners_that_left() {
    let bus = bus(2);
    let topic: Topic = "t".parse().unwrap();
    drop(bus.news(std::slice::from_ref(&topic)).await.unwrap());
    bus.announce(&topic, Bytes::new()).await.unwrap();
    assert!(lock(&bus.listeners).is_empty());
}

#[tokio::test]
async fn keeps_only_the_newest_dead_letters() {
    let bus = bus(1);
    let queue = queue(Policy::default());
    let mut worker = bus.work(&queue, 1).await.unwrap();
    for n in 0..=DEAD_LETTERS_MAX {
        bus.say(&queue, &id(n), Bytes::new()).await.unwrap();
        let Heard::Work(delivery) = worker.next().await.unwrap() else { panic!("died on its own") };
        delivery.bury("no").await.unwrap();
    }
    let letters = bus.dead_letters(usize::MAX).await.unwrap();
    assert_eq!(letters.len(), DEAD_LETTERS_MAX);
    assert_eq!(letters[0].id, id(DEAD_LETTERS_MAX));
    assert_eq!(letters[DEAD_LETTERS_MAX - 1].id, id(1));
}

#[tokio::test]
async fn close_ends_workers_and_news() {
    let bus = bus(1);
    let queue = queue(Policy::default());
    let mut worker = bus.work(&queue, 1).await.unwrap();
    let mut news = bus.news(&["t".parse().unwrap()]).await.unwrap();
    let (heard, told, ()) = tokio::join!(worker.next(), news.next(), bus.close());
    assert!(matches!(heard, Err(BusError::Closed)));
    assert!(told.is_none());
    assert!(matches!(bus.say(&queue, &id(1), Bytes::new()).await, Err(BusError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn worker_that_lost_a_message_cannot_postpone_it() {
    let bus = bus(1);
    let queue = queue(Policy { ack_wait_ms: 100, ..Policy::default() });
    let mut worker = bus.work(&queue, 2).await.unwrap();
    bus.say(&queue, &id(1), Bytes::new()).await.unwrap();
    let Heard::Work(first) = worker.next().await.unwrap() else { panic!("died on its own") };
    let Heard::Work(second) = worker.next().await.unwrap() else { panic!("died on its own") };
    let begun = Instant::now();
    first.retry(Duration::from_hours(1)).await.unwrap();
    drop(second);
    let Heard::Work(third) = worker.next().await.unwrap() else { panic!("died on its own") };
    assert_eq!(third.attempt, 3);
    assert!(begun.elapsed() < Duration::from_millis(200));
}
