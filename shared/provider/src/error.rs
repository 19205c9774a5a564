//! What a provider's operations can end in.

use std::time::Duration;

use larder_oci::{Digest, Platform};

/// Why an operation did not do what it was asked to. Each message tells the whole chain of causes and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// A name, reference, digest or platform that is none.
    #[error("{0}")]
    InvalidReference(String),
    /// The name or image does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The image has no manifest for a wanted platform.
    #[error("{message}")]
    PlatformNotFound {
        /// What was asked for, and what is there.
        message: String,
        /// The platforms that were asked for and are not there.
        missing: Vec<Platform>,
    },
    /// Blobs of the image are missing from the cache.
    #[error("{message}")]
    Partial {
        /// Which image, and what to do.
        message: String,
        /// The first missing blobs, at most 100.
        missing: Vec<Digest>,
    },
    /// A digest, size or manifest did not hold.
    #[error("{0}")]
    Corrupt(String),
    /// The name is held by something else, or was changed by somebody else meanwhile.
    #[error("{0}")]
    Conflict(String),
    /// An index where an image is needed, an image where an index is needed, or an index that would contain itself.
    #[error("{0}")]
    WrongKind(String),
    /// A range that starts behind the end of the content.
    #[error("{0}")]
    OutOfRange(String),
    /// The image is of a kind that larder does not take.
    #[error("{0}")]
    Unsupported(String),
    /// The cache does not let its users do this.
    #[error("{0}")]
    PermissionDenied(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Denied(String),
    /// The registry did not answer as it should, after retries.
    #[error("{message}")]
    Remote {
        /// Which registry, and what it said.
        message: String,
        /// The HTTP status it answered with; nothing when there was no answer.
        status: Option<u16>,
    },
    /// The store could not be read or written.
    #[error("{0}")]
    Storage(String),
    /// The farm did not do the work: no service of the role is running, or all that tried have died.
    #[error("{0}")]
    Unavailable(String),
    /// There was no answer in time.
    #[error("no answer after {0:?}; the work may still be going on")]
    TimedOut(Duration),
}

impl ProviderError {
    /// Whether bytes did not hold to their digest, size or specification.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Corrupt(_))
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::PlatformNotFound { .. })
    }

    /// Whether what was asked for is no valid question.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::InvalidReference(_) | Self::OutOfRange(_))
    }
}
