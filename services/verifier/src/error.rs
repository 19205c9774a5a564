//! Why an image gets no name.

use std::time::Duration;

use larder_blobs::BlobError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{Digest, OciError, Reference};
use larder_runtime::Failure;

/// An image that does not hold, or a store that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A blob of the image is not there, or has another size than its parent says.
    #[error("{reference} is incomplete: {} of its blobs missing, first {}", .missing.len(), first(.missing))]
    Incomplete {
        /// The image.
        reference: Reference,
        /// What is missing.
        missing: Vec<Digest>,
    },
    /// None of the images of its index is there.
    #[error("{reference} has no image of its index in the cache")]
    Hollow {
        /// The image.
        reference: Reference,
    },
    /// Manifest and configuration disagree, or the platform is not there.
    #[error("{reference} does not hold")]
    Image {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: OciError,
    },
    /// A blob cannot be read, or does not hold.
    #[error("cannot verify {reference}")]
    Store {
        /// The image.
        reference: Reference,
        /// Why.
        #[source]
        source: BlobError,
    },
}

fn first(missing: &[Digest]) -> String {
    missing.first().map(ToString::to_string).unwrap_or_default()
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let kind = match &error {
            VerifyError::Incomplete { .. } | VerifyError::Hollow { .. } => ReasonKind::Incomplete,
            VerifyError::Image { source: OciError::PlatformNotFound { .. }, .. } => {
                ReasonKind::PlatformNotFound
            }
            VerifyError::Image { .. } => ReasonKind::Integrity,
            VerifyError::Store { source, .. } if source.is_integrity() => ReasonKind::Integrity,
            VerifyError::Store { .. } => ReasonKind::Storage,
        };
        let retry_after = (kind == ReasonKind::Storage).then_some(Duration::from_secs(1));
        let reason = match &error {
            VerifyError::Incomplete { missing, .. } => Reason::of(kind, &error).with_missing(missing),
            VerifyError::Image { source: OciError::PlatformNotFound { wanted, .. }, .. } => {
                Reason::of(kind, &error).with_platforms(wanted)
            }
            _ => Reason::of(kind, &error),
        };
        Self { reason, retry_after }
    }
}
