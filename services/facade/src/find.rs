//! From what a person types to what is stored.

use larder_blobs::BlobError;
use larder_catalog::{CatalogError, Record};
use larder_oci::{
    Config, Descriptor, Digest, Document, Kind, MANIFEST_BYTES_MAX, OciError, Platform, Reference,
};
use larder_provider::{Change, Name, ProviderError, Root};

use crate::Facade;
use crate::error::{blob_error, catalog_error, invalid, partial};

impl Facade {
    /// Finds a name as a person types it: canonical first, then exactly as it stands in the layout.
    pub(crate) async fn find(&self, typed: &str) -> Result<Option<Name>, ProviderError> {
        let reference: Result<Reference, OciError> = typed.parse();
        if let Ok(reference) = &reference
            && let Some(found) = self.named(&reference.name()).await?
        {
            return Ok(Some(found));
        }
        if let Some(found) = self.named(typed).await? {
            return Ok(Some(found));
        }
        match reference {
            Ok(reference) => self.by_digest(&reference).await,
            // Only what can be in no layout either is an error.
            Err(_) if typed.parse::<Digest>().is_ok() => Ok(None),
            Err(error) => Err(invalid(&error)),
        }
    }

    pub(crate) async fn named(&self, name: &str) -> Result<Option<Name>, ProviderError> {
        let record = match self.catalog.resolve(name).await {
            Ok(record) => record,
            Err(CatalogError::Name(_)) => None,
            Err(error) => return Err(catalog_error(&error)),
        };
        // What another tool has written under a digest's name may be anything.
        let digest = name.rsplit_once('@').and_then(|(_, digest)| digest.parse::<Digest>().ok());
        let found = record.and_then(name_of);
        Ok(found.filter(|found| digest.is_none_or(|digest| digest == found.descriptor.digest)))
    }

    /// A manifest in the store needs no name to be found by its digest.
    async fn by_digest(&self, reference: &Reference) -> Result<Option<Name>, ProviderError> {
        let Some(digest) = reference.digest() else {
            return Ok(None);
        };
        match self.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => {
                let document = Document::parse(bytes, None).map_err(|error| invalid(&error))?;
                let platform = self.platform(&document).await?;
                let descriptor = Descriptor { digest: digest.clone(), platform, ..document.descriptor() };
                Ok(Some(Name { name: reference.name(), descriptor }))
            }
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(error) => Err(blob_error(&error)),
        }
    }

    pub(crate) async fn require(&self, typed: &str) -> Result<Name, ProviderError> {
        let found = self.find(typed).await?;
        found.ok_or_else(|| ProviderError::NotFound(format!("{typed} is not in the cache; pull it first")))
    }

    /// What `typed` names, with its manifest.
    pub(crate) async fn open(&self, typed: &str) -> Result<(Name, Document), ProviderError> {
        let found = self.require(typed).await?;
        let document = self.blobs.document(&found.descriptor).await.map_err(|error| blob_error(&error))?;
        match document {
            Some(document) => Ok((found, document)),
            None => Err(partial(typed, std::slice::from_ref(&found.descriptor.digest))),
        }
    }

    pub(crate) async fn root(&self, typed: &str) -> Result<Root, ProviderError> {
        let (Name { descriptor, .. }, document) = self.open(typed).await?;
        Ok(match document.kind() {
            Kind::Image(_) => Root::Image { descriptor },
            Kind::Index(index) => Root::Index { descriptor, children: index.manifests.clone() },
        })
    }

    /// The manifests that `typed` stands for in an index: the image it names, with its platform, or the children of the index that it
    /// names.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::Partial`], [`ProviderError::Corrupt`], [`ProviderError::Storage`].
    pub async fn manifests(&self, typed: &str) -> Result<Vec<Descriptor>, ProviderError> {
        let (Name { descriptor, .. }, document) = self.open(typed).await?;
        if let Kind::Index(index) = document.kind() {
            return Ok(index.manifests.clone());
        }
        let platform = match &descriptor.platform {
            Some(platform) => Some(platform.clone()),
            None => self.platform(&document).await?,
        };
        Ok(vec![Descriptor { platform, ..descriptor }.unnamed()])
    }

    /// What an image runs on, if its configuration is stored and says so.
    pub(crate) async fn platform(&self, document: &Document) -> Result<Option<Platform>, ProviderError> {
        let Kind::Image(image) = document.kind() else {
            return Ok(None);
        };
        if !larder_oci::media_type::is_config(&image.config.media_type) || image.artifact_type.is_some() {
            return Ok(None);
        }
        match self.blobs.read_small(&image.config.digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => {
                let config = Config::parse(&bytes);
                config
                    .map(|config| config.platform)
                    .map_err(|error| ProviderError::Corrupt(error.to_string()))
            }
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(error) => Err(blob_error(&error)),
        }
    }
}

pub(crate) fn name_of(record: Record) -> Option<Name> {
    let Record { name, descriptor, .. } = record;
    descriptor.map(|descriptor| Name { name, descriptor })
}

pub(crate) fn change(record: Record) -> Change {
    let origin = match serde_json::to_value(record.origin) {
        Ok(serde_json::Value::String(origin)) => origin,
        _ => String::new(),
    };
    Change { seq: record.seq, at_ms: record.at_ms, origin, descriptor: record.descriptor }
}
