//! What is in use although no name points to it, at `leases/<id>.json`. A lease that is lost only costs work, so none is synced.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use larder_oci::Digest;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CatalogError;
use crate::ledger::now_ms;
use crate::objects::failed;

const FOLDER: &str = "leases";
const READS_IN_FLIGHT_MAX: usize = 32;

/// Tells one lease from all others; later ones sort behind earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(Uuid);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A promise that something is not evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Which one.
    pub id: LeaseId,
    /// The manifest or blob in use, with all that hangs on it; without one, every blob that was written or relied on since.
    pub root: Option<Digest>,
    /// When it began, in milliseconds since 1970 by the clock of the process that took it.
    pub since_ms: u64,
    /// When it ends, in milliseconds since 1970 by the clock of the process that took it.
    pub until_ms: u64,
}

#[derive(Clone)]
pub(crate) struct Leases {
    store: Arc<dyn ObjectStore>,
    read_only: bool,
}

impl Leases {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, read_only: bool) -> Self {
        Self { store, read_only }
    }

    pub(crate) async fn take(&self, root: Option<&Digest>, ttl: Duration) -> Result<LeaseId, CatalogError> {
        let id = LeaseId(Uuid::now_v7());
        // Nothing is evicted where nothing can be written.
        if self.read_only {
            return Ok(id);
        }
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let since_ms = now_ms();
        let until_ms = since_ms.saturating_add(ttl_ms);
        let lease = Lease { id: id.clone(), root: root.cloned(), since_ms, until_ms };
        let json = serde_json::to_vec(&lease).expect("a lease is plain data");
        let path = path_of(&id);
        self.store.put(&path, json.into()).await.map_err(|source| failed("write", &path, source))?;
        Ok(id)
    }

    pub(crate) async fn release(&self, id: &LeaseId) -> Result<(), CatalogError> {
        if self.read_only {
            return Ok(());
        }
        self.remove(&path_of(id)).await
    }

    /// The leases that hold; those that have ended are removed.
    pub(crate) async fn all(&self) -> Result<Vec<Lease>, CatalogError> {
        let folder = Path::from(FOLDER);
        let listing = self.store.list(Some(&folder)).map_ok(|object| object.location);
        let paths: Vec<Path> =
            listing.try_collect().await.map_err(|source| failed("list", &folder, source))?;
        let reads = paths.into_iter().map(|path| self.holding(path));
        let found: Vec<Option<Lease>> =
            futures::stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
        let mut leases: Vec<Lease> = found.into_iter().flatten().collect();
        leases.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(leases)
    }

    async fn holding(&self, path: Path) -> Result<Option<Lease>, CatalogError> {
        let read = async { self.store.get(&path).await?.bytes().await };
        let json = match read.await {
            Ok(json) => json,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed("read", &path, source)),
        };
        // One that cannot be read was cut short by a power failure, and its holder with it.
        let lease = serde_json::from_slice::<Lease>(&json).ok().filter(|lease| lease.until_ms > now_ms());
        if lease.is_none() && !self.read_only {
            self.remove(&path).await?;
        }
        Ok(lease)
    }

    async fn remove(&self, path: &Path) -> Result<(), CatalogError> {
        match self.store.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("remove", path, source)),
        }
    }
}

fn path_of(id: &LeaseId) -> Path {
    Path::from(format!("{FOLDER}/{id}.json"))
}
