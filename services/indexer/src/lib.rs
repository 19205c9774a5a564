//! The only writer of the catalog, and so also the one that knows which blobs nothing reaches any more.
//!
//! Hears [`ImageVerified`], [`RemovalWanted`], [`DeletionWanted`], [`CollectionWanted`]; touches `catalog`, `blobs`.

mod collect;
mod delete;
mod error;
mod name;
mod remove;

use std::sync::Arc;

use actix::{Actor, Context};
use larder_blobs::Blobs;
use larder_catalog::Catalog;
use larder_messages::{CollectionWanted, DeletionWanted, ImageVerified, RemovalWanted};
use larder_runtime::Runtime;
use serde::Deserialize;

pub use collect::Collect;
pub use delete::Delete;
pub use error::IndexError;
pub use name::Index;
pub use remove::Remove;

/// How much an indexer takes on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names being written at the same time.
    pub names_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { names_in_flight_max: 64 }
    }
}

/// What an indexer works with.
pub(crate) struct Ports {
    pub(crate) blobs: Blobs,
    pub(crate) catalog: Catalog,
    pub(crate) turns: name::Turns,
}

/// The indexer.
pub struct Indexer {
    ports: Arc<Ports>,
}

impl Actor for Indexer {
    type Context = Context<Self>;
}

/// Starts an indexer that hears [`ImageVerified`], [`RemovalWanted`], [`DeletionWanted`] and [`CollectionWanted`].
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs, catalog: Catalog) {
    let ports = Arc::new(Ports { blobs, catalog, turns: name::Turns::default() });
    let indexer = Indexer { ports }.start();
    let in_flight_max = config.names_in_flight_max;
    runtime.listen(in_flight_max, indexer.clone(), |verified: ImageVerified, _| Index { verified });
    runtime.listen(in_flight_max, indexer.clone(), |wanted: RemovalWanted, _| Remove { wanted });
    runtime.listen(1, indexer.clone(), |wanted: DeletionWanted, _| Delete { wanted });
    runtime.listen(1, indexer, |wanted: CollectionWanted, _| Collect { wanted });
}
