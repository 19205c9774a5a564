//! Brings wanted images into the blob store. The only service that reads from upstream registries.
//!
//! An image is resolved here and its missing blobs become work of their own ([`BlobWanted`]), deduplicated by digest: two images
//! that share a layer, or a thousand clients, cost one request upstream, and a large image spreads over all fetchers.

mod blob;
mod error;
mod image;
mod plan;
mod resolved;
mod seek;

use std::sync::Arc;

use actix::{Actor, Context};
use larder_blobs::Blobs;
use larder_messages::{BlobWanted, ImageSought, ImageWanted};
use larder_registry::Client;
use larder_runtime::{Runtime, Voice};
use serde::Deserialize;

pub use blob::FetchBlob;
pub use error::FetchError;
pub use image::FetchImage;
pub use seek::Seek;

/// How much a fetcher takes on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Images being resolved at the same time; each waits for its blobs, so there may be many.
    pub images_in_flight_max: usize,
    /// Blobs being fetched at the same time. How many of them one registry serves at once is `registry.connections_per_host_max`.
    pub blobs_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { images_in_flight_max: 256, blobs_in_flight_max: 16 }
    }
}

/// What a fetcher works with.
pub(crate) struct Ports {
    pub(crate) blobs: Blobs,
    pub(crate) registry: Client,
    pub(crate) voice: Voice,
    pub(crate) resolved: resolved::Resolved,
}

/// The fetcher.
pub struct Fetcher {
    ports: Arc<Ports>,
}

impl Actor for Fetcher {
    type Context = Context<Self>;
}

/// Starts a fetcher that hears [`ImageWanted`], [`BlobWanted`] and [`ImageSought`].
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs, registry: Client) {
    let ports = Arc::new(Ports {
        blobs,
        registry,
        voice: runtime.voice().clone(),
        resolved: resolved::Resolved::default(),
    });
    let fetcher = Fetcher { ports }.start();
    runtime.listen(config.images_in_flight_max, fetcher.clone(), |wanted: ImageWanted, job| FetchImage {
        wanted,
        job,
    });
    runtime.listen(config.images_in_flight_max, fetcher.clone(), |sought: ImageSought, job| Seek {
        sought,
        job,
    });
    runtime.listen(config.blobs_in_flight_max, fetcher, |wanted: BlobWanted, job| FetchBlob { wanted, job });
}
