//! Why an image or a blob could not be brought in.

use larder_blobs::BlobError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{OciError, Reference};
use larder_registry::RegistryError;
use larder_runtime::Failure;

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
    /// One of its blobs was rejected.
    #[error("{}", .0.message)]
    Blob(Reason),
    /// The bus is closing.
    #[error("interrupted")]
    Interrupted,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let kind = match &error {
            FetchError::Upstream { source, .. } => upstream_kind(source),
            FetchError::Store { source, .. } if source.is_integrity() => ReasonKind::Integrity,
            FetchError::Store { .. } => ReasonKind::Storage,
            FetchError::Image { source, .. } => image_kind(source),
            FetchError::Blob(reason) => reason.kind,
            FetchError::Interrupted => ReasonKind::Abandoned,
        };
        let interrupted = matches!(error, FetchError::Interrupted);
        Self {
            reason: Reason::of(kind, &error),
            // The registry client and the object store have tried again on their own; only a lost worker is worth another.
            retry_after: interrupted.then_some(std::time::Duration::ZERO),
        }
    }
}

fn upstream_kind(error: &RegistryError) -> ReasonKind {
    match error {
        RegistryError::NotFound { .. } => ReasonKind::NotFound,
        RegistryError::Unauthorized { .. }
        | RegistryError::Denied { .. }
        | RegistryError::Credentials { .. } => ReasonKind::Denied,
        RegistryError::Unsupported { .. } => ReasonKind::Unsupported,
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
