//! Why an image could not be pushed.

use larder_blobs::BlobError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{Digest, OciError, Reference};
use larder_registry::RegistryError;
use larder_runtime::Failure;

/// A push that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The name holds another image, and is to be kept.
    #[error("{to} holds another image; push with --mode replace to replace it")]
    Taken {
        /// The name.
        to: Reference,
    },
    /// A child of the index is neither in the cache nor in the registry.
    #[error("cannot push to {to}: {child} of its index was never fetched; pull it with --platform all first")]
    Sparse {
        /// The name.
        to: Reference,
        /// The child.
        child: Digest,
    },
    /// The registry did not take it.
    #[error("cannot push to {to}")]
    Upstream {
        /// The name.
        to: Reference,
        /// Why not.
        #[source]
        source: RegistryError,
    },
    /// It cannot be read from the store.
    #[error("cannot read what is to be pushed to {to}")]
    Store {
        /// The name.
        to: Reference,
        /// Why not.
        #[source]
        source: BlobError,
    },
    /// It is no image.
    #[error("cannot push to {to}")]
    Image {
        /// The name.
        to: Reference,
        /// Why not.
        #[source]
        source: OciError,
    },
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let kind = match &error {
            PushError::Taken { .. } => ReasonKind::Conflict,
            PushError::Upstream { source, .. } => match source {
                RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => ReasonKind::Denied,
                RegistryError::Source { source } if is_corrupt(source) => ReasonKind::Integrity,
                source if source.is_integrity() => ReasonKind::Integrity,
                _ => ReasonKind::Upstream,
            },
            PushError::Sparse { .. } | PushError::Store { source: BlobError::NotFound(_), .. } => {
                ReasonKind::Incomplete
            }
            PushError::Store { source, .. } if source.is_integrity() => ReasonKind::Integrity,
            PushError::Store { .. } => ReasonKind::Storage,
            PushError::Image { .. } => ReasonKind::Unsupported,
        };
        Self { reason: Reason::of(kind, &error), retry_after: None }
    }
}

/// Whether what was read from the store did not hold.
fn is_corrupt(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>());
    inner.is_some_and(BlobError::is_integrity)
}
