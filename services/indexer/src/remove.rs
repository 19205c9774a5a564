//! Makes a name point to nothing.
//! Hears [`RemovalWanted`]; says [`NameChanged`], [`NameRemoved`]; touches `catalog`.
//! Invariant: deletes no blob, so nothing that another name reaches is lost.

use std::sync::Arc;

use actix::{Context, Handler};
use larder_catalog::Origin;
use larder_messages::{NameChanged, NameRemoved, RemovalWanted, Work};
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
            let (id, name) = (wanted.id(), wanted.name);
            let mut says = Says::default();
            if existed {
                says = says.news(&NameChanged { name: name.clone() });
            }
            Ok(says.news(&NameRemoved { id, name, existed }))
        })
    }
}
