//! Deletes blobs that nothing reaches.
//! Hears [`CollectionWanted`]; says [`CollectionFinished`]; touches `catalog`, `blobs`.
//! Invariant: deletes no blob that a name or a lease reaches, nor one that was written or relied on within the grace period.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::{Context, Handler};
use futures::TryStreamExt;
use larder_blobs::closure::reach;
use larder_messages::{CollectionFinished, CollectionWanted, Work};
use larder_oci::Digest;
use larder_runtime::{Outcome, Says, on_pool};

use crate::{IndexError, Indexer, Ports};

/// Delete what nothing reaches.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Collect {
    /// What, and whether at all.
    pub wanted: CollectionWanted,
}

impl Handler<Collect> for Indexer {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Collect { wanted }: Collect, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let finished = collect(&ports, &wanted).await?;
            Ok(Says::default().news(&finished))
        })
    }
}

async fn collect(ports: &Ports, wanted: &CollectionWanted) -> Result<CollectionFinished, IndexError> {
    let begun = SystemTime::now();
    let grace = Duration::from_secs(wanted.grace_s);
    let mut finished = CollectionFinished { id: wanted.id(), ..CollectionFinished::default() };
    let mut reached = HashSet::new();
    mark(ports, &mut reached).await?;
    let mut unreached = Vec::new();
    let mut all = ports.blobs.list();
    while let Some(blob) = all.try_next().await.map_err(IndexError::Collect)? {
        if reached.contains(&blob.digest) {
            finished.kept_blobs += 1;
            finished.kept_bytes += blob.size;
        } else if begun.duration_since(blob.modified).unwrap_or_default() < grace {
            finished.young_blobs += 1;
        } else {
            unreached.push((blob.digest, blob.size));
        }
    }
    // What got a name while the blobs were listed is reached after all.
    mark(ports, &mut reached).await?;
    for (digest, size) in unreached {
        if reached.contains(&digest) {
            finished.kept_blobs += 1;
            finished.kept_bytes += size;
            continue;
        }
        finished.deleted_blobs += 1;
        finished.deleted_bytes += size;
        if !wanted.dry_run {
            ports.blobs.delete(&digest).await.map_err(IndexError::Collect)?;
        }
    }
    if !wanted.dry_run {
        finished.unfinished = ports.blobs.sweep(grace).await.map_err(IndexError::Collect)?;
    }
    Ok(finished)
}

/// Adds all that names and leases reach.
async fn mark(ports: &Ports, reached: &mut HashSet<Digest>) -> Result<(), IndexError> {
    let names = ports.catalog.list().await.map_err(|source| IndexError::catalog("(all)", source))?;
    for record in names {
        let Some(root) = record.descriptor else {
            continue;
        };
        let marked = reach(&ports.blobs, &root.digest, Some(&root.media_type), reached).await;
        marked.map_err(|source| IndexError::Unclear { name: record.name, source })?;
    }
    for lease in ports.catalog.leases().await.map_err(|source| IndexError::catalog("(leases)", source))? {
        let marked = reach(&ports.blobs, &lease.root, None, reached).await;
        marked.map_err(|source| IndexError::Unclear { name: lease.root.to_string(), source })?;
    }
    Ok(())
}
