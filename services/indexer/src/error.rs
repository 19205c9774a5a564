//! Why a name is not what was wished.

use std::time::Duration;

use larder_blobs::BlobError;
use larder_catalog::CatalogError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{Digest, OciError};
use larder_runtime::Failure;

/// A name that could not be written, or blobs that could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The catalog refused.
    #[error("cannot change name {name}")]
    Catalog {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: CatalogError,
    },
    /// The name was written here and has something that upstream has not.
    #[error("{name} was written here and is not what upstream has; push it, or pull with --local replace")]
    Local {
        /// The name.
        name: String,
    },
    /// What is to be put together is not an index, or too large.
    #[error("cannot add to {name}")]
    Merge {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: OciError,
    },
    /// An index would contain itself.
    #[error("{digest} is what {name} points to: an index cannot contain itself")]
    Cycle {
        /// The name.
        name: String,
        /// The index.
        digest: Digest,
    },
    /// What is to get the name was deleted meanwhile.
    #[error("{} blobs of {name} were deleted before it got its name, first {}; try again", missing.len(), missing[0])]
    Vanished {
        /// The name.
        name: String,
        /// What is missing.
        missing: Vec<Digest>,
    },
    /// An index cannot be read or written.
    #[error("cannot read or write the index of {name}")]
    Store {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// What a name reaches cannot be told.
    #[error("nothing is deleted, for it cannot be told what {name} reaches; pull it again or remove it")]
    Unclear {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The store cannot be listed or written.
    #[error("cannot collect")]
    Collect(#[source] BlobError),
}

impl IndexError {
    pub(crate) fn catalog(name: &str, source: CatalogError) -> Self {
        Self::Catalog { name: name.to_owned(), source }
    }

    fn kind(&self) -> ReasonKind {
        match self {
            Self::Catalog { source, .. } => match source {
                CatalogError::Contended(_) | CatalogError::Moved { .. } => ReasonKind::Conflict,
                CatalogError::Name(_) => ReasonKind::Invalid,
                _ => ReasonKind::Storage,
            },
            Self::Vanished { .. } => ReasonKind::Incomplete,
            Self::Local { .. } => ReasonKind::Conflict,
            Self::Merge { source: OciError::NotAnIndex(_) | OciError::Empty, .. } | Self::Cycle { .. } => {
                ReasonKind::WrongKind
            }
            Self::Merge { .. } => ReasonKind::Invalid,
            Self::Unclear { .. } => ReasonKind::Integrity,
            Self::Store { source, .. } if source.is_integrity() => ReasonKind::Integrity,
            Self::Store { .. } | Self::Collect(_) => ReasonKind::Storage,
        }
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        let retry_after = match &error {
            IndexError::Catalog { source: CatalogError::Contended(_), .. } => {
                Some(Duration::from_millis(200))
            }
            IndexError::Catalog { source: CatalogError::Objects { .. }, .. }
            | IndexError::Store { source: BlobError::Objects { .. }, .. } => Some(Duration::from_secs(1)),
            _ => None,
        };
        let reason = Reason::of(error.kind(), &error);
        let reason = match &error {
            IndexError::Vanished { missing, .. } => reason.with_missing(missing),
            _ => reason,
        };
        Self { reason, retry_after }
    }
}
