//! Images out of the cache into a layout of their own.

use std::fs;
use std::path::Path;

use futures::TryStreamExt;
use larder_archive::list_in_layout;
use larder_blobs::{BlobError, Blobs, Claim};
use larder_oci::{Descriptor, PlatformSet};
use larder_provider::ProviderError;
use larder_runtime::metrics;

use crate::Facade;
use crate::error::blob_error;

impl Facade {
    /// Writes what `typed` names into the OCI image layout at `directory`, which is created, or gets the image beside what it holds.
    /// Without `platforms` it holds what the cache has of the image, its index byte for byte; with them, an index of just those,
    /// and a single one as a plain image.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::PlatformNotFound`], [`ProviderError::Partial`],
    /// [`ProviderError::Corrupt`], [`ProviderError::Storage`] (also when `directory` fails).
    pub async fn export_layout(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
        name: Option<&str>,
        directory: &Path,
    ) -> Result<(), ProviderError> {
        let is_new = !directory.exists();
        refuse_strange(directory)?;
        let written = self.write_layout(typed, platforms, name, directory).await;
        if is_new && written.is_err() {
            // Nothing half-written stays.
            let _ = fs::remove_dir_all(directory);
        }
        written
    }

    async fn write_layout(
        &self,
        typed: &str,
        platforms: Option<&PlatformSet>,
        name: Option<&str>,
        directory: &Path,
    ) -> Result<(), ProviderError> {
        let excerpt = self.excerpt(typed, platforms).await?;
        let name = excerpt.archive_name(name)?;
        let target = Blobs::on_disk(directory).map_err(|error| blob_error(&error))?;
        for blob in &excerpt.blobs {
            let written = match excerpt.made.as_ref().filter(|_| blob.digest == excerpt.root.digest) {
                Some(made) => target.put(&blob.digest, made.bytes().clone()).await.map(drop),
                None => copy(&self.blobs, &target, blob).await,
            };
            written.map_err(|error| blob_error(&error))?;
            metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
        }
        let unlisted =
            |error: std::io::Error| ProviderError::Storage(format!("cannot write the layout: {error}"));
        list_in_layout(directory, &name, &excerpt.root).map_err(unlisted)?;
        if !directory.join("ledger").exists() {
            // A layout for others has no need of a place for what is unfinished.
            let _ = fs::remove_dir(directory.join("ingest"));
        }
        Ok(())
    }
}

/// Refuses a directory that holds something other than a layout.
fn refuse_strange(directory: &Path) -> Result<(), ProviderError> {
    let is_empty = fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
    if is_empty || directory.join("index.json").exists() {
        return Ok(());
    }
    let message = format!("{} is neither empty nor an OCI layout", directory.display());
    Err(ProviderError::Conflict(message))
}

async fn copy(from: &Blobs, to: &Blobs, blob: &Descriptor) -> Result<(), BlobError> {
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
