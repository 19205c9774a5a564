//! Facts about single blobs.

use larder_oci::{Descriptor, Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::{Announcement, Fact, News, Reason, Work};

/// Somebody needs a blob that is not stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobWanted {
    /// The blob; a manifest when its media type says so.
    pub blob: Descriptor,
    /// A repository that has it.
    pub from: Reference,
}

impl Fact for BlobWanted {
    const NAME: &'static str = "BlobWanted";
}

impl Work for BlobWanted {
    fn id(&self) -> String {
        self.blob.digest.token()
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&BlobRejected { digest: self.blob.digest.clone(), from: self.from.clone(), reason })
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
}

impl Fact for BlobProgress {
    const NAME: &'static str = "BlobProgress";
}

impl News for BlobProgress {
    fn key(&self) -> Option<String> {
        None
    }
}
