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
    /// The stream is no tar archive from its very beginning.
    #[error("this is no tar archive")]
    NotTar,
    /// What should be the header of an entry is none.
    #[error("malformed header of the entry behind {behind:?}")]
    Header {
        /// The name of the entry before, at most 256 characters of it.
        behind: String,
    },
    /// The archive or a layer is compressed, and not with what can be inflated.
    #[error("{what} is not supported; use gzip, zstd or plain")]
    Compression {
        /// What it is compressed with.
        what: &'static str,
    },
    /// An entry cannot be read.
    #[error("cannot read entry {name:?} of the archive")]
    Within {
        /// The name of the entry, at most 256 characters of it.
        name: String,
        /// What is wrong with it.
        source: Box<ArchiveError>,
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
    /// `index.json` is no index, an image of `manifest.json` cannot be described by a manifest, or its configuration has malformed
    /// digests.
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
    /// The archive is none of images.
    #[error("no OCI layout and no docker save")]
    Unknown,
    /// `manifest.json` names as a configuration what is none, or one beyond the limits.
    #[error("{name:?} is no image configuration")]
    NotAConfig {
        /// The name of the entry, at most 256 characters of it.
        name: String,
    },
    /// `manifest.json` and a configuration differ in how many layers there are.
    #[error("manifest.json lists {listed} layers, {name:?} {configured}")]
    LayerCount {
        /// The name of the entry that is the configuration, at most 256 characters of it.
        name: String,
        /// How many `manifest.json` lists.
        listed: usize,
        /// How many the configuration has.
        configured: usize,
    },
    /// A layer does not inflate to what the configuration says.
    #[error("layer {name:?} holds {got} instead of {want}")]
    LayerContent {
        /// The name of the entry, at most 256 characters of it.
        name: String,
        /// What the configuration says.
        want: Digest,
        /// What it inflates to.
        got: Digest,
    },
    /// A layer does not inflate.
    #[error("cannot inflate layer {name:?}")]
    Inflate {
        /// The name of the entry, at most 256 characters of it.
        name: String,
        /// The cause.
        source: io::Error,
    },
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
        match self {
            Self::Within { source, .. } => source.is_unsupported(),
            Self::Legacy
            | Self::Unknown
            | Self::Compression { .. }
            | Self::TooMuch { .. }
            | Self::Limit { .. }
            | Self::Entry { .. } => true,
            _ => false,
        }
    }

    /// Whether the bytes of the archive or of a layer are to blame, and not where they came from or went to.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Within { source, .. } => source.is_integrity(),
            // What a system call fails with says nothing of the bytes.
            Self::Unreadable { source } | Self::Read { source, .. } => source.raw_os_error().is_none(),
            Self::Store { .. } | Self::Write { .. } => false,
            _ => !self.is_unsupported(),
        }
    }

    pub(crate) fn entry(layer: &Digest, name: &[u8], fault: EntryFault) -> Self {
        Self::Entry { layer: layer.clone(), name: shown(&String::from_utf8_lossy(name)), fault }
    }

    /// The same, in an entry that is called `name`; those that name an entry stay as they are.
    pub(crate) fn within(self, name: &str) -> Self {
        match self {
            Self::Unreadable { .. }
            | Self::Truncated { .. }
            | Self::TooMuch { .. }
            | Self::Bomb { .. }
            | Self::Compression { .. } => Self::Within { name: shown(name), source: Box::new(self) },
            named => named,
        }
    }

    pub(crate) fn limit(layer: &Digest, what: &'static str, max: u64) -> Self {
        Self::Limit { layer: layer.clone(), what, max }
    }
}

/// As much of the name of an entry as a message holds.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(256).collect()
}
