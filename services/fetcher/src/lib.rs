//! Brings wanted images into the blob store. The only service that reads from upstream registries.
//!
//! An image is resolved here and its missing blobs become work of their own ([`BlobWanted`]), deduplicated by digest: two images
//! that share a layer, or a thousand clients, cost one request upstream, and a large image spreads over all fetchers. What is on its
//! way can be read before it is stored: see [`Fills`].

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod blob;
mod error;
mod fills;
mod image;
mod list;
mod plan;
mod resolved;
mod rest;
mod seek;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use actix::{Actor, Context};
use larder_blobs::Blobs;
use larder_messages::{BlobSought, BlobWanted, ImageSought, ImageWanted, ListingSought};
use larder_registry::Client;
use larder_runtime::{Runtime, Voice};
use serde::Deserialize;

pub use blob::FetchBlob;
pub use error::FetchError;
pub use fills::Fills;
pub use image::FetchImage;
pub use list::List;
pub use seek::{Seek, SeekBlob};

/// How much a fetcher takes on at a time, and where it shares what it is fetching.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Images being resolved at the same time; each waits for its blobs, so there may be many.
    pub images_in_flight_max: usize,
    /// Blobs being fetched at the same time. How many of them one registry serves at once is `registry.connections_per_host_max`.
    pub blobs_in_flight_max: usize,
    /// Largest blob of which neither who wants it nor the registry says how long it is, in bytes.
    pub undeclared_bytes_max: u64,
    /// Where other processes read what is being fetched; port 0 picks a free one.
    pub fills_listen: SocketAddr,
    /// The `host` or `host:port` by which they reach it, where that is not what it listens on.
    pub fills_advertise: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            images_in_flight_max: 256,
            blobs_in_flight_max: 16,
            undeclared_bytes_max: 64 << 30,
            fills_listen: (Ipv4Addr::LOCALHOST, 0).into(),
            fills_advertise: None,
        }
    }
}

/// What a fetcher works with.
pub(crate) struct Ports {
    pub(crate) blobs: Blobs,
    pub(crate) registry: Client,
    pub(crate) voice: Voice,
    pub(crate) resolved: resolved::Resolved,
    pub(crate) fills: Fills,
    pub(crate) undeclared_bytes_max: u64,
}

impl Ports {
    fn new(voice: Voice, config: &Config, blobs: Blobs, registry: Client) -> Self {
        let fills = Fills::new(config, blobs.clone(), registry.clone());
        let (resolved, undeclared_bytes_max) = (resolved::Resolved::default(), config.undeclared_bytes_max);
        Self { blobs, registry, voice, resolved, fills, undeclared_bytes_max }
    }
}

/// The fetcher.
pub struct Fetcher {
    ports: Arc<Ports>,
}

impl Actor for Fetcher {
    type Context = Context<Self>;
}

/// Starts a fetcher that hears [`ImageWanted`], [`BlobWanted`], [`ImageSought`], [`BlobSought`] and [`ListingSought`], and agrees with
/// other fetchers on which registries to leave alone. What it is fetching others can read once [`Fills::serve`] is called.
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs, registry: Client) -> Fills {
    rest::agree(runtime, &registry);
    let ports = Arc::new(Ports::new(runtime.voice().clone(), config, blobs, registry));
    let fills = ports.fills.clone();
    let fetcher = Fetcher { ports }.start();
    let (images, blobs) = (config.images_in_flight_max, config.blobs_in_flight_max);
    runtime.listen(images, fetcher.clone(), |wanted: ImageWanted, job| FetchImage { wanted, job });
    runtime.listen(images, fetcher.clone(), |sought: ImageSought, job| Seek { sought, job });
    runtime.listen(images, fetcher.clone(), |sought: BlobSought, _| SeekBlob { sought });
    runtime.listen(images, fetcher.clone(), |sought: ListingSought, _| List { sought });
    runtime.listen(blobs, fetcher, |wanted: BlobWanted, job| FetchBlob { wanted, job });
    fills
}
