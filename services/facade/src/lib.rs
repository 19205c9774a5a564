//! The provider, implemented by issuing jobs and waiting for the facts that answer them.
//!
//! What is there already is answered straight from catalog and store, without a word on the bus. Bytes are read straight from
//! the store, too.

mod answer;
mod clean;
mod content;
mod error;
mod export;
mod find;
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

use error::catalog_error;

/// How patient the facade is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long an answer may take, in seconds; the work goes on even when nobody waits any more.
    pub answer_timeout_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        // A large image over a slow line; whoever wants less interrupts.
        Self { answer_timeout_s: 6 * 3_600 }
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
