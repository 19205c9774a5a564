//! The numbers that every role counts, all under `larder_`.

use std::sync::LazyLock;

use prometheus::{
    Encoder, HistogramVec, IntCounterVec, TextEncoder, register_histogram_vec, register_int_counter_vec,
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

/// Bytes moved, by `direction`: `upstream_in`, `upstream_out`, `store_in`, `store_out`.
pub static BYTES: LazyLock<IntCounterVec> =
    LazyLock::new(|| counters("larder_bytes_total", "Bytes moved, by direction.", &["direction"]));

/// Requests to upstream registries, by `kind`.
pub static UPSTREAM_REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters("larder_upstream_requests_total", "Requests to upstream registries, by kind.", &["kind"])
});

/// Makes every series that has no free labels visible from the start, so that a rate over it is right from the first event on.
pub fn announce() {
    for outcome in ["hit", "revalidated", "miss", "failed"] {
        PULLS.with_label_values(&[outcome]);
    }
    for outcome in ["hit", "miss", "failed"] {
        BLOBS.with_label_values(&[outcome]);
    }
    for direction in ["upstream_in", "upstream_out", "store_in", "store_out"] {
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
