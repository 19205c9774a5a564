//! What the users of a namespace say of a blob, at `labels/<namespace>/<digest>/<number>.json`.
//!
//! Each change is a new record, created only if it does not exist yet; the newest holds, and those before it are removed. Labels
//! that are lost only cost work, so none is synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt};
use larder_oci::Digest;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::ledger::{file_name, sequence};
use crate::objects::failed;
use crate::{Catalog, CatalogError};

const FOLDER: &str = "labels";
/// All labels of a blob in a namespace, keys and values.
const LABELS_BYTES_MAX: usize = 4 << 20;
const READS_IN_FLIGHT_MAX: usize = 32;
/// How often a change is made anew when others were faster.
const TRIES_MAX: usize = 64;

/// The labels of a blob in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The labels by their keys.
    pub values: BTreeMap<String, String>,
    /// When they were changed last, by the clock of the process that did.
    pub updated: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct Record {
    values: BTreeMap<String, String>,
    updated_us: u64,
}

#[derive(Clone)]
pub(crate) struct LabelRecords {
    store: Arc<dyn ObjectStore>,
}

impl Catalog {
    /// What is said of `digest` in `namespace`, which is a path component; `None` when nothing ever was.
    ///
    /// # Errors
    /// [`CatalogError::Objects`], [`CatalogError::Record`], [`CatalogError::Contended`].
    pub async fn labels(&self, namespace: &str, digest: &Digest) -> Result<Option<Labels>, CatalogError> {
        let folder = folder_of(namespace, digest);
        Ok(self.labels.newest(&folder).await?.map(|(_, labels)| labels))
    }

    /// What is said in `namespace`, of every blob of which anything is.
    ///
    /// # Errors
    /// As [`Catalog::labels`].
    pub async fn labels_within(&self, namespace: &str) -> Result<BTreeMap<Digest, Labels>, CatalogError> {
        self.labels.within(namespace).await
    }

    /// Has `change` make the labels of `digest` in `namespace` what they are to be, and returns them. Of changes at the same time
    /// none is lost: `change` is called again with what another has made of them.
    ///
    /// # Errors
    /// [`CatalogError::Labels`] when they have more than 4 MiB, and as [`Catalog::labels`].
    pub async fn set_labels(
        &self,
        namespace: &str,
        digest: &Digest,
        change: impl Fn(&mut BTreeMap<String, String>) + Send + Sync,
    ) -> Result<Labels, CatalogError> {
        let folder = folder_of(namespace, digest);
        for _ in 0..TRIES_MAX {
            let newest = self.labels.newest(&folder).await?;
            let (number, mut values) =
                newest.map_or_else(Default::default, |(number, old)| (number, old.values));
            change(&mut values);
            if values.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > LABELS_BYTES_MAX {
                return Err(CatalogError::Labels(digest.clone()));
            }
            let record = Record { values, updated_us: now_us() };
            if self.labels.append(&folder, number + 1, &record).await? {
                return Ok(record.into());
            }
        }
        Err(CatalogError::Contended(folder.to_string()))
    }

    /// Forgets what is said of `digest` in any namespace.
    ///
    /// # Errors
    /// [`CatalogError::Objects`].
    pub async fn remove_labels(&self, digest: &Digest) -> Result<(), CatalogError> {
        for namespace in self.labels.namespaces().await? {
            let folder = folder_of(&namespace, digest);
            self.labels.remove_up_to(&folder, u64::MAX).await?;
        }
        Ok(())
    }
}

impl LabelRecords {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    async fn newest(&self, folder: &Path) -> Result<Option<(u64, Labels)>, CatalogError> {
        for _ in 0..TRIES_MAX {
            let Some(number) = self.numbers(folder).await?.into_iter().max() else {
                return Ok(None);
            };
            // One that is gone by now has a younger one.
            if let Some(labels) = self.read(&record_path(folder, number)).await? {
                return Ok(Some((number, labels)));
            }
        }
        Err(CatalogError::Contended(folder.to_string()))
    }

    async fn within(&self, namespace: &str) -> Result<BTreeMap<Digest, Labels>, CatalogError> {
        let folder = Path::from_iter([FOLDER, namespace]);
        let mut listing = self.store.list(Some(&folder));
        let mut newest = BTreeMap::new();
        while let Some(object) = listing.try_next().await.map_err(|source| failed("list", &folder, source))? {
            if let Some((digest, number)) = digest_and_number(&object.location) {
                let known = newest.entry(digest).or_insert(number);
                *known = number.max(*known);
            }
        }
        let reads = newest.into_iter().map(async |(digest, number)| {
            let folder = folder_of(namespace, &digest);
            let labels = match self.read(&record_path(&folder, number)).await? {
                Some(labels) => Some(labels),
                None => self.newest(&folder).await?.map(|(_, labels)| labels),
            };
            Ok(labels.map(|labels| (digest, labels)))
        });
        let found = futures::stream::iter(reads).buffered(READS_IN_FLIGHT_MAX);
        found.try_filter_map(async |found| Ok(found)).try_collect().await
    }

    /// Whether the record is the newest one now, and so holds.
    async fn append(&self, folder: &Path, number: u64, record: &Record) -> Result<bool, CatalogError> {
        let path = record_path(folder, number);
        let json = serde_json::to_vec(record).expect("labels are plain data");
        match self.store.put_opts(&path, json.into(), PutOptions::from(PutMode::Create)).await {
            Ok(_) => {}
            Err(object_store::Error::AlreadyExists { .. }) => return Ok(false),
            Err(source) => return Err(failed("write", &path, source)),
        }
        // Whoever was so slow that the number was free again has written what nobody reads.
        let is_newest = self.numbers(folder).await?.into_iter().all(|other| other <= number);
        self.remove_up_to(folder, if is_newest { number - 1 } else { number }).await?;
        Ok(is_newest)
    }

    async fn read(&self, path: &Path) -> Result<Option<Labels>, CatalogError> {
        let read = async { self.store.get(path).await?.bytes().await };
        let json = match read.await {
            Ok(json) => json,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed("read", path, source)),
        };
        let record: Result<Record, _> = serde_json::from_slice(&json);
        let record = record.map_err(|source| CatalogError::Record { key: path.to_string(), source })?;
        Ok(Some(record.into()))
    }

    async fn numbers(&self, folder: &Path) -> Result<Vec<u64>, CatalogError> {
        let listing = self.store.list(Some(folder));
        let numbers =
            listing.try_filter_map(async |object| Ok(object.location.filename().and_then(sequence)));
        numbers.try_collect().await.map_err(|source| failed("list", folder, source))
    }

    async fn namespaces(&self) -> Result<Vec<String>, CatalogError> {
        let folder = Path::from(FOLDER);
        let listed = self.store.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|source| failed("list", &folder, source))?;
        Ok(listed.common_prefixes.iter().filter_map(|prefix| prefix.filename().map(str::to_owned)).collect())
    }

    async fn remove_up_to(&self, folder: &Path, last: u64) -> Result<(), CatalogError> {
        for number in self.numbers(folder).await?.into_iter().filter(|number| *number <= last) {
            let path = record_path(folder, number);
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(failed("remove", &path, source)),
            }
        }
        Ok(())
    }
}

impl From<Record> for Labels {
    fn from(record: Record) -> Self {
        Self { values: record.values, updated: UNIX_EPOCH + Duration::from_micros(record.updated_us) }
    }
}

fn folder_of(namespace: &str, digest: &Digest) -> Path {
    Path::from_iter([FOLDER, namespace, &digest.token()])
}

fn record_path(folder: &Path, number: u64) -> Path {
    folder.clone().join(file_name(number))
}

fn digest_and_number(path: &Path) -> Option<(Digest, u64)> {
    let (folder, file) = path.as_ref().rsplit_once('/')?;
    let (_, token) = folder.rsplit_once('/')?;
    Some((token.replacen('-', ":", 1).parse().ok()?, sequence(file)?))
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
