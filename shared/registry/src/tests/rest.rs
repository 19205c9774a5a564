use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::scripted::{Scripted, answer, config, silence};
use crate::{Client, Config, HostConfig, RegistryError};

const BODY: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn patient() -> Client {
    Client::new(Config { retry_wait_ms_max: 60_000, ..config() }).unwrap()
}

#[tokio::test]
async fn a_limit_makes_all_requests_wait_and_one_find_out() {
    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let over = std::sync::Arc::clone(&is_over);
    let registry = Scripted::start(move |heard| match heard.nth {
        0 => answer(429, &[("retry-after", "1")], ""),
        _ if !over.load(Ordering::Relaxed) => answer(500, &[], "asked too early"),
        _ => answer(200, &[], BODY),
    })
    .await;
    let client = patient();
    let (at, mut rests, began) = (registry.reference(":1"), client.rests(), Instant::now());
    let first = client.manifest(&at);
    let others = async {
        let resting = rests.next().await.unwrap();
        assert!(resting.limited && resting.host == registry.host());
        assert_eq!(client.resting().len(), 1);
        is_over.store(true, Ordering::Relaxed);
        join_all((0..40).map(|_| client.manifest(&at))).await
    };
    let (first, others) = tokio::join!(first, others);
    first.unwrap();
    assert!(others.iter().all(Result::is_ok));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(registry.heard().len(), 42);
    assert_eq!(client.traffic().limited.load(Ordering::Relaxed), 1);
    assert!(client.resting().is_empty());
}

#[tokio::test]
async fn a_limit_that_lasts_longer_than_we_wait_fails_at_once() {
    let registry = Scripted::start(|_| answer(429, &[("retry-after", "30")], "")).await;
    let (client, at, began) = (patient(), registry.reference(":1"), Instant::now());
    for _ in 0..10 {
        let error = client.manifest(&at).await.unwrap_err();
        assert_eq!(error.status(), Some(429));
        assert!(error.retry_after().is_some_and(|left| left > Duration::from_secs(28)));
    }
    assert_eq!(registry.heard().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn what_others_have_learnt_counts_here() {
    let registry = Scripted::start(|_| answer(200, &[], BODY)).await;
    let (client, at) = (patient(), registry.reference(":1"));
    client.rest(&registry.host(), Duration::from_mins(1), true);
    assert!(matches!(client.manifest(&at).await, Err(RegistryError::RateLimited { .. })));
    client.rest("other.example", Duration::from_mins(1), false);
    assert_eq!(client.resting().len(), 2);
    assert!(registry.heard().is_empty());
}

#[tokio::test]
async fn a_registry_that_keeps_failing_is_left_alone() {
    for broken in [|| answer(500, &[], ""), silence] {
        let registry = Scripted::start(move |_| broken()).await;
        let client = Client::new(Config { retries_max: 0, ..config() }).unwrap();
        let at = registry.reference(":1");
        for _ in 0..5 {
            let error = client.head_manifest(&at).await.unwrap_err();
            assert!(!matches!(error, RegistryError::Resting { .. }), "{error}");
        }
        let error = client.head_manifest(&at).await.unwrap_err();
        assert!(matches!(error, RegistryError::Resting { .. }), "{error}");
        // reqwest itself asks once more when a kept connection turns out to be closed.
        assert!((5..=10).contains(&registry.heard().len()));
    }
}

#[tokio::test]
async fn clear_answers_are_no_failures() {
    for status in [401, 403, 404, 501] {
        let registry = Scripted::start(move |_| answer(status, &[], "")).await;
        let client = Client::new(config()).unwrap();
        for _ in 0..8 {
            let _ = client.manifest(&registry.reference(":1")).await.unwrap_err();
        }
        assert_eq!(registry.heard().len(), 8);
    }
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_is_passed_over_the_next_time() {
    let mirror = Scripted::start(|_| silence()).await;
    let origin = Scripted::start(|_| answer(200, &[], BODY)).await;
    let settings = HostConfig { mirrors: vec![format!("http://{}", mirror.host())], ..HostConfig::default() };
    let hosts = BTreeMap::from([(origin.host(), settings)]);
    let client = Client::new(Config { hosts, ..config() }).unwrap();
    for _ in 0..3 {
        client.manifest(&origin.reference(":1")).await.unwrap();
    }
    assert_eq!((mirror.heard().len(), origin.heard().len()), (1, 3));
    assert_eq!(client.resting()[0].host, mirror.host());
}
