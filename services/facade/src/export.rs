//! Images out of the cache: as a tar stream, or as a layout of their own.

use std::io::{self, Read, Write};
use std::path::Path;

use futures::TryStreamExt;
use larder_archive::OciArchive;
use larder_blobs::closure::{Closure, Scope, walk};
use larder_blobs::{Blobs, Claim};
use larder_catalog::{Catalog, Origin};
use larder_oci::{Descriptor, Kind, PlatformSet, select};
use larder_provider::{Name, ProviderError};
use larder_runtime::metrics;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{Facade, blob_error, catalog_error};

/// How an image is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// A tar stream of an OCI image layout.
    Oci,
    /// An OCI image layout in a directory.
    Layout,
}

impl Facade {
    /// Writes what `typed` names as a tar stream of an OCI image layout, known there as `name`. Without `platforms` it holds what
    /// the cache has of the image, its index byte for byte; with them, only those, and a single one as a plain image.
    /// Every byte is verified on its way: `out` is whole only when this succeeds.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Partial`],
    /// [`ProviderError::Corrupt`], [`ProviderError::Storage`] (also when `out` fails).
    pub async fn export_archive(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
        name: Option<&str>,
        out: Box<dyn Write + Send>,
    ) -> Result<(), ProviderError> {
        let (found, closure) = self.exportable(typed, platforms).await?;
        let name = name.unwrap_or(&found.name);
        let begun = OciArchive::begin(out, name, &found.descriptor);
        let mut archive = begun.map_err(|error| write_error(&error))?;
        for blob in closure.blobs {
            let content = self.blobs.read(&blob.digest).await.map_err(|error| blob_error(&error))?;
            metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
            let content = StreamReader::new(content.bytes.map_err(io::Error::other));
            let mut content = SyncIoBridge::new(content);
            let copied = tokio::task::spawn_blocking(move || {
                archive.blob(&blob.digest, blob.size, &mut content as &mut dyn Read).map(|()| archive)
            });
            archive = joined(copied.await)?;
        }
        joined(tokio::task::spawn_blocking(move || archive.finish().map(drop)).await)
    }

    /// Writes what `typed` names into the OCI image layout at `directory`, which is created, or gets the image beside what it holds.
    ///
    /// # Errors
    /// As [`Facade::export_archive`].
    pub async fn export_layout(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
        name: Option<&str>,
        directory: &Path,
    ) -> Result<(), ProviderError> {
        let (found, closure) = self.exportable(typed, platforms).await?;
        let target = Blobs::on_disk(directory).map_err(|error| blob_error(&error))?;
        let catalog = Catalog::on_disk(directory).await.map_err(|error| catalog_error(&error))?;
        for blob in closure.blobs {
            copy(&self.blobs, &target, &blob).await.map_err(|error| blob_error(&error))?;
            metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
        }
        let name = name.unwrap_or(&found.name);
        let set = catalog.set(name, &found.descriptor, Origin::Written).await;
        set.map(drop).map_err(|error| catalog_error(&error))
    }

    /// Finds what is to be exported, and refuses what is not whole.
    async fn exportable(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
    ) -> Result<(Name, Closure), ProviderError> {
        let mut found = self.require(typed).await?;
        if let Some(platforms) = platforms {
            found.descriptor = self.single(found.descriptor, platforms).await?;
        }
        let scope = platforms.map_or(Scope::Present, Scope::Wanted);
        let closure =
            walk(&self.blobs, &found.descriptor, &scope).await.map_err(|error| blob_error(&error))?;
        if let Some((digest, what)) = closure.invalid.first() {
            return Err(ProviderError::Corrupt(format!("{digest} of {typed} is damaged: {what}")));
        }
        if let Some(first) = closure.missing.first() {
            let count = closure.missing.len();
            let message = format!(
                "{count} blobs of {typed} are not in the cache, first {first}; pull it (for these platforms) first"
            );
            return Err(ProviderError::Partial(message));
        }
        if let Some(error) = platforms.and_then(|platforms| closure.uncovered(platforms)) {
            return Err(ProviderError::PlatformNotFound(error.to_string()));
        }
        Ok((found, closure))
    }

    /// The one image for the one wanted platform, if the root is an index and only one is wanted; else the root.
    async fn single(&self, root: Descriptor, platforms: &PlatformSet) -> Result<Descriptor, ProviderError> {
        let document = self.blobs.document(&root).await.map_err(|error| blob_error(&error))?;
        let (Some(document), PlatformSet::Only(wanted)) = (document, platforms) else {
            return Ok(root);
        };
        let Kind::Index(index) = document.kind() else {
            return Ok(root);
        };
        let selected = select(index, platforms).complete();
        let selected = selected.map_err(|error| ProviderError::PlatformNotFound(error.to_string()))?;
        let mut images = selected.into_iter().filter(|child| child.attests().is_none());
        match (images.next(), images.next()) {
            (Some(only), None) if wanted.len() == 1 => Ok(only),
            _ => Ok(root),
        }
    }
}

async fn copy(from: &Blobs, to: &Blobs, blob: &Descriptor) -> Result<(), larder_blobs::BlobError> {
    let Claim::Granted(mut ingest) = to.ingest(&blob.digest, Some(blob.size)).await? else {
        return Ok(());
    };
    if ingest.offset() > 0 {
        ingest.restart().await?;
    }
    let mut content = from.read(&blob.digest).await?;
    while let Some(chunk) = content.bytes.try_next().await? {
        ingest.write(chunk).await?;
    }
    ingest.commit().await.map(drop)
}

fn joined<T>(result: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, ProviderError> {
    match result {
        Ok(done) => done.map_err(|error| write_error(&error)),
        Err(_) => Err(ProviderError::Unavailable("interrupted".to_owned())),
    }
}

/// What came out of the store wrong is told apart from what could not be written.
fn write_error(error: &io::Error) -> ProviderError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<larder_blobs::BlobError>()) {
        Some(inner) => blob_error(inner),
        None => ProviderError::Storage(format!("cannot write the archive: {error}")),
    }
}
