//! Why an image or a blob could not be brought in.

use std::time::Duration;

use larder_blobs::BlobError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{OciError, Reference};
use larder_registry::RegistryError;
use larder_runtime::Failure;

/// How long to leave an object store alone that could not be reached.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// A fetch that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The registry did not give it.
    #[error("cannot fetch {reference}")]
    Upstream {
        /// What was asked for.
        reference: Reference,
        /// Why not.
        #[source]
        source: RegistryError,
    },
    /// It did not hold, or could not be stored.
    #[error("cannot store {reference}")]
    Store {
        /// Where it came from.
        reference: Reference,
        /// Why not.
        #[source]
        source: BlobError,
    },
    /// The image is not one that was wanted, or not one at all.
    #[error("cannot take {reference}")]
    Image {
        /// The image.
        reference: Reference,
        /// Why not.
        #[source]
        source: OciError,
    },
    /// It does not end, and nobody says how long it is.
    #[error("{reference} goes on after {limit_bytes} bytes, and nobody says how long it is")]
    Endless {
        /// What was asked for.
        reference: Reference,
        /// How many bytes are put up with.
        limit_bytes: u64,
    },
    /// One of its blobs was rejected.
    #[error("{}", .0.message)]
    Blob(Reason),
    /// The bus is closing.
    #[error("interrupted")]
    Interrupted,
}

impl FetchError {
    /// Whether what came did not hold to its digest or size.
    pub(crate) fn is_integrity(&self) -> bool {
        match self {
            Self::Upstream { source, .. } => source.is_integrity(),
            Self::Store { source, .. } => source.is_integrity(),
            _ => false,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let kind = match &error {
            FetchError::Upstream { source, .. } => upstream_kind(source),
            FetchError::Endless { .. } => ReasonKind::Upstream,
            FetchError::Store { source, .. } if source.is_integrity() => ReasonKind::Integrity,
            FetchError::Store { .. } => ReasonKind::Storage,
            FetchError::Image { source, .. } => image_kind(source),
            FetchError::Blob(reason) => reason.kind,
            FetchError::Interrupted => ReasonKind::Abandoned,
        };
        let retry_after = match &error {
            FetchError::Interrupted => Some(Duration::ZERO),
            // An object store that restarts is away for longer than its client tries.
            FetchError::Store { source: BlobError::Objects { .. }, .. } => Some(STORE_RETRY),
            // The registry client has tried again on its own, and a disk does not get better.
            _ => None,
        };
        let reason = match &error {
            FetchError::Blob(reason) => reason.clone(),
            FetchError::Upstream { source, .. } => Reason::of(kind, &error).with_status(source.status()),
            FetchError::Image { source: OciError::PlatformNotFound { wanted, .. }, .. } => {
                Reason::of(kind, &error).with_platforms(wanted)
            }
            _ => Reason::of(kind, &error),
        };
        Self { reason, retry_after }
    }
}

fn upstream_kind(error: &RegistryError) -> ReasonKind {
    match error {
        RegistryError::NotFound { .. } => ReasonKind::NotFound,
        RegistryError::Unauthorized { .. }
        | RegistryError::Denied { .. }
        | RegistryError::Credentials { .. } => ReasonKind::Denied,
        RegistryError::Unsupported { .. } => ReasonKind::Unsupported,
        RegistryError::InvalidDocument { .. } => ReasonKind::Integrity,
        error if error.is_integrity() => ReasonKind::Integrity,
        _ => ReasonKind::Upstream,
    }
}

fn image_kind(error: &OciError) -> ReasonKind {
    match error {
        OciError::PlatformNotFound { .. } => ReasonKind::PlatformNotFound,
        OciError::Unsupported(_) => ReasonKind::Unsupported,
        _ => ReasonKind::Integrity,
    }
}
