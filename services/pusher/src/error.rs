//! Why an image could not be pushed.

use larder_blobs::BlobError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{Digest, OciError, Reference};
use larder_registry::RegistryError;
use larder_runtime::Failure;

/// Digests that a message lists.
const LISTED_MAX: usize = 5;

/// A push that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The name holds another image, and is to be kept.
    #[error(
        "{to} holds {there} and not {ours}; push with --mode merge to add to it, or with --mode replace to replace it"
    )]
    Taken {
        /// The name.
        to: Reference,
        /// What it holds.
        there: Digest,
        /// What was to be pushed.
        ours: Digest,
    },
    /// Somebody else writes the name each time.
    #[error("cannot merge with {to}: others keep writing it")]
    Contended {
        /// The name.
        to: Reference,
    },
    /// One of the two images to be merged does not say what it runs on.
    #[error(
        "cannot merge with {to}: {image} is an image for no known platform; push with --mode replace to replace it"
    )]
    Unmergeable {
        /// The name.
        to: Reference,
        /// The image.
        image: Digest,
    },
    /// Tags for architectures are wanted, and there is no tag to make them from.
    #[error(
        "cannot tag the images of single architectures of {to}: a name with a digest has no tag to begin with"
    )]
    NoTag {
        /// The name.
        to: Reference,
    },
    /// The tag for an architecture would be none.
    #[error("cannot tag the images of single architectures of {to}")]
    Tag {
        /// The name.
        to: Reference,
        /// What is wrong.
        #[source]
        source: OciError,
    },
    /// Children of the index are neither in the cache nor in the registry.
    #[error(
        "cannot push to {to}: {} of its index {} never fetched; pull it with --platform all first",
        list(.missing),
        was(.missing)
    )]
    Sparse {
        /// The name.
        to: Reference,
        /// The children.
        missing: Vec<Digest>,
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

/// The first few, and how many more there are.
fn list(digests: &[Digest]) -> String {
    let shown: Vec<&str> = digests.iter().take(LISTED_MAX).map(Digest::as_str).collect();
    match digests.len().saturating_sub(LISTED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn was(digests: &[Digest]) -> &'static str {
    if digests.len() == 1 { "was" } else { "were" }
}

impl PushError {
    fn kind(&self) -> ReasonKind {
        match self {
            Self::Taken { .. } | Self::Contended { .. } | Self::Unmergeable { .. } => ReasonKind::Conflict,
            Self::NoTag { .. } | Self::Tag { .. } => ReasonKind::Invalid,
            Self::Upstream { source, .. } => match source {
                RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => ReasonKind::Denied,
                RegistryError::Source { source } => read_failure(source),
                source if source.is_integrity() => ReasonKind::Integrity,
                _ => ReasonKind::Upstream,
            },
            Self::Sparse { .. } => ReasonKind::Incomplete,
            Self::Store { source, .. } => stored_failure(source),
            Self::Image { .. } => ReasonKind::Unsupported,
        }
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let reason = Reason::of(error.kind(), &error);
        let reason = match &error {
            PushError::Sparse { missing, .. } => reason.with_missing(missing),
            PushError::Upstream { source, .. } => reason.with_status(source.status()),
            _ => reason,
        };
        // The registry client has tried again on its own.
        Self { reason, retry_after: None }
    }
}

fn stored_failure(error: &BlobError) -> ReasonKind {
    match error {
        BlobError::NotFound(_) => ReasonKind::Incomplete,
        error if error.is_integrity() => ReasonKind::Integrity,
        _ => ReasonKind::Storage,
    }
}

/// What kept content from being read while it was sent.
fn read_failure(error: &std::io::Error) -> ReasonKind {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>());
    inner.map_or(ReasonKind::Storage, stored_failure)
}
