//! The numbers that every role counts, all under `larder_`.

use std::sync::LazyLock;

use prometheus::{
    Encoder, HistogramVec, IntCounterVec, IntGaugeVec, TextEncoder, register_histogram_vec,
    register_int_counter_vec, register_int_gauge_vec,
};

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register_int_counter_vec!(name, help, labels).expect("metric names are distinct")
}

/// Jobs that ended, by fact and by `outcome`: `done`, `retried`, `rejected`, `dead` (a dead letter), `unreadable`.
pub static JOBS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("larder_jobs_total", "Jobs that ended, by fact and outcome.", &["fact", "outcome"])
});

/// Seconds from hearing a fact to having done what it asks, by fact.
pub static STAGE_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0];
    register_histogram_vec!(
        "larder_stage_seconds",
        "Seconds from hearing a fact to having done what it asks.",
        &["stage"],
        buckets
    )
    .expect("metric names are distinct")
});

/// Wishes for images, by `outcome`: `hit`, `revalidated`, `miss`, `failed`.
pub static PULLS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("larder_pulls_total", "Wishes for images, by outcome.", &["outcome"]));

/// Wishes for blobs, by `outcome`: `hit` (stored already), `miss` (fetched), `failed`.
pub static BLOBS: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("larder_blobs_total", "Wishes for blobs, by outcome.", &["outcome"]));

/// Requests for manifests and blobs by `/v2/`, by `kind` and by `outcome`: `hit`, `revalidated`, `stale` (upstream could not be
/// asked), `miss`.
pub static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "larder_requests_total",
        "Requests for manifests and blobs, by kind and outcome.",
        &["kind", "outcome"],
    )
});

/// Bytes moved, by `direction`: `upstream_in`, `upstream_out`, `store_in`, `store_out`, `served`.
pub static BYTES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("larder_bytes_total", "Bytes moved, by direction.", &["direction"]));

/// Requests to upstream registries, by `kind`.
pub static UPSTREAM_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("larder_upstream_requests_total", "Requests to upstream registries, by kind.", &["kind"])
});

/// Upstream hosts that are left alone now, by `reason`: `limited` (they said so), `failing` (they failed too often in a row).
pub static UPSTREAMS_RESTING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    register_int_gauge_vec!(
        "larder_upstreams_resting",
        "Upstream hosts that are left alone now, by reason.",
        &["reason"]
    )
    .expect("metric names are distinct")
});

/// Makes every series that has no free labels visible from the start, so that a rate over it is right from the first event on.
pub fn announce() {
    for outcome in ["hit", "revalidated", "miss", "failed"] {
        PULLS.with_label_values(&[outcome]);
    }
    for outcome in ["hit", "miss", "failed"] {
        BLOBS.with_label_values(&[outcome]);
    }
    for reason in ["limited", "failing"] {
        UPSTREAMS_RESTING.with_label_values(&[reason]);
    }
    for kind in ["manifest", "blob"] {
        for outcome in ["hit", "revalidated", "stale", "miss"] {
            REQUESTS.with_label_values(&[kind, outcome]);
        }
    }
    for direction in ["upstream_in", "upstream_out", "store_in", "store_out", "served"] {
        BYTES.with_label_values(&[direction]);
    }
}

/// All numbers in the Prometheus text format.
pub fn text() -> String {
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = TextEncoder::new().encode(&prometheus::gather(), &mut text);
    String::from_utf8(text).unwrap_or_default()
}
