//! What a provider's operations can end in.

use std::time::Duration;

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
    #[error("{0}")]
    PlatformNotFound(String),
    /// Blobs of the image are missing from the cache.
    #[error("{0}")]
    Partial(String),
    /// A digest, size or manifest did not hold.
    #[error("{0}")]
    Corrupt(String),
    /// The name is held by something else.
    #[error("{0}")]
    Conflict(String),
    /// The image is of a kind that larder does not take.
    #[error("{0}")]
    Unsupported(String),
    /// The registry wants other credentials.
    #[error("{0}")]
    Denied(String),
    /// The registry did not answer as it should, after retries.
    #[error("{0}")]
    Remote(String),
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
        matches!(self, Self::NotFound(_) | Self::PlatformNotFound(_))
    }
}
