//! The cache provider traits a user programs against.
//!
//! [`CacheProvider`] brings OCI images into a cache, finds them, reads their content verified, and sends them on. It is object
//! safe, and the same whether the cache is a directory of this process or a farm.

mod error;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use larder_oci::{Descriptor, Digest, Platform, PlatformSet, Reference};
use serde::Serialize;

pub use error::ProviderError;

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    /// Ask upstream whether the name still points to what is cached; costs one `HEAD` if it does.
    pub always: bool,
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

/// A name and what it points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Name {
    /// The name: a canonical reference, or what another tool has written to the layout.
    pub name: String,
    /// What it points to.
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

/// Stored content, open for reading.
pub struct Content {
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes. The stream ends in [`ProviderError::Corrupt`], never in a clean end, when they do not hash to the digest.
    pub bytes: BoxStream<'static, Result<Bytes, ProviderError>>,
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

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pushed {
    /// Where the image is.
    pub to: Reference,
    /// What was pushed, byte for byte what is stored.
    pub root: Descriptor,
    /// Blobs and manifests that had to be sent.
    pub sent_blobs: u64,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
}

/// A cache of OCI images, proven by digest.
///
/// Where a method takes `name: &str`, it is what a person types: a reference, which is expanded to its canonical form, or
/// exactly what another tool has written to the layout.
#[async_trait]
pub trait CacheProvider: Send + Sync {
    /// Brings an image into the cache for `platforms`, with their attestations. Only missing blobs are fetched; the index is kept
    /// byte for byte, even when not all of its platforms are.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Corrupt`],
    /// [`ProviderError::Denied`], [`ProviderError::Remote`], [`ProviderError::Unsupported`], [`ProviderError::Storage`].
    async fn image_pull(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError>;

    /// What `name` points to in the cache, if anything. Touches no network. A reference with a digest finds any stored manifest.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn find_descriptor(&self, name: &str) -> Result<Option<Name>, ProviderError>;

    /// How much of an image is in the cache: looks at presence and size of every blob, and reads no layer.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn image_in_cache(&self, name: &str, platforms: &PlatformSet) -> Result<Presence, ProviderError>;

    /// Looks into what `name` points to.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn inspect(&self, name: &str) -> Result<Inspection, ProviderError>;

    /// Opens stored content.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Storage`]; the stream itself may end in [`ProviderError::Corrupt`].
    async fn get_content(&self, digest: &Digest) -> Result<Content, ProviderError>;

    /// All names, in their order.
    ///
    /// # Errors
    /// [`ProviderError::Storage`].
    async fn list(&self) -> Result<Vec<Name>, ProviderError>;

    /// Every change of `name`, oldest first; empty when it never existed.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn history(&self, name: &str) -> Result<Vec<Change>, ProviderError>;

    /// Makes `name` point to nothing; `false` when it did already. Its content stays until it is collected.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn remove(&self, name: &str) -> Result<bool, ProviderError>;

    /// Re-hashes every stored byte behind `name`.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Storage`]. What does not hold is in the [`Audit`], not an error.
    async fn verify(&self, name: &str) -> Result<Audit, ProviderError>;

    /// Sends what `name` points to to a registry, byte for byte. When `to` holds something else it is kept, unless `replace`.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Conflict`], [`ProviderError::Partial`], [`ProviderError::Denied`],
    /// [`ProviderError::Remote`].
    async fn push(&self, name: &str, to: &Reference, replace: bool) -> Result<Pushed, ProviderError>;
}
