//! Content on its way in: which upload of the store a ref of a namespace is, and who writes it now.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::TryStreamExt;
use larder_blobs::{Upload, Uploads};
use larder_containerd_api::content;
use larder_oci::Digest;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::fault::blob_fault;
use super::filter::Filters;
use super::namespace::Namespace;

/// Tells the uploads of this service from those of others.
const ID_PREFIX: &str = "content-";
const ID_HEX: usize = 56;
const REF_BYTES_MAX: usize = 1024;

/// A name that a client has chosen for what it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ref {
    namespace: String,
    name: String,
}

/// What the upload of a ref says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    #[serde(flatten)]
    pub(super) of: Ref,
    /// The size that was announced in bytes, or zero.
    pub(super) total: u64,
    pub(super) expected: Option<Digest>,
}

/// All refs of this process's store; clones share it.
#[derive(Clone)]
pub(super) struct Ingests {
    pub(super) uploads: Uploads,
    active: Active,
}

type Active = Arc<Mutex<HashMap<String, Arc<Activity>>>>;

/// A ref that is being written.
struct Activity {
    since: SystemTime,
    /// How far it has come, and when.
    progress: Mutex<(u64, SystemTime)>,
    aborted: CancellationToken,
}

/// While it is there, nobody else in this process writes the ref.
pub(super) struct Held {
    pub(super) id: String,
    activity: Arc<Activity>,
    active: Active,
}

impl Ref {
    pub(super) fn new(namespace: &Namespace, name: &str) -> Result<Self, Status> {
        if name.len() > REF_BYTES_MAX {
            return Err(Status::invalid_argument(format!("a ref has at most {REF_BYTES_MAX} bytes")));
        }
        Ok(Self { namespace: namespace.as_str().to_owned(), name: name.to_owned() })
    }

    pub(super) fn id(&self) -> String {
        let digest = Digest::of(format!("{}\0{}", self.namespace, self.name).as_bytes());
        format!("{ID_PREFIX}{}", &digest.hex()[..ID_HEX])
    }

    fn absent(&self) -> Status {
        Status::not_found(format!("ref {}: not found", self.name))
    }
}

impl Note {
    pub(super) fn of(upload: &Upload) -> Option<Self> {
        serde_json::from_str(&upload.note).ok()
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a note is plain data")
    }
}

impl Ingests {
    pub(super) fn new(uploads: Uploads) -> Self {
        Self { uploads, active: Active::default() }
    }

    /// Begins to write a ref, unless somebody else does.
    pub(super) fn hold(&self, of: &Ref) -> Result<Held, Status> {
        let id = of.id();
        match lock(&self.active).entry(id.clone()) {
            Entry::Occupied(held) => {
                let (name, since) = (&of.name, held.get().since);
                let seconds = since.elapsed().unwrap_or_default().as_secs();
                Err(Status::unavailable(format!("ref {name} locked for {seconds} s: it is being written")))
            }
            Entry::Vacant(free) => {
                let since = SystemTime::now();
                let progress = Mutex::new((0, since));
                let activity = Arc::new(Activity { since, progress, aborted: CancellationToken::new() });
                free.insert(Arc::clone(&activity));
                Ok(Held { id, activity, active: Arc::clone(&self.active) })
            }
        }
    }

    pub(super) async fn status(&self, of: &Ref) -> Result<content::Status, Status> {
        let upload = self.uploads.find(&of.id()).await.map_err(|error| blob_fault(&error))?;
        let upload = upload.ok_or_else(|| of.absent())?;
        Note::of(&upload).map(|note| self.describe(&upload, note)).ok_or_else(|| of.absent())
    }

    pub(super) async fn statuses(
        &self,
        namespace: &Namespace,
        filters: &Filters,
    ) -> Result<Vec<content::Status>, Status> {
        let mut statuses = Vec::new();
        let mut uploads = self.uploads.list();
        while let Some(upload) = uploads.try_next().await.map_err(|error| blob_fault(&error))? {
            let note = Note::of(&upload).filter(|_| upload.id.starts_with(ID_PREFIX));
            let Some(note) = note.filter(|note| note.of.namespace == namespace.as_str()) else { continue };
            if filters.match_fields(|path| (path[0] == "ref").then_some(note.of.name.as_str())) {
                statuses.push(self.describe(&upload, note));
            }
        }
        Ok(statuses)
    }

    /// Forgets what was written under a ref, also while it is being written.
    pub(super) async fn abort(&self, of: &Ref) -> Result<(), Status> {
        let id = of.id();
        if let Some(activity) = lock(&self.active).get(&id) {
            activity.aborted.cancel();
        }
        match self.uploads.abort(&id).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(of.absent()),
            Err(error) => Err(blob_fault(&error)),
        }
    }

    fn describe(&self, upload: &Upload, note: Note) -> content::Status {
        let activity = lock(&self.active).get(&upload.id).cloned();
        let progress = activity.map(|activity| *lock(&activity.progress));
        // What is being written now is further than what the store has.
        let (offset, updated) = match progress {
            Some((offset, updated)) => (offset.max(upload.size), updated.max(upload.updated)),
            None => (upload.size, upload.updated),
        };
        content::Status {
            started_at: Some(upload.begun.into()),
            updated_at: Some(updated.into()),
            r#ref: note.of.name,
            offset: signed(offset),
            total: signed(note.total),
            expected: note.expected.map(|digest| digest.to_string()).unwrap_or_default(),
        }
    }
}

impl Held {
    pub(super) fn report(&self, offset: u64, updated: SystemTime) {
        *lock(&self.activity.progress) = (offset, updated);
    }

    pub(super) fn aborted(&self) -> CancellationToken {
        self.activity.aborted.clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        lock(&self.active).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes, as the protocol has them.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
