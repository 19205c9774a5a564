//! Looks what upstream has, without bringing it in.
//! Hears [`ImageSought`], [`BlobSought`]; says [`ImageSeen`], [`BlobSeen`]; touches `registry`, `blobs`.
//! Invariant: says that upstream has no such image or blob only when upstream says so.

use std::sync::Arc;

use actix::{Context, Handler};
use larder_blobs::BlobError;
use larder_messages::{BlobSeen, BlobSought, BlobWanted, ImageSeen, ImageSought, Job, Work};
use larder_oci::{Config, Digest, Document, Kind, MANIFEST_BYTES_MAX, Platform, Reference};
use larder_registry::RegistryError;
use larder_runtime::{Outcome, Says, on_pool};

use crate::{FetchError, Fetcher, Ports, blob};

/// Look what upstream has.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Seek {
    /// Under which name.
    pub sought: ImageSought,
    /// For which job.
    pub job: Job,
}

impl Handler<Seek> for Fetcher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Seek { sought, job }: Seek, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let seeker = Seeker { ports: &ports, job: &job, reference: &sought.reference };
            let mut seen = ImageSeen {
                id: sought.id(),
                reference: sought.reference.clone(),
                root: None,
                platforms: Vec::new(),
            };
            if let Some(root) = seeker.root(sought.platforms).await? {
                seen.platforms = root.platforms;
                seen.root = Some(root.digest);
            }
            Ok(Says::default().news(&seen))
        })
    }
}

/// Look whether upstream has a blob.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct SeekBlob {
    /// Which, and where.
    pub sought: BlobSought,
}

impl Handler<SeekBlob> for Fetcher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, SeekBlob { sought }: SeekBlob, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let size = blob_size(&ports, &sought.at).await?;
            Ok(Says::default().news(&BlobSeen { id: sought.id(), size }))
        })
    }
}

/// The size in bytes of the blob that `at` names, if upstream has it.
pub(crate) async fn blob_size(ports: &Ports, at: &Reference) -> Result<Option<u64>, FetchError> {
    let Some(digest) = at.digest() else {
        // Blobs have no tags.
        return Ok(None);
    };
    let size = ports.registry.head_blob(at, digest).await;
    size.map_err(|source| FetchError::Upstream { reference: at.clone(), source })
}

struct Seeker<'a> {
    ports: &'a Ports,
    job: &'a Job,
    reference: &'a Reference,
}

struct Root {
    digest: Digest,
    platforms: Vec<Platform>,
}

impl Seeker<'_> {
    /// What upstream has; a `HEAD` says it alone when its digest is all that is wanted, or the manifest is stored.
    async fn root(&self, platforms: bool) -> Result<Option<Root>, FetchError> {
        let head = self.ports.registry.head_manifest(self.reference).await;
        let Some(head) = head.map_err(|source| self.upstream(source))? else {
            return Ok(None);
        };
        if let (Some(digest), false) = (&head.digest, platforms) {
            return Ok(Some(Root { digest: digest.clone(), platforms: Vec::new() }));
        }
        let stored = match &head.digest {
            Some(digest) => self.stored(digest).await?,
            None => None,
        };
        let document = match stored {
            Some(document) => document,
            None => match self.ports.registry.headed_manifest(self.reference, &head).await {
                Ok(document) => document,
                Err(RegistryError::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(self.upstream(error)),
            },
        };
        let digest = self.reference.digest().cloned().or(head.digest);
        let digest = digest.unwrap_or_else(|| document.descriptor().digest);
        Ok(Some(Root { digest, platforms: self.platforms(&document).await? }))
    }

    async fn platforms(&self, document: &Document) -> Result<Vec<Platform>, FetchError> {
        match document.kind() {
            Kind::Index(index) => {
                let platforms = index.manifests.iter().filter_map(|child| child.platform.clone());
                Ok(platforms.filter(|platform| !platform.is_unknown()).collect())
            }
            Kind::Image(image) => {
                let wanted = BlobWanted::of(&image.config, self.reference);
                blob::fetch(self.ports, self.job, &wanted).await?;
                let read = self.ports.blobs.read_small(&image.config.digest, MANIFEST_BYTES_MAX as u64).await;
                let config = Config::parse(&read.map_err(|source| self.store(source))?);
                let config = config
                    .map_err(|source| FetchError::Image { reference: self.reference.clone(), source })?;
                Ok(config.platform.into_iter().collect())
            }
        }
    }

    async fn stored(&self, digest: &Digest) -> Result<Option<Document>, FetchError> {
        match self.ports.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => Ok(Document::parse(bytes, None).ok()),
            // What is damaged at rest is a reason to ask, not to fail.
            Err(BlobError::NotFound(_)) => Ok(None),
            Err(error) if error.is_integrity() => Ok(None),
            Err(error) => Err(self.store(error)),
        }
    }

    fn upstream(&self, source: RegistryError) -> FetchError {
        FetchError::Upstream { reference: self.reference.clone(), source }
    }

    fn store(&self, source: BlobError) -> FetchError {
        FetchError::Store { reference: self.reference.clone(), source }
    }
}
