//! Facts about single blobs.

use larder_oci::{Descriptor, Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::name::token;
use crate::{Announcement, Fact, News, Reason, WishRejected, Work};

/// Somebody needs a blob that is not stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobWanted {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes, if somebody who points to it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whether a registry has it among its manifests.
    #[serde(default)]
    pub is_manifest: bool,
    /// A repository that has it.
    pub from: Reference,
}

impl BlobWanted {
    /// What `blob` describes, wanted from a repository that has it.
    pub fn of(blob: &Descriptor, from: &Reference) -> Self {
        let (digest, size) = (blob.digest.clone(), Some(blob.size));
        Self { digest, size, is_manifest: blob.is_manifest(), from: from.clone() }
    }
}

impl Fact for BlobWanted {
    const NAME: &'static str = "BlobWanted";
}

impl Work for BlobWanted {
    fn id(&self) -> String {
        self.digest.token()
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&BlobRejected { digest: self.digest.clone(), from: self.from.clone(), reason })
    }
}

/// A blob is stored and its digest holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobStored {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes received from upstream for it; 0 when it was there already.
    pub fetched_bytes: u64,
}

impl Fact for BlobStored {
    const NAME: &'static str = "BlobStored";
}

impl News for BlobStored {
    fn key(&self) -> Option<String> {
        None
    }
}

/// A blob cannot be had from a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobRejected {
    /// The blob.
    pub digest: Digest,
    /// The repository that was tried.
    pub from: Reference,
    /// Why.
    pub reason: Reason,
}

impl Fact for BlobRejected {
    const NAME: &'static str = "BlobRejected";
}

impl News for BlobRejected {
    fn key(&self) -> Option<String> {
        None
    }
}

/// A blob is on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobProgress {
    /// The blob.
    pub digest: Digest,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Its size in bytes, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where other processes can read it while it grows: a URL that whoever knows it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

impl Fact for BlobProgress {
    const NAME: &'static str = "BlobProgress";
}

impl News for BlobProgress {
    fn key(&self) -> Option<String> {
        None
    }
}

/// Somebody wants to know whether a repository has a blob, without its content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobSought {
    /// The repository, at the blob's digest.
    pub at: Reference,
}

impl Fact for BlobSought {
    const NAME: &'static str = "BlobSought";
}

impl Work for BlobSought {
    fn id(&self) -> String {
        token(&["seek blob", &self.at.to_string()])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// Whether a repository has a blob.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobSeen {
    /// The id of the work.
    pub id: String,
    /// Its size in bytes; nothing when the repository has no such blob.
    pub size: Option<u64>,
}

impl Fact for BlobSeen {
    const NAME: &'static str = "BlobSeen";
}

impl News for BlobSeen {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// Somebody wants a blob deleted, unless a name or a lease reaches it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeletionWanted {
    /// The blob.
    pub digest: Digest,
}

impl Fact for DeletionWanted {
    const NAME: &'static str = "DeletionWanted";
}

impl Work for DeletionWanted {
    fn id(&self) -> String {
        token(&["delete", self.digest.as_str()])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// What became of a blob that was to be deleted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobDeleted {
    /// The id of the work.
    pub id: String,
    /// The blob.
    pub digest: Digest,
    /// Whether it is gone now, and was there before.
    pub deleted: bool,
    /// Whether it stays because a name or a lease reaches it.
    pub kept: bool,
}

impl Fact for BlobDeleted {
    const NAME: &'static str = "BlobDeleted";
}

impl News for BlobDeleted {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// A blob was deleted; for those who remember blobs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContentDeleted {
    /// The blob.
    pub digest: Digest,
}

impl Fact for ContentDeleted {
    const NAME: &'static str = "ContentDeleted";
}

impl News for ContentDeleted {
    fn key(&self) -> Option<String> {
        None
    }
}
