//! What can go wrong with stored bytes.

use std::path::PathBuf;

use larder_oci::{Digest, OciError};

/// A blob that is not there, does not hold, or cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// The store has no such blob.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The bytes hash to something else.
    #[error("expected {want}, received {got}")]
    Corrupt {
        /// What was asked for.
        want: Digest,
        /// What the bytes hash to.
        got: Digest,
    },
    /// The bytes are more or fewer than they should be.
    #[error("blob {digest} has {got} bytes instead of {want}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Its size as its parent gives it.
        want: u64,
        /// The size found; for a stream that is too long, where it was stopped.
        got: u64,
    },
    /// A range begins behind the end of the blob.
    #[error("offset {offset} is behind the end of blob {digest}, which has {size} bytes")]
    OutOfRange {
        /// The blob.
        digest: Digest,
        /// Where the range was to begin, in bytes.
        offset: u64,
        /// The size of the blob in bytes.
        size: u64,
    },
    /// The bytes are intact but no valid manifest.
    #[error("blob {digest} is no manifest")]
    Document {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        #[source]
        source: OciError,
    },
    /// The disk refused.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The object store refused, or the directory that holds records of uploads.
    #[error("cannot {action} {key} in the store")]
    Objects {
        /// What was tried.
        action: &'static str,
        /// On which key.
        key: String,
        /// Why not.
        #[source]
        source: object_store::Error,
    },
    /// A blob that was read while it was being written did not hold, was given up, or was begun again.
    #[error("the writing of blob {0} was given up")]
    Unfinished(Digest),
    /// There is no upload of this id, or no longer.
    #[error("upload {0} does not exist")]
    UploadNotFound(String),
    /// Somebody else has appended to the upload at the same place meanwhile, and was first.
    #[error("upload {id} has grown beyond {offset} bytes meanwhile")]
    Overtaken {
        /// The upload.
        id: String,
        /// Where the bytes were to go.
        offset: u64,
    },
    /// The upload breaks a limit.
    #[error("upload {id:?} has {reason}")]
    UploadRefused {
        /// The upload; no more than the beginning of an id that is too long.
        id: String,
        /// Which limit.
        reason: &'static str,
    },
    /// The record of an upload cannot be understood.
    #[error("cannot understand the record {key} of an upload")]
    UploadRecord {
        /// Where the record lies.
        key: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The work was given up because the process is ending.
    #[error("interrupted")]
    Interrupted,
}

impl BlobError {
    /// Whether the bytes are to blame, and not the store.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::WrongSize { .. } | Self::Document { .. })
    }
}
