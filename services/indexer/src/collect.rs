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

/// How far the clock that dates blobs may be behind the one that dates leases.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_mins(1);

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
    let kept_since = mark(ports, &mut reached).await?;
    let mut unreached = Vec::new();
    let mut all = ports.blobs.list();
    while let Some(blob) = all.try_next().await.map_err(IndexError::Collect)? {
        if reached.contains(&blob.digest) {
            finished.kept_blobs += 1;
            finished.kept_bytes += blob.size;
        } else if begun.duration_since(blob.modified).unwrap_or_default() < grace
            || kept_since.is_some_and(|since| blob.modified >= since)
        {
            finished.young_blobs += 1;
        } else {
            unreached.push((blob.digest, blob.size));
        }
    }
    // What got a name while the blobs were listed is reached after all; from here on nothing gets one.
    let _still = if wanted.dry_run {
        None
    } else {
        let still = ports.catalog.keep_others_still().await;
        Some(still.map_err(|source| IndexError::catalog("(all)", source))?)
    };
    if mark(ports, &mut reached).await? != kept_since {
        // Somebody has begun to write, and may rely on anything.
        unreached.clear();
    }
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

/// Adds all that names and leases reach, and says since when all that was written is kept as well.
pub(crate) async fn mark(
    ports: &Ports,
    reached: &mut HashSet<Digest>,
) -> Result<Option<SystemTime>, IndexError> {
    let names = ports.catalog.list().await.map_err(|source| IndexError::catalog("(all)", source))?;
    for record in names {
        let Some(root) = record.descriptor else {
            continue;
        };
        let marked = reach(&ports.blobs, &root.digest, Some(&root.media_type), reached).await;
        marked.map_err(|source| IndexError::Unclear { name: record.name, source })?;
    }
    let mut kept_since: Option<SystemTime> = None;
    for lease in ports.catalog.leases().await.map_err(|source| IndexError::catalog("(leases)", source))? {
        let Some(root) = lease.root else {
            let since = SystemTime::UNIX_EPOCH + Duration::from_millis(lease.since_ms);
            kept_since = kept_since.into_iter().chain(since.checked_sub(CLOCKS_DIFFER_MAX)).min();
            continue;
        };
        match reach(&ports.blobs, &root, None, reached).await {
            // Whoever reads it finds out by itself; nobody could name it to have it removed.
            Err(error) if error.is_integrity() => tracing::warn!(%root, %error, "what is leased is damaged"),
            marked => marked.map_err(|source| IndexError::Unclear { name: root.to_string(), source })?,
        }
    }
    Ok(kept_since)
}
