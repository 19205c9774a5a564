//! Deletes one blob, if nothing reaches it.
//! Hears [`DeletionWanted`]; says [`ContentDeleted`], [`BlobDeleted`]; touches `catalog`, `blobs`.
//! Invariant: deletes no blob that a name or a lease on it reaches.

use std::collections::HashSet;
use std::sync::Arc;

use actix::{Context, Handler};
use larder_messages::{BlobDeleted, ContentDeleted, DeletionWanted, Work};
use larder_runtime::{Outcome, Says, on_pool};

use crate::collect::mark;
use crate::{IndexError, Indexer, Ports};

/// Delete a blob.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Delete {
    /// Which.
    pub wanted: DeletionWanted,
}

impl Handler<Delete> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Delete { wanted }: Delete, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let settled = delete(&ports, &wanted).await?;
            let mut says = Says::default();
            if settled.deleted {
                says = says.news(&ContentDeleted { digest: wanted.digest });
            }
            Ok(says.news(&settled))
        })
    }
}

async fn delete(ports: &Ports, wanted: &DeletionWanted) -> Result<BlobDeleted, IndexError> {
    // Nothing gets a name between the look and the deletion.
    let still = ports.catalog.keep_others_still().await;
    let _still = still.map_err(|source| IndexError::catalog("(all)", source))?;
    let mut reached = HashSet::new();
    // Whoever says what is to be deleted knows of uploads that may rely on it.
    mark(ports, &mut reached).await?;
    let digest = wanted.digest.clone();
    let kept = reached.contains(&digest);
    let deleted = !kept && ports.blobs.delete(&digest).await.map_err(IndexError::Collect)?;
    Ok(BlobDeleted { id: wanted.id(), digest, deleted, kept })
}
