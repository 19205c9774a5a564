//! Images and indexes, opened for reading. What they read is settled when they are opened: a name that is moved or removed
//! meanwhile changes nothing.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use larder_oci::{Descriptor, ImageConfig, Platform};

use crate::{ByteStream, ProviderError};

/// One image for one platform.
///
/// Every stream is verified: it ends in [`ProviderError::Corrupt`] or [`ProviderError::Partial`], never in a clean end, when a byte is
/// wrong or missing. Equal images make equal bytes.
#[async_trait]
pub trait ImageSource: Send + Sync {
    /// The image's manifest.
    fn descriptor(&self) -> &Descriptor;

    /// What it runs on, if its configuration says so.
    fn platform(&self) -> Option<&Platform>;

    /// Its configuration.
    ///
    /// # Errors
    /// [`ProviderError::Partial`], [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    async fn config(&self) -> Result<ImageConfig, ProviderError>;

    /// Its root filesystem: all layers laid over each other as one tar stream, whiteouts applied, parents before children and hard links
    /// behind what they link to (OCI image-spec, layer.md).
    ///
    /// # Errors
    /// [`ProviderError::Partial`]; the stream itself may end in any other, [`ProviderError::Unsupported`] for an archive that would
    /// write outside of its root.
    async fn tar_reader(&self) -> Result<ByteStream, ProviderError>;

    /// The image as `docker load` takes it, known there as `name` (default: the name it was opened by).
    ///
    /// # Errors
    /// [`ProviderError::InvalidReference`], [`ProviderError::Partial`]; the stream itself may end in [`ProviderError::Corrupt`].
    async fn v1_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError>;

    /// The image as an OCI archive, known there as `name` (default: the name it was opened by).
    ///
    /// # Errors
    /// As [`ImageSource::v1_tar_reader`].
    async fn oci_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError>;

    /// The SPDX predicates of the image's attestations, each byte for byte as in its in-toto statement; empty when there are none.
    ///
    /// # Errors
    /// [`ProviderError::Partial`], [`ProviderError::Corrupt`] when a statement is not what its descriptor says.
    async fn sboms(&self) -> Result<Vec<Bytes>, ProviderError>;
}

/// What a name points to, with the platforms it was opened for.
#[async_trait]
pub trait IndexSource: Send + Sync {
    /// The root: an index, or a single image.
    fn descriptor(&self) -> &Descriptor;

    /// The image for `platform`.
    ///
    /// # Errors
    /// [`ProviderError::PlatformNotFound`], [`ProviderError::Partial`].
    async fn image(&self, platform: &Platform) -> Result<Arc<dyn ImageSource>, ProviderError>;

    /// All of it as an OCI archive, known there as `name` (default: the name it was opened by). Opened for all platforms it holds what
    /// the cache has, the index byte for byte; opened for some, an index of these and their attestations.
    ///
    /// # Errors
    /// As [`ImageSource::v1_tar_reader`].
    async fn oci_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError>;
}
