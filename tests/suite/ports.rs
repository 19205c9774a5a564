//! Every implementation of a port passes the suite of that port, against the real server where there is one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_blobs::Blobs;
use larder_bus::{Bus, Config, Heard, Policy, Queue};
use larder_catalog::Catalog;
use larder_tests::{NatsServer, Seaweed};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;

const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> Arc<dyn Bus> {
    larder_bus::open(url, &Config::default()).await.unwrap()
}

/// Opens the server's bucket as the binary does.
fn bucket(server: &Seaweed) -> Arc<dyn ObjectStore> {
    let builder = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(Seaweed::ACCESS_KEY)
        .with_secret_access_key(Seaweed::SECRET_KEY)
        .with_bucket_name(Seaweed::BUCKET);
    Arc::new(builder.build().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_bus_passes_the_suite() {
    let bus = connect("mem:").await;
    larder_bus::suite::all(&bus, &bus).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_bus_passes_the_suite_before_and_after_the_server_was_killed() {
    let mut server = NatsServer::start();
    let (a, b) = (connect(&server.url()).await, connect(&server.url()).await);
    assert_eq!(a.dead_letters(10).await.unwrap(), [], "a new server has none");
    larder_bus::suite::all(&a, &b).await;
    server.restart();
    larder_bus::suite::all(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_outlives_a_killed_nats_server() {
    let mut server = NatsServer::start();
    let (a, b) = (connect(&server.url()).await, connect(&server.url()).await);
    let policy = Policy { ack_wait_ms: 1_000, attempts_max: 8, depth_max: 100 };
    let queue = Queue::new("outlives", policy).unwrap();
    let mut worker = b.work(&queue, 4).await.unwrap();
    let ids: BTreeSet<String> = (0..20).map(|number| format!("id-{number}")).collect();
    for id in &ids {
        a.say(&queue, &id.parse().unwrap(), Bytes::from(id.clone())).await.unwrap();
    }
    // One is in work when the server dies, and its worker never answers.
    let held = worker.next().await.unwrap();
    server.restart();
    drop(held);
    let mut heard = BTreeSet::new();
    while heard.len() < ids.len() {
        let next = tokio::time::timeout(PATIENCE, worker.next()).await.expect("the rest is heard");
        let Heard::Work(delivery) = next.unwrap() else { panic!("work died") };
        heard.insert(delivery.id.as_str().to_owned());
        // An answer can get lost with the connection it came by: then the message comes again.
        let _ = delivery.ack().await;
    }
    assert_eq!(heard, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_passes_the_suites() {
    let root = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(root.path()).unwrap();
    larder_blobs::suite::all(&blobs, "disk").await;
    let one = Catalog::on_disk(root.path()).await.unwrap();
    let other = Catalog::on_disk(root.path()).await.unwrap();
    larder_catalog::suite::all(&one, &other, "disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_passes_the_suites() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    larder_blobs::suite::all(&Blobs::on_objects(Arc::clone(&objects)), "memory").await;
    let other = Catalog::on_objects(Arc::clone(&objects));
    larder_catalog::suite::all(&Catalog::on_objects(objects), &other, "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_passes_the_suites_with_and_without_a_prefix_and_keeps_all_over_a_kill() {
    let mut server = Seaweed::start();
    let plain = bucket(&server);
    let prefixed: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(&plain), "farm/a"));
    for (objects, seed) in [(&plain, "plain"), (&prefixed, "prefixed")] {
        larder_blobs::suite::all(&Blobs::on_objects(Arc::clone(objects)), seed).await;
        let one = Catalog::on_objects(Arc::clone(objects));
        // A connection of its own, as another process has.
        let other: Arc<dyn ObjectStore> = match seed {
            "plain" => bucket(&server),
            _ => Arc::new(PrefixStore::new(bucket(&server), "farm/a")),
        };
        larder_catalog::suite::all(&one, &Catalog::on_objects(other), seed).await;
    }
    let names = async |objects: &Arc<dyn ObjectStore>| {
        let records = Catalog::on_objects(Arc::clone(objects)).list().await.unwrap();
        records.into_iter().map(|record| record.name).collect::<Vec<_>>()
    };
    let before = names(&plain).await;
    assert!(before.len() > 20, "{before:?}");
    assert!(before.iter().all(|name| !name.contains("prefixed")), "a prefix parts two farms");
    server.restart();
    assert_eq!(names(&plain).await, before);
}
