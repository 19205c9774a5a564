//! What operations are told, and what they tell.

use std::sync::Arc;

use larder_oci::{Descriptor, Digest, Expected, OnLocal, Platform, PushMode, Reference};
use serde::{Deserialize, Serialize};

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Ask upstream whether the name still points to what is cached; costs one `HEAD` if it does.
    pub always: bool,
    /// Also name each image of an index `NAME-ARCH[VARIANT]`, as `linuxkit cache pull` does.
    pub arch_names: bool,
    /// What happens to a name that was written here when upstream has something else.
    pub local: OnLocal,
    /// Hears how far each blob is.
    pub watch: Option<Arc<dyn Watch>>,
}

/// Hears how a pull goes. Called often and from any thread: it must not block.
pub trait Watch: Send + Sync {
    /// A blob has come this far.
    fn progress(&self, blob: &Progress);
}

/// How far a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes received so far.
    pub received_bytes: u64,
    /// Whether it is stored, its digest proven.
    pub stored: bool,
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Pulled {
    /// All was there; no network was touched, or upstream confirmed that nothing has changed.
    AlreadyPresent {
        /// What the name points to.
        root: Descriptor,
    },
    /// Something was brought in.
    Pulled {
        /// What the name points to.
        root: Descriptor,
        /// Blobs and manifests of the image, as far as wanted.
        blobs: u64,
        /// Their size in bytes.
        bytes: u64,
        /// How many of them came from upstream for this pull.
        fetched_blobs: u64,
        /// Bytes received from upstream for them.
        fetched_bytes: u64,
    },
}

impl Pulled {
    /// What the name points to.
    pub fn root(&self) -> &Descriptor {
        match self {
            Self::AlreadyPresent { root } | Self::Pulled { root, .. } => root,
        }
    }
}

/// How much of an image is in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "presence", rename_all = "snake_case")]
pub enum Presence {
    /// The cache has no such name.
    Absent,
    /// It has the image, but not for a wanted platform.
    WrongPlatform {
        /// What it has.
        present: Vec<Platform>,
    },
    /// Some of it is missing, or has the wrong size.
    Partial {
        /// The blobs concerned.
        missing: Vec<Digest>,
    },
    /// All of it is there.
    Complete,
}

impl Presence {
    /// Whether all of it is there.
    pub fn is_complete(&self) -> bool {
        *self == Self::Complete
    }
}

/// A name and what it points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The name: a canonical reference, or what another tool has written to the layout.
    pub name: String,
    /// What it points to.
    pub descriptor: Descriptor,
}

/// What a name points to, read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Root {
    /// One image.
    Image {
        /// Its manifest.
        descriptor: Descriptor,
    },
    /// An index of several.
    Index {
        /// The index.
        descriptor: Descriptor,
        /// Its children, in the order of the document.
        children: Vec<Descriptor>,
    },
}

/// How to give a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// What the name must point to before.
    pub expected: Expected,
    /// Take an index of which children are missing, as long as one image is whole.
    pub allow_sparse: bool,
}

/// How to load an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The name for its one image, instead of those that the archive gives.
    pub name: Option<Reference>,
}

/// One image of an archive that was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// The names it was given; none when the archive has no full one.
    pub names: Vec<String>,
    /// What it is.
    pub descriptor: Descriptor,
}

/// One change of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its place in the name's history, from 1.
    pub seq: u64,
    /// When, in milliseconds since 1970 by the writer's clock.
    pub at_ms: u64,
    /// By whom: `pulled`, `written`, `adopted` (another tool), `removed`.
    pub origin: String,
    /// What the name points to since; nothing when it was removed.
    pub descriptor: Option<Descriptor>,
}

/// One image within what a name points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// Whether all of it is there.
    pub present: bool,
    /// Its configuration and layers, lowest first; empty when its manifest is not there.
    pub blobs: Vec<Descriptor>,
}

/// What a name points to, looked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The name.
    pub name: String,
    /// What it points to.
    pub descriptor: Descriptor,
    /// Whether platforms of its index were never fetched.
    pub sparse: bool,
    /// Its images: one, or those of its index.
    pub parts: Vec<Part>,
}

/// What a re-hash at rest found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// The name.
    pub name: String,
    /// Blobs read.
    pub blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Children of indexes that were never fetched.
    pub absent_platforms: u64,
    /// What is wrong, at most 100 entries; empty when all holds.
    pub problems: Vec<String>,
}

/// How to push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// The name in the registry; the same as in the cache if there is none.
    pub remote: Option<Reference>,
    /// What to do when that is taken.
    pub mode: PushMode,
    /// With [`PushMode::IfAbsent`], leave what is there instead of failing.
    pub skip_if_exists: bool,
    /// Also tag each image of an index `TAG-ARCH[VARIANT]`.
    pub arch_tags: bool,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// Where the image is.
    pub to: Reference,
    /// What is there now: byte for byte what is stored, unless something was merged.
    pub root: Descriptor,
    /// Whether the registry had it, or something else that was left alone.
    pub skipped: bool,
    /// What was there before, when it was merged with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merged_from: Option<Digest>,
    /// The tags of single images that were set.
    pub tags: Vec<String>,
    /// Blobs and manifests that had to be sent.
    pub sent_blobs: u64,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
    /// Blobs that the registry took over from another of its repositories.
    pub mounted_blobs: u64,
}

/// What a clean-up of names did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Cleaned {
    /// The name was removed.
    Removed {
        /// The name.
        name: String,
    },
    /// It was kept.
    Kept {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// What a collection of unreachable blobs did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Blobs that a name or a lease reaches.
    pub kept_blobs: u64,
    /// Their size in bytes.
    pub kept_bytes: u64,
    /// Unreachable blobs, deleted.
    pub deleted_blobs: u64,
    /// Their size in bytes.
    pub deleted_bytes: u64,
    /// Unreachable blobs that were used too recently to be deleted.
    pub young_blobs: u64,
    /// Unfinished writes, deleted.
    pub unfinished: u64,
}
