//! Blobs that come in parts, to any process that shares the store.
//!
//! Each part is a blob of its own. What an upload consists of so far is its last record: `uploads/<id>/<number of parts>`, created only if
//! it does not exist yet, so that of two who append at the same place one is first. Records are not synced: an upload that is
//! lost in a power cut is begun again. Blobs of parts are left to the collector, since another name may lead to the same bytes.

mod commit;
mod records;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use larder_oci::{Algorithm, Digest};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};

use crate::{BlobError, Blobs, Draft, LOOKS_IN_FLIGHT_MAX};
use records::{Record, Records};

const ID_BYTES_MAX: usize = 64;
const NOTE_BYTES_MAX: usize = 4096;
/// Each record repeats all parts: these are 200 KiB for the last one.
const PARTS_MAX: usize = 2000;

/// The uploads of a store; clones share it.
#[derive(Clone)]
pub struct Uploads {
    blobs: Blobs,
    records: Records,
}

/// A blob that has come in part, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its name: 1 to 64 of `a-z`, `0-9` and `-`.
    pub id: String,
    /// What whoever began it wanted to remember, at most 4 KiB.
    pub note: String,
    /// When it was begun.
    pub begun: SystemTime,
    /// When the last of its bytes was written.
    pub updated: SystemTime,
    /// How many bytes have come, and so where the next ones go.
    pub size: u64,
    parts: Vec<PartBlob>,
}

/// A blob whose bytes are a part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartBlob {
    digest: Digest,
    size: u64,
}

/// The next bytes of an upload, being written. Dropped without [`Part::finish`] they go away.
pub struct Part {
    uploads: Uploads,
    upload: Upload,
    draft: Draft,
    written_at: SystemTime,
}

impl Uploads {
    pub(crate) fn new(blobs: Blobs, store: Arc<dyn ObjectStore>) -> Self {
        Self { blobs, records: Records::new(store) }
    }

    /// Begins an upload of no bytes; `None` when there is one of this id already.
    ///
    /// # Errors
    /// [`BlobError::UploadRefused`] when the id is no such name or the note is too long; [`BlobError::Objects`].
    pub async fn begin(&self, id: &str, note: &str) -> Result<Option<Upload>, BlobError> {
        if !is_id(id) {
            return Err(refused(id, "an id that is not 1 to 64 of a-z, 0-9 and -"));
        }
        if note.len() > NOTE_BYTES_MAX {
            return Err(refused(id, "a note of more than 4096 bytes"));
        }
        let now = SystemTime::now();
        let record = Record::new(note.to_owned(), now, now, Vec::new());
        let is_new = self.records.create(id, &record).await?;
        Ok(is_new.then(|| record.upload(id.to_owned())))
    }

    /// Looks for an upload; `None` when there is none of this id.
    ///
    /// # Errors
    /// [`BlobError::Objects`], [`BlobError::UploadRecord`].
    pub async fn find(&self, id: &str) -> Result<Option<Upload>, BlobError> {
        if !is_id(id) {
            return Ok(None);
        }
        match self.records.survey(Some(id)).await?.pop() {
            Some(seen) => self.records.upload(seen).await,
            None => Ok(None),
        }
    }

    /// All uploads, in no order. An error ends the list.
    pub fn list(&self) -> BoxStream<'static, Result<Upload, BlobError>> {
        let records = self.records.clone();
        let listing = async move {
            let all = records.survey(None).await?;
            let uploads = all.into_iter().map(move |seen| {
                let records = records.clone();
                async move { records.upload(seen).await }
            });
            let uploads = stream::iter(uploads).buffer_unordered(LOOKS_IN_FLIGHT_MAX);
            Ok::<_, BlobError>(uploads.try_filter_map(|upload| async move { Ok(upload) }))
        };
        stream::once(listing).try_flatten().boxed()
    }

    /// Starts to write the bytes that come next in `upload`. When the whole will be named by `algorithm` and this is its only part,
    /// [`Uploads::commit`] has nothing to copy.
    ///
    /// # Errors
    /// [`BlobError::UploadRefused`] when it has 2000 parts; otherwise as [`Blobs::draft`].
    pub async fn append(&self, upload: &Upload, algorithm: Algorithm) -> Result<Part, BlobError> {
        if upload.parts.len() >= PARTS_MAX {
            return Err(refused(&upload.id, "2000 parts, and can have no more"));
        }
        let draft = self.blobs.draft_for(algorithm).await?;
        let written_at = SystemTime::now();
        Ok(Part { uploads: self.clone(), upload: upload.clone(), draft, written_at })
    }

    /// The bytes that have come. They are as verified as those of [`Blobs::read`].
    pub fn read(&self, upload: &Upload) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let blobs = self.blobs.clone();
        let parts = stream::iter(upload.parts.clone().into_iter().map(Ok));
        let contents = parts.and_then(move |part| {
            let blobs = blobs.clone();
            async move { Ok(blobs.read_range(&part.digest, 0, None).await?.bytes) }
        });
        contents.try_flatten().boxed()
    }

    /// Makes what has come the blob `expected`, of `size` bytes if that is given, and returns its size. The upload is gone
    /// then; when digest or size do not hold, it stays as it was. An upload of one part of that digest is not read again.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`], [`BlobError::WrongSize`]; [`BlobError::NotFound`] when a part is no longer there; [`BlobError::Disk`],
    /// [`BlobError::Objects`].
    pub async fn commit(
        &self,
        upload: Upload,
        expected: &Digest,
        size: Option<u64>,
    ) -> Result<u64, BlobError> {
        commit::commit(&self.blobs, &upload, expected, size).await?;
        if let Err(error) = self.records.remove(&upload.id).await {
            tracing::warn!(id = upload.id, %error, "cannot remove a finished upload; it stays until it is swept");
        }
        Ok(upload.size)
    }

    /// Forgets an upload; `false` when there was none of this id.
    ///
    /// # Errors
    /// [`BlobError::Objects`].
    pub async fn abort(&self, id: &str) -> Result<bool, BlobError> {
        if is_id(id) { self.records.remove(id).await } else { Ok(false) }
    }

    pub(crate) async fn sweep(&self, older_than: Duration) -> Result<u64, BlobError> {
        let mut swept = 0;
        for seen in self.records.survey(None).await? {
            let age = SystemTime::now().duration_since(seen.updated);
            if age.is_ok_and(|age| age >= older_than) {
                self.records.remove(&seen.id).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Part {
    /// Takes the next bytes; waits while too many are on their way to the store.
    ///
    /// # Errors
    /// [`BlobError::Disk`] or [`BlobError::Objects`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.draft.write(bytes).await?;
        self.written_at = SystemTime::now();
        Ok(())
    }

    /// How many bytes of this part were taken.
    pub fn written(&self) -> u64 {
        self.draft.written()
    }

    /// Adds the bytes to the upload, and returns it as it is then.
    ///
    /// # Errors
    /// [`BlobError::Overtaken`] when somebody else has added others there; [`BlobError::UploadNotFound`] when it was committed,
    /// aborted or swept meanwhile; [`BlobError::Disk`], [`BlobError::Objects`].
    pub async fn finish(self) -> Result<Upload, BlobError> {
        let Self { uploads, mut upload, draft, written_at } = self;
        if draft.written() == 0 {
            return Ok(upload);
        }
        let (digest, size) = draft.commit(None).await?;
        upload.parts.push(PartBlob { digest, size });
        let record = Record::new(upload.note, upload.begun, written_at, upload.parts);
        if !uploads.records.create(&upload.id, &record).await? {
            return Err(BlobError::Overtaken { id: upload.id, offset: upload.size });
        }
        if !uploads.records.is_begun(&upload.id).await? {
            uploads.records.remove(&upload.id).await?;
            return Err(BlobError::UploadNotFound(upload.id));
        }
        Ok(record.upload(upload.id))
    }
}

fn is_id(id: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase() || byte == b'-';
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_token)
}

fn refused(id: &str, reason: &'static str) -> BlobError {
    BlobError::UploadRefused { id: id.chars().take(ID_BYTES_MAX).collect(), reason }
}
