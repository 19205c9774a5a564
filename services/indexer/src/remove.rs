//! Makes a name point to nothing.
//! Hears [`RemovalWanted`]; says [`NameRemoved`]; touches `catalog`.
//! Invariant: deletes no blob, so nothing that another name reaches is lost.

use std::sync::Arc;

use actix::{Context, Handler};
use larder_catalog::Origin;
use larder_messages::{NameRemoved, RemovalWanted, Work};
use larder_runtime::{Outcome, Says, on_pool};

use crate::{IndexError, Indexer};

/// Make a name point to nothing.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Remove {
    /// The name.
    pub wanted: RemovalWanted,
}

impl Handler<Remove> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Remove { wanted }: Remove, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let removed = ports.catalog.remove(&wanted.name, Origin::Removed).await;
            let existed = removed.map_err(|source| IndexError::catalog(&wanted.name, source))?;
            let id = wanted.id();
            Ok(Says::default().news(&NameRemoved { id, name: wanted.name, existed }))
        })
    }
}
