//! Archives into the cache: blobs first, proven one by one, then names.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use futures::TryStreamExt;
use larder_archive::{Found, Sink, UnpackLimits, pack_layout, unpack};
use larder_blobs::closure::{Scope, walk};
use larder_blobs::{BlobError, Blobs, Claim};
use larder_messages::{ImageStored, Naming, Reach};
use larder_oci::{Descriptor, Digest, Expected, Reference};
use larder_provider::{ByteStream, LoadOptions, Loaded, ProviderError};
use larder_runtime::metrics;
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::Facade;
use crate::error::{archive_error, blob_error, catalog_error, refuse_partial};
use crate::pipe::{self, write_error};

/// How long an image that was loaded without a name is kept for somebody to give it one.
const LEASE_TTL: Duration = Duration::from_hours(1);
/// What is handed to the store at a time.
const CHUNK_BYTES: usize = 1 << 20;
const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";

impl Facade {
    /// [`larder_provider::CacheProvider::image_load`] of the OCI image layout in `directory`.
    ///
    /// # Errors
    /// As that.
    pub async fn load_layout(
        &self,
        directory: &Path,
        options: &LoadOptions,
    ) -> Result<Vec<Loaded>, ProviderError> {
        let directory = directory.to_owned();
        if !directory.join("index.json").is_file() {
            let message = format!("{} is no OCI layout: it has no index.json", directory.display());
            return Err(ProviderError::Unsupported(message));
        }
        let archive =
            pipe::stream(move |out| pack_layout(&directory, out).map_err(|error| write_error(&error)));
        self.load(archive, options).await
    }

    pub(crate) async fn load(
        &self,
        archive: ByteStream,
        options: &LoadOptions,
    ) -> Result<Vec<Loaded>, ProviderError> {
        let _hold = self.keep(None).await?;
        let mut found = self.take_in(archive).await?;
        for image in &mut found {
            image.descriptor.media_type = self.media_type(&image.descriptor).await?;
            self.refuse_broken(&image.descriptor).await?;
        }
        let named = names(&found, options)?;
        let mut loaded = Vec::new();
        for (image, references) in found.into_iter().zip(named) {
            let descriptor = image.descriptor.unnamed();
            if references.is_empty() {
                // Nothing reaches it yet: whoever loaded it has some time to give it a name.
                let lease = self.catalog.lease(Some(&descriptor.digest), LEASE_TTL).await;
                lease.map_err(|error| catalog_error(&error))?;
            }
            for reference in &references {
                let naming = Naming::Written { expected: Expected::Any };
                self.settle(&ImageStored::written(
                    reference.clone(),
                    descriptor.clone(),
                    Reach::Sparse,
                    naming,
                ))
                .await?;
            }
            let names = references.iter().map(Reference::name).collect();
            loaded.push(Loaded { names, descriptor });
        }
        Ok(loaded)
    }

    async fn take_in(&self, archive: ByteStream) -> Result<Vec<Found>, ProviderError> {
        let stream = SyncIoBridge::new(StreamReader::new(archive.map_err(io::Error::other)));
        let mut shelf = Shelf { blobs: self.blobs.clone(), runtime: Handle::current() };
        let unpacked =
            tokio::task::spawn_blocking(move || unpack(stream, &mut shelf, &UnpackLimits::default())).await;
        match unpacked {
            Ok(found) => found.map_err(|error| archive_error(&error)),
            Err(_) => Err(ProviderError::Unavailable("interrupted".to_owned())),
        }
    }

    /// What a listed manifest is: linuxkit lists each as an index, and then its content is taken at its word.
    async fn media_type(&self, listed: &Descriptor) -> Result<String, ProviderError> {
        let as_it_says = Descriptor { media_type: String::new(), ..listed.clone() };
        let document = match self.blobs.document(listed).await {
            Err(BlobError::Document { .. }) if listed.is_manifest() => self.blobs.document(&as_it_says).await,
            read => read,
        };
        // What is wrong with it otherwise is told by a look at the whole image.
        let told = document.ok().flatten().map(|document| document.media_type().to_owned());
        Ok(told.unwrap_or_else(|| listed.media_type.clone()))
    }

    /// Refuses an image that is not whole, before any of the archive gets a name. An index may lack images, but not all of them.
    async fn refuse_broken(&self, root: &Descriptor) -> Result<(), ProviderError> {
        let scope = Scope::Present;
        let closure = walk(&self.blobs, root, &scope).await.map_err(|error| blob_error(&error))?;
        let what = root.digest.to_string();
        match refuse_partial(&what, &closure) {
            Err(ProviderError::Partial { missing, .. }) => {
                let first = missing.first().map(ToString::to_string).unwrap_or_default();
                let message = format!("the archive lacks {} blobs of {what}, first {first}", missing.len());
                Err(ProviderError::Partial { message, missing })
            }
            whole => whole,
        }
    }
}

/// The names of each image; each name may be of one image only.
fn names(found: &[Found], options: &LoadOptions) -> Result<Vec<Vec<Reference>>, ProviderError> {
    if let Some(name) = &options.name {
        return match found.len() {
            0 => Ok(Vec::new()),
            1 => refuse_other(name, &found[0].descriptor.digest).map(|()| vec![vec![name.clone()]]),
            count => Err(ProviderError::InvalidReference(format!(
                "the archive has {count} images, which cannot all be named {name}; load it without a name"
            ))),
        };
    }
    let mut taken: BTreeMap<String, &Digest> = BTreeMap::new();
    let mut all = Vec::new();
    for image in found {
        let mut references: Vec<Reference> = Vec::new();
        for name in image.names.iter().filter(|name| is_full(name, image)) {
            let reference: Reference = name.parse().map_err(|error: larder_oci::OciError| {
                ProviderError::InvalidReference(format!("the archive names an image {name:?}: {error}"))
            })?;
            let digest = &image.descriptor.digest;
            refuse_other(&reference, digest)?;
            if taken.insert(reference.name(), digest).is_some_and(|other| other != digest) {
                let message = format!("the archive gives the name {reference} to several images");
                return Err(ProviderError::InvalidReference(message));
            }
            if !references.contains(&reference) {
                references.push(reference);
            }
        }
        all.push(references);
    }
    Ok(all)
}

/// A name with a digest is that digest's alone.
fn refuse_other(name: &Reference, digest: &Digest) -> Result<(), ProviderError> {
    if name.digest().is_none_or(|own| own == digest) {
        return Ok(());
    }
    let message = format!("the archive's image is {digest}: it cannot be named {name}");
    Err(ProviderError::InvalidReference(message))
}

/// Most tools write only a tag to a layout, which says nothing without the repository.
fn is_full(name: &str, image: &Found) -> bool {
    let is_tag = image.descriptor.annotations.get(NAME_ANNOTATION).is_some_and(|own| own == name);
    !is_tag || name.contains('/')
}

/// Puts what an archive holds into the store.
struct Shelf {
    blobs: Blobs,
    runtime: Handle,
}

impl Sink for Shelf {
    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> io::Result<()> {
        if self.holds(digest, size)? {
            return io::copy(content, &mut io::sink()).map(drop);
        }
        let claim = self.runtime.block_on(self.blobs.ingest(digest, Some(size))).map_err(io::Error::other)?;
        let Claim::Granted(mut ingest) = claim else {
            return io::copy(content, &mut io::sink()).map(drop);
        };
        if ingest.offset() > 0 {
            self.runtime.block_on(ingest.restart()).map_err(io::Error::other)?;
        }
        while let Some(chunk) = chunk(content)? {
            metrics::BYTES.with_label_values(&["store_in"]).inc_by(chunk.len() as u64);
            self.runtime.block_on(ingest.write(chunk)).map_err(io::Error::other)?;
        }
        self.runtime.block_on(ingest.commit()).map(drop).map_err(io::Error::other)
    }

    fn draft(&mut self, content: &mut dyn Read) -> io::Result<(Digest, u64)> {
        let mut draft = self.runtime.block_on(self.blobs.draft()).map_err(io::Error::other)?;
        while let Some(chunk) = chunk(content)? {
            metrics::BYTES.with_label_values(&["store_in"]).inc_by(chunk.len() as u64);
            self.runtime.block_on(draft.write(chunk)).map_err(io::Error::other)?;
        }
        self.runtime.block_on(draft.commit(None)).map_err(io::Error::other)
    }
}

impl Shelf {
    /// Whether the blob is there and holds. One that does not is deleted: what comes now may mend it.
    fn holds(&self, digest: &Digest, size: u64) -> io::Result<bool> {
        let stored = self.runtime.block_on(self.blobs.size(digest)).map_err(io::Error::other)?;
        if stored != Some(size) {
            return Ok(false);
        }
        let mut reader = self.runtime.block_on(self.blobs.reader(digest)).map_err(io::Error::other)?;
        match io::copy(&mut reader, &mut io::sink()) {
            Ok(_) => {
                self.runtime.block_on(self.blobs.touch(digest)).or_else(|error| match error {
                    // What cannot be marked can be relied on all the same.
                    BlobError::NotFound(_) => Err(io::Error::other(error)),
                    _ => Ok(()),
                })?;
                Ok(true)
            }
            Err(error) if is_corrupt(&error) => {
                tracing::warn!(%digest, "a stored blob is damaged; it is written anew");
                self.runtime.block_on(self.blobs.delete(digest)).map_err(io::Error::other)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_corrupt(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<BlobError>());
    inner.is_some_and(BlobError::is_integrity)
}

/// The next bytes, as many as are handed over at a time; nothing at the end.
fn chunk(content: &mut dyn Read) -> io::Result<Option<bytes::Bytes>> {
    let mut chunk = BytesMut::zeroed(CHUNK_BYTES);
    let mut filled = 0;
    while filled < CHUNK_BYTES {
        match content.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok((filled > 0).then(|| chunk.freeze()))
}
