//! What can be wrong with a document, a digest or a name.

use crate::Platform;

/// A digest, reference, platform or manifest that does not hold to its specification.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// A digest is malformed, or its algorithm is not sha256 or sha512.
    #[error("invalid digest {0:?}: expected sha256:<64 lower-case hex> or sha512:<128 lower-case hex>")]
    Digest(String),
    /// A reference does not follow the distribution grammar.
    #[error("invalid reference {reference:?}: {reason}")]
    Reference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A platform is not `os/arch[/variant]`.
    #[error("invalid platform {0:?}: expected os/arch[/variant], for example linux/amd64, or all")]
    Platform(String),
    /// A manifest is larger than [`crate::MANIFEST_BYTES_MAX`].
    #[error("manifest of {bytes} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A manifest has more children than [`crate::INDEX_DESCRIPTORS_MAX`], or indexes nest too deep.
    #[error("manifest has too many {what}: the limit is {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// A manifest could be read as an image and as an index, or its type disagrees with its content.
    #[error("ambiguous manifest: {0}")]
    Ambiguous(String),
    /// A document is not valid JSON of its kind.
    #[error("malformed {what}")]
    Malformed {
        /// Which document.
        what: &'static str,
        /// Where the parser stopped.
        #[source]
        source: serde_json::Error,
    },
    /// The image is of a kind that larder does not take.
    #[error("unsupported manifest type {0:?}: {advice}", advice = advice(.0))]
    Unsupported(String),
    /// What should be an index is a single image.
    #[error("{0} is a single image, not an index")]
    NotAnIndex(crate::Digest),
    /// An index was to be made of nothing.
    #[error("an index needs at least one manifest")]
    Empty,
    /// None of the manifest's children is for a wanted platform.
    #[error(
        "no manifest for {}; the image has {}",
        list(.wanted),
        if .present.is_empty() { "no platforms".to_owned() } else { list(.present) }
    )]
    PlatformNotFound {
        /// What was asked for and is not there.
        wanted: Vec<Platform>,
        /// What is there.
        present: Vec<Platform>,
    },
}

fn advice(media_type: &str) -> &'static str {
    if crate::media_type::is_schema1(media_type) {
        "docker image manifest schema 1 carries no digests of its layers' content; re-push the image with a current tool"
    } else {
        "expected an OCI image manifest or index, or a docker schema 2 manifest or list"
    }
}

fn list(platforms: &[Platform]) -> String {
    let shown: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    shown.join(", ")
}
