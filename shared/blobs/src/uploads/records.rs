//! What is written down of uploads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};

use super::{PartBlob, Upload, is_id};
use crate::BlobError;
use crate::objects::failed;

const FOLDER: &str = "uploads";
/// Digits in the name of a record, so that names sort as their numbers do.
const DIGITS: usize = 4;

/// All that an upload consists of once this many parts are there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    note: String,
    begun_us: u64,
    updated_us: u64,
    pub(super) parts: Vec<PartBlob>,
}

/// What the names and times of its records tell of an upload.
pub(super) struct Seen {
    pub(super) id: String,
    pub(super) updated: SystemTime,
    /// When its first record is gone, it is, too.
    is_begun: bool,
    last: usize,
}

#[derive(Clone)]
pub(super) struct Records(Arc<dyn ObjectStore>);

impl Record {
    pub(super) fn new(note: String, begun: SystemTime, updated: SystemTime, parts: Vec<PartBlob>) -> Self {
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let micros = |time| u64::try_from(since(time)).unwrap_or(u64::MAX);
        Self { note, begun_us: micros(begun), updated_us: micros(updated), parts }
    }

    pub(super) fn upload(self, id: String) -> Upload {
        let Self { note, begun_us, updated_us, parts } = self;
        let time = |micros| UNIX_EPOCH + Duration::from_micros(micros);
        let size = parts.iter().map(|part| part.size).sum();
        Upload { id, note, begun: time(begun_us), updated: time(updated_us), size, parts }
    }
}

impl Records {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self(store)
    }

    /// Writes the record that comes with its last part; `false` when there is one already.
    pub(super) async fn create(&self, id: &str, record: &Record) -> Result<bool, BlobError> {
        let path = path(id, record.parts.len());
        let json = serde_json::to_vec(record).expect("a record is plain data");
        match self.0.put_opts(&path, json.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(failed("write", &path)(error)),
        }
    }

    pub(super) async fn is_begun(&self, id: &str) -> Result<bool, BlobError> {
        let path = path(id, 0);
        match self.0.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed("look at", &path)(error)),
        }
    }

    /// The uploads of which there are records, or the one of this id.
    pub(super) async fn survey(&self, id: Option<&str>) -> Result<Vec<Seen>, BlobError> {
        let prefix = [FOLDER].into_iter().chain(id).collect::<Path>();
        let mut uploads: HashMap<String, Seen> = HashMap::new();
        let mut records = self.0.list(Some(&prefix));
        while let Some(object) = records.try_next().await.map_err(failed("list", &prefix))? {
            let Some((id, number)) = address(&object.location) else {
                continue;
            };
            let written = object.last_modified.into();
            let seen = uploads.entry(id.to_owned()).or_insert_with(|| Seen {
                id: id.to_owned(),
                updated: written,
                is_begun: false,
                last: number,
            });
            seen.updated = seen.updated.max(written);
            seen.last = seen.last.max(number);
            seen.is_begun |= number == 0;
        }
        Ok(uploads.into_values().collect())
    }

    /// Reads the last record; `None` when the upload has gone away.
    pub(super) async fn upload(&self, seen: Seen) -> Result<Option<Upload>, BlobError> {
        if !seen.is_begun {
            return Ok(None);
        }
        let path = path(&seen.id, seen.last);
        let record = match self.0.get(&path).await {
            Ok(record) => record,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let json = record.bytes().await.map_err(failed("read", &path))?;
        let record: Record = serde_json::from_slice(&json)
            .map_err(|source| BlobError::UploadRecord { key: path.to_string(), source })?;
        Ok(Some(record.upload(seen.id)))
    }

    /// Removes all records of an upload, the first one last: until then nobody can begin another of this id. What somebody adds
    /// meanwhile is removed by the second round here, or by themselves when they find the first record gone.
    pub(super) async fn remove(&self, id: &str) -> Result<bool, BlobError> {
        let first = path(id, 0);
        self.remove_all(id).await?;
        let existed = self.is_begun(id).await?;
        self.remove_each(vec![first]).await?;
        self.remove_all(id).await?;
        Ok(existed)
    }

    /// Removes all records but the first.
    async fn remove_all(&self, id: &str) -> Result<(), BlobError> {
        let last = self.survey(Some(id)).await?.pop().map_or(0, |seen| seen.last);
        self.remove_each((1..=last).map(|number| path(id, number)).collect()).await
    }

    async fn remove_each(&self, paths: Vec<Path>) -> Result<(), BlobError> {
        let folder = Path::from(FOLDER);
        let paths = stream::iter(paths.into_iter().map(Ok)).boxed();
        let mut removed = self.0.delete_stream(paths);
        while let Some(result) = removed.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("delete from", &folder)(error)),
            }
        }
        Ok(())
    }
}

fn path(id: &str, number: usize) -> Path {
    Path::from_iter([FOLDER.to_owned(), id.to_owned(), format!("{number:0DIGITS$}")])
}

fn address(path: &Path) -> Option<(&str, usize)> {
    let (id, number) = path.as_ref().strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    let is_record = number.len() == DIGITS && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_record && is_id(id)).then(|| number.parse().ok().map(|number| (id, number)))?
}
