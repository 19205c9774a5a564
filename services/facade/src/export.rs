//! Images out of the cache into a layout of their own.

use std::fs;
use std::path::Path;

use futures::TryStreamExt;
use larder_archive::list_in_layout;
use larder_blobs::closure::{Scope, walk};
use larder_blobs::{BlobError, Blobs, Claim};
use larder_oci::{Descriptor, Digest, Document, Kind, PlatformSet, Reference, restrict, select};
use larder_provider::ProviderError;
use larder_runtime::metrics;

use crate::Facade;
use crate::error::{blob_error, invalid, platform_error, refuse_partial};

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
        name.map(str::parse::<Reference>).transpose().map_err(|error| invalid(&error))?;
        let (found, document) = self.open(typed).await?;
        let (root, made) = match platforms {
            Some(platforms) => chosen(typed, &found.descriptor, &document, platforms)?,
            None => (found.descriptor.clone(), None),
        };
        let target = Blobs::on_disk(directory).map_err(|error| blob_error(&error))?;
        let scope = platforms.map_or(Scope::Present, Scope::Wanted);
        let closure =
            walk(&self.blobs, &found.descriptor, &scope).await.map_err(|error| blob_error(&error))?;
        refuse_partial(typed, &closure)?;
        if let Some(error) = platforms.and_then(|platforms| closure.uncovered(platforms)) {
            return Err(platform_error(typed, error));
        }
        let closure = if made.is_none() && root.digest != found.descriptor.digest {
            walk(&self.blobs, &root, &scope).await.map_err(|error| blob_error(&error))?
        } else {
            closure
        };
        for blob in
            closure.blobs.iter().filter(|blob| made.is_none() || blob.digest != found.descriptor.digest)
        {
            copy(&self.blobs, &target, blob).await.map_err(|error| blob_error(&error))?;
            metrics::BYTES.with_label_values(&["store_out"]).inc_by(blob.size);
        }
        if let Some(made) = made {
            target.put(&root.digest, made.bytes().clone()).await.map_err(|error| blob_error(&error))?;
        }
        let name = name.unwrap_or(&found.name);
        let unlisted =
            |error: std::io::Error| ProviderError::Storage(format!("cannot write the layout: {error}"));
        list_in_layout(directory, name, &root).map_err(unlisted)?;
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

/// What stands for the wanted platforms of `root`: the one image, or an index of some, which is a new document unless it is all.
fn chosen(
    typed: &str,
    root: &Descriptor,
    document: &Document,
    platforms: &PlatformSet,
) -> Result<(Descriptor, Option<Document>), ProviderError> {
    let (Kind::Index(index), PlatformSet::Only(wanted)) = (document.kind(), platforms) else {
        return Ok((root.clone(), None));
    };
    let selected = select(index, platforms).complete().map_err(|error| platform_error(typed, error))?;
    let mut images = selected.iter().filter(|child| child.attests().is_none());
    if let (Some(only), None, 1) = (images.next(), images.next(), wanted.len()) {
        return Ok((only.clone(), None));
    }
    let kept: Vec<Digest> = selected.iter().map(|child| child.digest.clone()).collect();
    let filtered = restrict(document, &kept).map_err(|error| platform_error(typed, error))?;
    let descriptor = filtered.descriptor();
    let changed = descriptor.digest != root.digest;
    Ok(if changed { (descriptor, Some(filtered)) } else { (root.clone(), None) })
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
