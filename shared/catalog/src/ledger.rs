//! Immutable records, one per change of a name, at `ledger/names/<name>/<sequence>.json`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt};
use larder_oci::{Descriptor, Digest};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::CatalogError;

const FOLDER: &str = "ledger/names";
const NAME_BYTES_MAX: usize = 512;
const KEY_BYTES_MAX: usize = 200;
const APPEND_TRIES_MAX: u32 = 64;
const READS_IN_FLIGHT_MAX: usize = 32;

/// Who changed a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was pulled from upstream.
    Pulled,
    /// It was removed on request.
    Removed,
    /// Another tool wrote it to the layout.
    Adopted,
    /// It was written here.
    Written,
}

/// One change of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name.
    pub name: String,
    /// The place in the name's history, from 1.
    pub seq: u64,
    /// When, in milliseconds since 1970 by the writer's clock.
    pub at_ms: u64,
    /// By whom.
    pub origin: Origin,
    /// What it points to since; nothing when it was removed.
    pub descriptor: Option<Descriptor>,
}

impl Record {
    /// Whether the name points to `descriptor` since this change.
    pub fn points_to(&self, descriptor: &Descriptor) -> bool {
        self.descriptor
            .as_ref()
            .is_some_and(|own| own.digest == descriptor.digest && own.media_type == descriptor.media_type)
    }

    pub(crate) fn of_view(entries: Vec<(String, Descriptor)>) -> Vec<Self> {
        let record = |(name, descriptor)| Self {
            name,
            seq: 0,
            at_ms: 0,
            origin: Origin::Adopted,
            descriptor: Some(descriptor),
        };
        entries.into_iter().map(record).collect()
    }
}

#[derive(Clone)]
pub(crate) struct Ledger {
    store: Arc<dyn ObjectStore>,
}

impl Ledger {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// The newest record of `name`.
    pub(crate) async fn current(&self, name: &str) -> Result<Option<Record>, CatalogError> {
        let folder = Path::from(format!("{FOLDER}/{}", key(name)?));
        let newest = self.sequences(&folder).await?.into_iter().max_by_key(|(seq, _)| *seq);
        let Some((mut seq, path)) = newest else {
            return Ok(None);
        };
        let mut record = self.read(&path).await?;
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

    /// The newest record of every name.
    pub(crate) async fn list(&self) -> Result<Vec<Record>, CatalogError> {
        let all = self.sequences(&Path::from(FOLDER)).await?;
        let mut newest: BTreeMap<String, (u64, Path)> = BTreeMap::new();
        for (seq, path) in all {
            let folder = path.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
            let known = newest.entry(folder.to_owned()).or_insert((0, path.clone()));
            if seq > known.0 {
                *known = (seq, path);
            }
        }
        let reads = newest.into_values().map(|(_, path)| async move { self.read(&path).await });
        futures::stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX).try_collect().await
    }

    /// All records of `name`, oldest first.
    pub(crate) async fn history(&self, name: &str) -> Result<Vec<Record>, CatalogError> {
        let folder = Path::from(format!("{FOLDER}/{}", key(name)?));
        let mut sequences = self.sequences(&folder).await?;
        sequences.sort();
        let reads = sequences.into_iter().map(|(_, path)| async move { self.read(&path).await });
        futures::stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await
    }

    /// Adds a record behind the newest one.
    pub(crate) async fn append(
        &self,
        name: &str,
        descriptor: Option<&Descriptor>,
        origin: Origin,
    ) -> Result<Record, CatalogError> {
        let folder = Path::from(format!("{FOLDER}/{}", key(name)?));
        for _ in 0..APPEND_TRIES_MAX {
            let seq = self.current(name).await?.map_or(1, |record| record.seq + 1);
            let record = Record {
                name: name.to_owned(),
                seq,
                at_ms: now_ms(),
                origin,
                descriptor: descriptor.cloned(),
            };
            let path = record_path(&folder, seq);
            let json = serde_json::to_vec(&record).expect("a record is plain data");
            let create = PutOptions::from(PutMode::Create);
            match self.store.put_opts(&path, json.into(), create).await {
                Ok(_) => return Ok(record),
                // Another writer was quicker, or an earlier try of ours has arrived after all.
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(source) => return Err(failed("write", &path, source)),
            }
        }
        Err(CatalogError::Contended(name.to_owned()))
    }

    async fn sequences(&self, folder: &Path) -> Result<Vec<(u64, Path)>, CatalogError> {
        let listing = self.store.list(Some(folder));
        let objects: Vec<_> = listing.try_collect().await.map_err(|source| failed("list", folder, source))?;
        let sequence = |object: object_store::ObjectMeta| {
            let seq = object.location.filename()?.strip_suffix(".json")?.parse().ok()?;
            Some((seq, object.location))
        };
        Ok(objects.into_iter().filter_map(sequence).collect())
    }

    async fn read(&self, path: &Path) -> Result<Record, CatalogError> {
        let object = self.store.get(path).await.map_err(|source| failed("read", path, source))?;
        let json = object.bytes().await.map_err(|source| failed("read", path, source))?;
        serde_json::from_slice(&json).map_err(|source| CatalogError::Record { key: path.to_string(), source })
    }
}

fn failed(action: &'static str, path: &Path, source: object_store::Error) -> CatalogError {
    CatalogError::Objects { action, key: path.to_string(), source }
}

fn record_path(folder: &Path, seq: u64) -> Path {
    folder.clone().join(format!("{seq:010}.json"))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Whether a ledger can hold `name`.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// The name as one component of a path: what is not a letter, a digit or one of `.:_-@` becomes `=` and two hex digits, and a
/// name too long for a file name is cut and gets its hash.
fn key(name: &str) -> Result<String, CatalogError> {
    if !is_name(name) {
        return Err(CatalogError::Name(name.chars().take(NAME_BYTES_MAX).collect()));
    }
    let mut key = String::with_capacity(name.len() + 8);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b".:_-@".contains(&byte) {
            key.push(char::from(byte));
        } else {
            let _ = write!(key, "={byte:02x}");
        }
    }
    if key.len() > KEY_BYTES_MAX || key.starts_with('.') {
        let hash = Digest::of(name.as_bytes());
        key.truncate(KEY_BYTES_MAX - 70);
        key = format!("=-{key}={}", hash.hex());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_distinct_single_components() {
        assert_eq!(key("docker.io/library/debian:12").unwrap(), "docker.io=2flibrary=2fdebian:12");
        assert_ne!(key("a=2f").unwrap(), key("a/").unwrap());
        let long = "a/".repeat(200);
        assert!(key(&long).unwrap().len() <= KEY_BYTES_MAX + 10);
        assert_ne!(key(&long).unwrap(), key(&format!("{long}b")).unwrap());
        assert!(!key("..").unwrap().starts_with('.'));
        assert!(key("").is_err());
        assert!(key("a\nb").is_err());
    }
}
