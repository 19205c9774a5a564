//! The only writer of the catalog.
//! Hears [`ImageVerified`], [`RemovalWanted`]; says [`ImageIndexed`], [`NameRemoved`]; touches `catalog`.
//! Invariant: an image is said to be indexed only when its name is durable.

use std::time::Duration;

use actix::{Actor, Context, Handler};
use larder_catalog::{Catalog, CatalogError, Origin};
use larder_messages::{ImageIndexed, ImageVerified, NameRemoved, Reason, ReasonKind, RemovalWanted, Work};
use larder_runtime::{Failure, Outcome, Runtime, Says, on_pool};
use serde::Deserialize;

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

/// The indexer.
pub struct Indexer {
    catalog: Catalog,
}

impl Actor for Indexer {
    type Context = Context<Self>;
}

/// Starts an indexer that hears [`ImageVerified`] and [`RemovalWanted`].
pub fn start(runtime: &Runtime, config: &Config, catalog: Catalog) {
    let indexer = Indexer { catalog }.start();
    let in_flight_max = config.names_in_flight_max;
    runtime.listen(in_flight_max, indexer.clone(), |verified: ImageVerified, _| Index { verified });
    runtime.listen(in_flight_max, indexer, |wanted: RemovalWanted, _| Remove { wanted });
}

/// Give the verified image its name.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Index {
    /// The image.
    pub verified: ImageVerified,
}

/// Make a name point to nothing.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Remove {
    /// The name.
    pub wanted: RemovalWanted,
}

impl Handler<Index> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Index { verified }: Index, _: &mut Context<Self>) -> Self::Result {
        let catalog = self.catalog.clone();
        on_pool(async move {
            let name = verified.reference.name();
            let set = catalog.set(&name, &verified.root, Origin::Pulled).await;
            set.map_err(|error| failure(&error))?;
            Ok(Says::default().news(&ImageIndexed::from(verified)))
        })
    }
}

impl Handler<Remove> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Remove { wanted }: Remove, _: &mut Context<Self>) -> Self::Result {
        let catalog = self.catalog.clone();
        on_pool(async move {
            let existed =
                catalog.remove(&wanted.name, Origin::Removed).await.map_err(|error| failure(&error))?;
            let id = wanted.id();
            Ok(Says::default().news(&NameRemoved { id, name: wanted.name, existed }))
        })
    }
}

fn failure(error: &CatalogError) -> Failure {
    let (kind, retry_after) = match error {
        CatalogError::Contended(_) => (ReasonKind::Conflict, Some(Duration::from_millis(200))),
        CatalogError::Name(_) => (ReasonKind::Conflict, None),
        CatalogError::Objects { .. } => (ReasonKind::Storage, Some(Duration::from_secs(1))),
        _ => (ReasonKind::Storage, None),
    };
    Failure { reason: Reason::of(kind, error), retry_after }
}
