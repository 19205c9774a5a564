//! What can go wrong with an archive.

use std::io;

use larder_oci::{Digest, OciError};
use thiserror::Error;

use crate::EntryFault;

/// What can go wrong with an archive.
#[derive(Debug, Error)]
pub enum ArchiveError {
    // Import.
    /// The archive cannot be read, is damaged, or is none.
    #[error("cannot read the archive")]
    Unreadable {
        /// The cause.
        source: io::Error,
    },
    /// The archive ends before its end is marked.
    #[error("the archive ends early")]
    Truncated {
        /// Where this was noticed.
        source: io::Error,
    },
    /// The archive has more of something than the limits allow.
    #[error("the archive has more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        max: u64,
    },
    /// The archive inflates to more than the limits allow.
    #[error("the archive inflates to more than {ratio_max} times its size")]
    Bomb {
        /// The ratio allowed.
        ratio_max: u64,
    },
    /// A file among the blobs is not named by a digest.
    #[error("{name:?} is no name of a blob")]
    Misnamed {
        /// The name of the entry.
        name: String,
        /// What is wrong with it.
        source: OciError,
    },
    /// A link, a sparse file or a device has the name of something that must be a file.
    #[error("{name:?} is not a plain file")]
    NotAFile {
        /// The name of the entry.
        name: String,
    },
    /// A file that there is once is there twice, and not the same.
    #[error("the archive holds several {name} that differ")]
    Differs {
        /// The name of the entry.
        name: &'static str,
    },
    /// `index.json` is no index, or an image of `manifest.json` cannot be described by a manifest.
    #[error("invalid {name} in the archive")]
    Document {
        /// The name of the entry.
        name: &'static str,
        /// What is wrong with it.
        source: OciError,
    },
    /// `manifest.json` is no list of images.
    #[error("malformed manifest.json in the archive")]
    List {
        /// Where the parser stopped.
        source: serde_json::Error,
    },
    /// `manifest.json` names a file that the archive does not hold.
    #[error("manifest.json names {name:?}, which is not in the archive")]
    Absent {
        /// The name in `manifest.json`.
        name: String,
    },
    /// The archive was written by docker before version 1.10.
    #[error("unsupported archive: it has no manifest.json; save the image again with a current docker")]
    Legacy,
    /// A file of the archive was read, and not taken.
    #[error("cannot store {name:?}")]
    Store {
        /// The name of the entry.
        name: String,
        /// Why not.
        source: io::Error,
    },

    // Flattening.
    /// The stored bytes of a layer cannot be read, do not have its digest, or do not inflate.
    #[error("cannot read layer {layer}")]
    Read {
        /// The layer.
        layer: Digest,
        /// The cause.
        source: io::Error,
    },
    /// A layer is no tar archive, or is cut short.
    #[error("layer {layer} is no valid tar archive")]
    Malformed {
        /// The layer.
        layer: Digest,
    },
    /// An entry of a layer is refused.
    #[error("entry {name:?} of layer {layer} {fault}")]
    Entry {
        /// The layer.
        layer: Digest,
        /// The name of the entry, at most 256 characters of it.
        name: String,
        /// Why.
        fault: EntryFault,
    },
    /// A layer does not inflate to what the config says.
    #[error("layer {layer} inflates to {got} instead of {want}")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// What the config says.
        want: Digest,
        /// What it inflates to.
        got: Digest,
    },
    /// A layer inflates to more than the limits allow.
    #[error("layer {layer} inflates to more than {ratio_max} times its size")]
    Ratio {
        /// The layer.
        layer: Digest,
        /// The ratio allowed.
        ratio_max: u64,
    },
    /// An image has more of something than the limits allow; this layer was the last straw.
    #[error("layer {layer} takes the image beyond {max} {what}")]
    Limit {
        /// The layer.
        layer: Digest,
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        max: u64,
    },
    /// A layer has not been the same when it was read again.
    #[error("layer {layer} changed while it was read")]
    Changed {
        /// The layer.
        layer: Digest,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write {
        /// The cause.
        source: io::Error,
    },
}

impl ArchiveError {
    /// Whether the archive or a layer is of a kind or a size, or has an entry, that is not taken, though every byte of it is as it was
    /// made.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Legacy | Self::TooMuch { .. } | Self::Limit { .. } | Self::Entry { .. })
    }

    /// Whether the bytes of the archive or of a layer are to blame, and not where they came from or went to.
    pub fn is_integrity(&self) -> bool {
        match self {
            // What a system call fails with says nothing of the bytes.
            Self::Unreadable { source } | Self::Read { source, .. } => source.raw_os_error().is_none(),
            Self::Store { .. } | Self::Write { .. } => false,
            _ => !self.is_unsupported(),
        }
    }

    pub(crate) fn entry(layer: &Digest, name: &[u8], fault: EntryFault) -> Self {
        let name = String::from_utf8_lossy(name).chars().take(256).collect();
        Self::Entry { layer: layer.clone(), name, fault }
    }

    pub(crate) fn limit(layer: &Digest, what: &'static str, max: u64) -> Self {
        Self::Limit { layer: layer.clone(), what, max }
    }
}
