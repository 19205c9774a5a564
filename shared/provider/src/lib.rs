//! The cache provider traits a user programs against.
//!
//! [`CacheProvider`] brings OCI images into a cache, finds them, takes what builds produce, and sends it on. [`ImageSource`] and
//! [`IndexSource`] read one image or index, as tar streams of several shapes; [`ContentStore`] reads single blobs. All of it is
//! object safe, and the same whether the cache is a directory of this process or a farm.
//!
//! What holds for every implementation:
//!
//! - Nothing is visible under a digest or a name before all of it is stored, proven and durable.
//! - A stream's clean end means that every byte held to its digest.
//! - A failed operation has changed no name, and the same operation can be tried again.
//!
//! ```no_run
//! use larder_provider::{CacheProvider, ProviderError, PullOptions, PushOptions};
//!
//! async fn publish(cache: &dyn CacheProvider) -> Result<(), ProviderError> {
//!     let base = "debian:12".parse().expect("a constant reference");
//!     let host = larder_oci::PlatformSet::host();
//!     cache.image_pull(&base, &host, &PullOptions::default()).await?;
//!     let options = PushOptions {
//!         remote: "registry.example.org/base/debian:12".parse().ok(),
//!         ..PushOptions::default()
//!     };
//!     cache.push("debian:12", &options).await?;
//!     Ok(())
//! }
//! ```

mod content;
mod error;
mod outcome;
mod source;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use larder_oci::{Descriptor, Digest, Platform, PlatformSet, Reference};

pub use content::{ByteStream, Content, ContentStore, ContentWriter, Info};
pub use error::ProviderError;
pub use larder_oci::{Expected, OnLocal, PushMode};
pub use outcome::{
    Audit, Change, Cleaned, Collected, Inspection, LoadOptions, Loaded, Name, Part, Presence, Progress,
    PullOptions, Pulled, PushOptions, Pushed, Root, Watch, WriteOptions,
};
pub use source::{ImageSource, IndexSource};

/// A cache of OCI images, proven by digest.
///
/// Where a method takes `name: &str`, it is what a person types: a reference, which is expanded to its canonical form
/// (`alpine` is `docker.io/library/alpine:latest`), or exactly what another tool has written to the layout. A digest in it decides
/// alone; a tag beside it is ignored. Where it takes platforms, naming none is naming all.
#[async_trait]
pub trait CacheProvider: Send + Sync {
    /// What `name` points to in the cache, if anything. Touches no network. A reference with a digest finds any stored manifest, also a
    /// child of an index, with its platform.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn find_descriptor(&self, name: &str) -> Result<Option<Name>, ProviderError>;

    /// What `name` points to, read: an image, or an index with its children.
    ///
    /// # Errors
    /// As [`CacheProvider::find_descriptor`], [`ProviderError::NotFound`], and [`ProviderError::Partial`] when its manifest is missing.
    async fn find_root(&self, name: &str) -> Result<Root, ProviderError>;

    /// Brings an image into the cache for `platforms`, with their attestations. Only missing blobs are fetched; the index is kept
    /// byte for byte, even when not all of its platforms are.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Corrupt`], [`ProviderError::Conflict`],
    /// [`ProviderError::Denied`], [`ProviderError::Remote`], [`ProviderError::Unsupported`], [`ProviderError::Storage`].
    async fn image_pull(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError>;

    /// How much of an image is in the cache: looks at presence and size of every blob, and reads no layer.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn image_in_cache(&self, name: &str, platforms: &PlatformSet) -> Result<Presence, ProviderError>;

    /// [`CacheProvider::image_in_cache`] for many at once, answered in their order.
    ///
    /// # Errors
    /// The first of them.
    async fn images_in_cache(&self, wanted: &[(String, PlatformSet)])
    -> Result<Vec<Presence>, ProviderError>;

    /// Whether the registry has the image for all of `platforms`. Costs a `HEAD`, and a `GET` or two when the cache does not know
    /// the manifest.
    ///
    /// # Errors
    /// [`ProviderError::Denied`], [`ProviderError::Remote`]: a registry that does not answer is not taken for one that has
    /// no image.
    async fn image_in_registry(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
    ) -> Result<bool, ProviderError>;

    /// Re-hashes every stored byte of an image for `platforms`, and returns what `name` points to when all of it is there and holds.
    /// Touches no network.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Partial`], [`ProviderError::Corrupt`],
    /// [`ProviderError::Storage`].
    async fn validate_image(&self, name: &str, platforms: &PlatformSet) -> Result<Descriptor, ProviderError>;

    /// Adds `manifests` to the index that `reference` points to, or makes it: a manifest takes the place of the one for the same platform
    /// (system, architecture, variant, version and features), attestations follow their image, and those of images no longer
    /// there are dropped. Any number of writers can add theirs at the same time, in any order: nothing is lost, and the digest in the end
    /// is the same. Returns what `reference` points to then.
    ///
    /// # Errors
    /// [`ProviderError::WrongKind`] when `reference` points to a single image, when there are no manifests, or when one of them is the
    /// index itself; [`ProviderError::Partial`] when one of them is not stored, unless sparse ones are allowed;
    /// [`ProviderError::Conflict`] when what it pointed to was not what was expected; [`ProviderError::Storage`].
    async fn index_write(
        &self,
        reference: &Reference,
        manifests: &[Descriptor],
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError>;

    /// Takes an archive in: an OCI layout or a `docker save`, as a tar stream, plain or compressed with gzip or zstd. Every blob is
    /// proven; no name is given before all of the stream has come and every image in it is whole. Returns its images in their order.
    ///
    /// # Errors
    /// [`ProviderError::Corrupt`], [`ProviderError::Unsupported`], [`ProviderError::Partial`],
    /// [`ProviderError::InvalidReference`] when one name is given for several images, [`ProviderError::Storage`].
    async fn image_load(
        &self,
        archive: ByteStream,
        options: &LoadOptions,
    ) -> Result<Vec<Loaded>, ProviderError>;

    /// Points `reference` to `descriptor`, whose content must be stored. Doing it twice changes nothing. Returns what it points to,
    /// the annotations that layouts use for names left out.
    ///
    /// # Errors
    /// [`ProviderError::Conflict`] when the name does not point to what was expected, [`ProviderError::Partial`],
    /// [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn descriptor_write(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError>;

    /// Sends what `name` points to to a registry: byte for byte, unless it is merged with what is there. Changes nothing in the cache.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Conflict`], [`ProviderError::Partial`], [`ProviderError::Denied`],
    /// [`ProviderError::Remote`].
    async fn push(&self, name: &str, options: &PushOptions) -> Result<Pushed, ProviderError>;

    /// Opens the image that `name` points to for `platform`.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Partial`], [`ProviderError::Corrupt`],
    /// [`ProviderError::Storage`].
    async fn new_source(
        &self,
        name: &str,
        platform: &Platform,
    ) -> Result<Arc<dyn ImageSource>, ProviderError>;

    /// Opens what `name` points to for `platforms`.
    ///
    /// # Errors
    /// As [`CacheProvider::new_source`].
    async fn new_index_source(
        &self,
        name: &str,
        platforms: &PlatformSet,
    ) -> Result<Arc<dyn IndexSource>, ProviderError>;

    /// Opens stored content.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Storage`]; the stream itself may end in [`ProviderError::Corrupt`].
    async fn get_content(&self, digest: &Digest) -> Result<Content, ProviderError>;

    /// The content store behind the cache.
    fn store(&self) -> Arc<dyn ContentStore>;

    /// Looks into what `name` points to.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn inspect(&self, name: &str) -> Result<Inspection, ProviderError>;

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

    /// Makes `name` point to nothing; `false` when it did already. Its content stays until it is collected, and what another name or an
    /// open source reaches stays then, too.
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Storage`].
    async fn remove(&self, name: &str) -> Result<bool, ProviderError>;

    /// Removes all names; with `published_only` those that their registry has with the same digest. A name whose registry does not answer
    /// is kept.
    ///
    /// # Errors
    /// [`ProviderError::Storage`].
    async fn clean(&self, published_only: bool) -> Result<Vec<Cleaned>, ProviderError>;

    /// Deletes blobs that no name and no open source reaches and that were not used for `grace`; with `dry_run` only counts them.
    ///
    /// # Errors
    /// [`ProviderError::Storage`].
    async fn collect(&self, grace: Duration, dry_run: bool) -> Result<Collected, ProviderError>;

    /// Re-hashes every stored byte behind `name`.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Storage`]. What does not hold is in the [`Audit`], not an error.
    async fn verify(&self, name: &str) -> Result<Audit, ProviderError>;
}
