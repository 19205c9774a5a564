//! What can go wrong with names.

use std::path::PathBuf;

use larder_oci::Digest;

use crate::Expected;

/// A name that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// Others kept changing the name, or the view, at the same time.
    #[error("{0} is being changed by too many writers at once; try again")]
    Contended(String),
    /// The name does not point to what the change was made for; somebody else has changed it.
    #[error("{name} points to {}, not to {expected}", found.as_ref().map_or("nothing", Digest::as_str))]
    Moved {
        /// The name.
        name: String,
        /// What it had to point to.
        expected: Expected,
        /// What it points to.
        found: Option<Digest>,
    },
    /// A name that no ledger can hold.
    #[error("invalid name {0:?}: a name is 1 to 512 bytes without control characters")]
    Name(String),
    /// What is said of a blob would be more than is kept.
    #[error("the labels of {0} would have more than 4 MiB")]
    Labels(Digest),
    /// A record is not what larder writes.
    #[error("record {key} of the ledger is damaged")]
    Record {
        /// Where it is.
        key: String,
        /// Where the parser stopped.
        #[source]
        source: serde_json::Error,
    },
    /// `index.json` cannot be read and there is no ledger to rebuild it from.
    #[error("{} is no OCI image index; move it away to start with an empty one", path.display())]
    Layout {
        /// Where it is.
        path: PathBuf,
        /// Where the parser stopped.
        #[source]
        source: serde_json::Error,
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
    /// The object store refused.
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
    /// The work was given up because the process is ending.
    #[error("interrupted")]
    Interrupted,
}
