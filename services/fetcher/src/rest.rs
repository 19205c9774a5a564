//! Agrees with other fetchers on which registries to leave alone.
//! Hears and says [`UpstreamResting`]; touches `registry`.

use std::time::Duration;

use larder_messages::{Job, UpstreamResting, now_ms, topic};
use larder_registry::Client;
use larder_runtime::{Ear, Runtime, Voice};

/// How long such news are worth telling, in milliseconds.
const NEWS_LIMIT_MS: u64 = 60_000;
/// How long to wait before trying again to reach a bus that is away.
const BUS_RETRY: Duration = Duration::from_secs(1);

/// Tells others what this process learns of registries, and heeds what they tell, until the runtime stops.
pub(crate) fn agree(runtime: &Runtime, registry: &Client) {
    let (voice, mut rests, stopping) = (runtime.voice().clone(), registry.rests(), runtime.stopping());
    runtime.spawn(async move {
        let tell = async {
            while let Some(resting) = rests.next().await {
                let left_ms = u64::try_from(resting.left.as_millis()).unwrap_or(u64::MAX);
                let until_ms = now_ms().saturating_add(left_ms);
                let news = UpstreamResting { host: resting.host, until_ms, limited: resting.limited };
                // Who does not hear it asks the registry, and is told.
                let _ = voice.announce(&Job::new(NEWS_LIMIT_MS), &news).await;
            }
        };
        tokio::select! {
            () = stopping.cancelled() => {}
            () = tell => {}
        }
    });
    let (voice, registry, stopping) = (runtime.voice().clone(), registry.clone(), runtime.stopping());
    runtime.spawn(async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = heed(&voice, &registry) => {}
        }
    });
}

async fn heed(voice: &Voice, registry: &Client) {
    let mut ear = ear(voice).await;
    while let Some(heard) = ear.next().await {
        let Some(news) = heard.of::<UpstreamResting>() else {
            continue;
        };
        let left = Duration::from_millis(news.until_ms.saturating_sub(now_ms()));
        // That a registry does not answer somebody else may be the fault of the way there.
        if news.limited && !left.is_zero() {
            registry.rest(&news.host, left, true);
        }
    }
}

async fn ear(voice: &Voice) -> Ear {
    loop {
        match voice.listen(&[topic::<UpstreamResting>(None)]).await {
            Ok(ear) => return ear,
            Err(error) => tracing::warn!(%error, "cannot listen for registries at rest; trying again"),
        }
        tokio::time::sleep(BUS_RETRY).await;
    }
}
