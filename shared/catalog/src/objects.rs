//! The catalog of an object store: the ledger is alone there, with a snapshot that spares reading it whole.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::ledger::{Change, FOLDER, Record, Step, file_name, key, sequence};
use crate::{CatalogError, snapshot};

const APPEND_TRIES_MAX: u32 = 64;
const READS_IN_FLIGHT_MAX: usize = 32;
/// Records that a listing reads one by one before it writes a new snapshot.
const STALE_RECORDS_MAX: usize = 256;

pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The record that `name` points by, if it does.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        Ok(self.current(name).await?.filter(|record| record.descriptor.is_some()))
    }

    async fn current(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        let folder = folder_of(name)?;
        let Some(mut seq) = self.sequences(&folder).await?.into_iter().max() else {
            return Ok(None);
        };
        let mut record = self.read(&record_path(&folder, seq)).await?;
        // A listing may lag behind: the next record, if there is one, decides.
        loop {
            seq += 1;
            match self.read(&record_path(&folder, seq)).await {
                Ok(next) => record = next,
                Err(CatalogError::Objects { source: object_store::Error::NotFound { .. }, .. }) => {
                    return Ok(Some(record));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Every change of `name`, oldest first.
    pub(crate) async fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        let folder = &folder_of(name)?;
        let mut sequences = self.sequences(folder).await?;
        sequences.sort_unstable();
        let reads =
            sequences.into_iter().map(|seq| async move { self.read(&record_path(folder, seq)).await });
        futures::stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await
    }

    /// Where all names point, in their order.
    pub(crate) async fn list(&self) -> Result<Vec<Record>, CatalogError> {
        let mut newest = self.newest_sequences().await?;
        let mut records = Vec::with_capacity(newest.len());
        snapshot::read(&*self.store, |record| {
            let key = key(&record.name).unwrap_or_default();
            if newest.get(&key).is_some_and(|&seq| seq <= record.seq) {
                newest.remove(&key);
                records.push(record);
            }
        })
        .await;
        let stale = newest.len();
        let reads = newest.into_iter().map(|(key, seq)| async move {
            let folder = Path::from(format!("{FOLDER}/{key}"));
            self.read(&record_path(&folder, seq)).await
        });
        let mut reads = futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX);
        while let Some(record) = reads.try_next().await? {
            records.push(record);
        }
        records.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if stale > STALE_RECORDS_MAX {
            snapshot::write(&*self.store, &records).await;
        }
        records.retain(|record| record.descriptor.is_some());
        Ok(records)
    }

    /// Makes a change durable, if it still has to be made.
    pub(crate) async fn change(&self, change: &Change) -> Result<Step, CatalogError> {
        let folder = folder_of(&change.name)?;
        for _ in 0..APPEND_TRIES_MAX {
            let step = change.after(self.current(&change.name).await?)?;
            let Step::Append(record) = step else {
                return Ok(step);
            };
            let path = record_path(&folder, record.seq);
            let create = PutOptions::from(PutMode::Create);
            match self.store.put_opts(&path, record.to_json().into(), create).await {
                Ok(_) => return Ok(Step::Append(record)),
                Err(object_store::Error::AlreadyExists { .. }) => {
                    // An earlier try of this very request can have arrived although its answer did not.
                    if self.read(&path).await? == record {
                        return Ok(Step::Append(record));
                    }
                }
                Err(source) => return Err(failed("write", &path, source)),
            }
        }
        Err(CatalogError::Contended(change.name.clone()))
    }

    async fn sequences(&self, folder: &Path) -> Result<Vec<u64>, CatalogError> {
        let listing = self.store.list(Some(folder));
        let found = listing.try_filter_map(async |object| Ok(object.location.filename().and_then(sequence)));
        found.try_collect().await.map_err(|source| failed("list", folder, source))
    }

    /// The newest sequence of every name, by the name's key.
    async fn newest_sequences(&self) -> Result<HashMap<String, u64>, CatalogError> {
        let folder = Path::from(FOLDER);
        let mut listing = self.store.list(Some(&folder));
        let mut newest = HashMap::new();
        while let Some(object) = listing.try_next().await.map_err(|source| failed("list", &folder, source))? {
            if let Some((key, seq)) = key_and_sequence(&object) {
                let known = newest.entry(key).or_insert(seq);
                *known = seq.max(*known);
            }
        }
        Ok(newest)
    }

    async fn read(&self, path: &Path) -> Result<Record, CatalogError> {
        let object = self.store.get(path).await.map_err(|source| failed("read", path, source))?;
        let json = object.bytes().await.map_err(|source| failed("read", path, source))?;
        serde_json::from_slice(&json).map_err(|source| CatalogError::Record { key: path.to_string(), source })
    }
}

pub(crate) fn failed(action: &'static str, path: &Path, source: object_store::Error) -> CatalogError {
    CatalogError::Objects { action, key: path.to_string(), source }
}

fn folder_of(name: &str) -> Result<Path, CatalogError> {
    Ok(Path::from(format!("{FOLDER}/{}", key(name)?)))
}

fn record_path(folder: &Path, seq: u64) -> Path {
    folder.clone().join(file_name(seq))
}

fn key_and_sequence(object: &ObjectMeta) -> Option<(String, u64)> {
    let (folder, file) = object.location.as_ref().rsplit_once('/')?;
    Some((folder.rsplit_once('/')?.1.to_owned(), sequence(file)?))
}
