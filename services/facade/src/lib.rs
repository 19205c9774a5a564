//! The provider, implemented by issuing jobs and waiting for the facts that answer them, and the two protocols by which other tools
//! use it: OCI Distribution ([`Distribution`], behind a [`door`]) and containerd's content service ([`grpc`]).
//!
//! What is there already is answered straight from catalog and store, without a word on the bus. Bytes are read straight from
//! the store, too.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod clean;
mod content;
mod distribution;
pub mod door;
mod error;
mod export;
mod find;
pub mod grpc;
mod inspect;
mod load;
mod pipe;
mod presence;
mod provider;
mod pull;
mod sbom;
mod source;
mod write;

use std::time::Duration;

use larder_blobs::Blobs;
use larder_catalog::Catalog;
use larder_provider::ProviderError;
use larder_runtime::Voice;
use serde::Deserialize;
use tokio_util::task::TaskTracker;

pub use content::ContentConfig;
pub use distribution::Distribution;

use error::catalog_error;

/// How patient the facade is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long an answer may take, in seconds; the work goes on even when nobody waits any more.
    pub answer_timeout_s: u64,
    /// The registry that a path of `/v2/` means when it names none.
    pub default_upstream: String,
    /// The registries (`host[:port]`) that are asked for what is not here; `*` for any. Of others only what is here is served.
    pub upstreams: Vec<String>,
    /// How long a tag counts as up to date after upstream was asked, in seconds.
    pub fresh_s: u64,
    /// How long upstream is not asked again for what it does not have, or when it does not answer, in seconds.
    pub negative_s: u64,
    /// How long a client waits for upstream when there is an older answer to give, in seconds.
    pub stale_after_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        // A large image over a slow line; whoever wants less interrupts.
        Self {
            answer_timeout_s: 6 * 3_600,
            default_upstream: "docker.io".to_owned(),
            upstreams: WELL_KNOWN.map(str::to_owned).to_vec(),
            // As long as a registry's own caches hold a tag; a build does not notice.
            fresh_s: 60,
            negative_s: 15,
            // A third of what containerd waits for headers.
            stale_after_s: 10,
        }
    }
}

/// The public registries that most images come from.
const WELL_KNOWN: [&str; 8] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
];

impl Config {
    /// Whether `registry` may be asked for what is not here.
    fn may_ask(&self, registry: &str) -> bool {
        self.upstreams.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(registry))
    }
}

/// The cache, as its users see it; clones share it.
#[derive(Clone)]
pub struct Facade {
    voice: Voice,
    blobs: Blobs,
    catalog: Catalog,
    content: ContentConfig,
    answer_timeout: Duration,
    /// Leases being given back.
    releases: TaskTracker,
}

impl Facade {
    /// A facade that speaks with `voice` and reads from `blobs` and `catalog`.
    pub fn new(
        voice: Voice,
        config: &Config,
        content: &ContentConfig,
        blobs: Blobs,
        catalog: Catalog,
    ) -> Self {
        let answer_timeout = Duration::from_secs(config.answer_timeout_s);
        Self { voice, blobs, catalog, content: content.clone(), answer_timeout, releases: TaskTracker::new() }
    }

    /// Completes what was left for later: what other tools read of the names is up to date, and leases of closed sources are given
    /// back. To be called before the process ends.
    ///
    /// # Errors
    /// [`ProviderError::Storage`].
    pub async fn finish(&self) -> Result<(), ProviderError> {
        self.releases.close();
        self.releases.wait().await;
        self.releases.reopen();
        self.catalog.flush().await.map_err(|error| catalog_error(&error))
    }
}
