//! Brings one image in: resolves it, finds what is missing, and has each missing blob brought in once.
//! Hears [`ImageWanted`]; says [`BlobWanted`], [`ImageStored`]; touches `registry`, `blobs`.
//! Invariant: says [`ImageStored`] only when every wanted blob is committed; of a shallow wish, the manifest it begins with.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler};
use bytes::Bytes;
use larder_blobs::BlobError;
use larder_messages::{
    BlobProgress, BlobRejected, BlobStored, BlobWanted, Fetched, ImageProgress, ImageStored, ImageWanted,
    Job, Naming, Reach, topic,
};
use larder_oci::{
    Config, Descriptor, Digest, Document, Kind, MANIFEST_BYTES_MAX, OciError, PlatformSet, media_type,
};
use larder_registry::{Head, RegistryError};
use larder_runtime::{Ear, Outcome, Says, on_pool};

use crate::plan::Plan;
use crate::{FetchError, Fetcher, Ports};

/// How often a wait for blobs looks at the store by itself and asks again, in case news were lost.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(2);

/// Fetch the image that is wanted.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct FetchImage {
    /// Which.
    pub wanted: ImageWanted,
    /// For which job.
    pub job: Job,
}

impl Handler<FetchImage> for Fetcher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, FetchImage { wanted, job }: FetchImage, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let mut fetch = Fetch { ports: &ports, job: &job, wanted: &wanted, fetched: Fetched::default() };
            let stored = fetch.image().await?;
            Ok(Says::default().work(&stored))
        })
    }
}

pub(crate) struct Fetch<'a> {
    pub(crate) ports: &'a Ports,
    pub(crate) job: &'a Job,
    pub(crate) wanted: &'a ImageWanted,
    pub(crate) fetched: Fetched,
}

impl Fetch<'_> {
    pub(crate) async fn image(&mut self) -> Result<ImageStored, FetchError> {
        let (root, document) = self.resolve().await?;
        self.ports.resolved.remember(self.job.id, &root);
        self.count(std::slice::from_ref(&root));
        if self.wanted.shallow {
            return Ok(self.stored(root, Reach::Root));
        }
        self.refuse_wrong_platform(&document).await?;
        let mut plan = Plan::new(self.wanted.platforms.clone());
        plan.add(&document).map_err(|source| self.image_error(source))?;
        loop {
            let level = plan.next_level().map_err(|source| self.image_error(source))?;
            if level.is_empty() {
                break;
            }
            if let Some(large) = level.iter().find(|child| child.size > MANIFEST_BYTES_MAX as u64) {
                let bytes = usize::try_from(large.size).unwrap_or(usize::MAX);
                return Err(self.image_error(OciError::TooLarge { bytes, max: MANIFEST_BYTES_MAX }));
            }
            self.count(&level);
            self.bring(&level).await?;
            for child in &level {
                let document = self.stored_document(child).await?;
                plan.add(&document).map_err(|source| self.image_error(source))?;
            }
        }
        plan.refuse_missing().map_err(|source| self.image_error(source))?;
        self.count(&plan.blobs);
        self.bring(&plan.blobs).await?;
        Ok(self.stored(root, Reach::Whole))
    }

    fn stored(&self, root: Descriptor, reach: Reach) -> ImageStored {
        ImageStored {
            wanted: self.wanted.wanted_id(),
            reference: self.wanted.reference.clone(),
            root,
            platforms: self.wanted.platforms.clone(),
            reach,
            naming: Naming::Pulled { local: self.wanted.local },
            fetched: self.fetched,
        }
    }

    /// Finds what the reference points to, and stores it.
    async fn resolve(&mut self) -> Result<(Descriptor, Document), FetchError> {
        let reference = &self.wanted.reference;
        if let Some(root) = self.ports.resolved.root(self.job.id)
            && let Some(bytes) = self.stored_bytes(&root.digest).await?
        {
            let document = Document::parse(bytes, Some(&root.media_type));
            return Ok((root, document.map_err(|source| self.image_error(source))?));
        }
        // What a digest names does not change.
        let is_fixed = !self.wanted.revalidate || reference.digest().is_some();
        if let Some(known) = self.wanted.known.as_ref().filter(|_| is_fixed)
            && let Some(bytes) = self.stored_bytes(&known.digest).await?
        {
            let document = Document::parse(bytes, Some(&known.media_type));
            return Ok((known.clone(), document.map_err(|source| self.image_error(source))?));
        }
        if let Some(digest) = reference.digest()
            && let Some(bytes) = self.stored_bytes(digest).await?
        {
            let document = Document::parse(bytes, None).map_err(|source| self.image_error(source))?;
            return Ok((describe(&document, Some(digest)), document));
        }
        let head = self.head().await?;
        if let Some(stored) = self.headed(head.as_ref()).await? {
            return Ok(stored);
        }
        let got = match &head {
            Some(head) => self.ports.registry.headed_manifest(reference, head).await,
            None => self.ports.registry.manifest(reference).await,
        };
        let document = got.map_err(|source| self.upstream_error(source))?;
        let root = describe(&document, reference.digest());
        self.fetched.fetched_blobs += 1;
        self.fetched.fetched_bytes += root.size;
        let put = self.ports.blobs.put(&root.digest, document.bytes().clone()).await;
        put.map_err(|source| self.store_error(source))?;
        Ok((root, document))
    }

    /// What upstream says it has under the tag, for some registries bill manifests but not this question; `None` where only the
    /// manifest itself can tell.
    async fn head(&self) -> Result<Option<Head>, FetchError> {
        let reference = &self.wanted.reference;
        if reference.digest().is_some() {
            return Ok(None);
        }
        match self.ports.registry.head_manifest(reference).await {
            Ok(Some(head)) => Ok(Some(head)),
            Ok(None) => {
                let what = reference.to_string();
                Err(self.upstream_error(RegistryError::NotFound { what }))
            }
            // A refusal has no words here: to ask for the manifest tells the reason, or that only the question was wrong.
            Err(error) if error.status().is_some_and(is_refusal) => Ok(None),
            Err(error) => Err(self.upstream_error(error)),
        }
    }

    /// The manifest that `head` is of, if it is stored.
    async fn headed(&self, head: Option<&Head>) -> Result<Option<(Descriptor, Document)>, FetchError> {
        let Some(digest) = head.and_then(|head| head.digest.as_ref()) else {
            return Ok(None);
        };
        let Some(bytes) = self.stored_bytes(digest).await? else {
            return Ok(None);
        };
        let known = self.wanted.known.as_ref().filter(|known| known.digest == *digest);
        // What is stored under a digest that a registry names may be anything.
        let document = Document::parse(bytes, known.map(|known| known.media_type.as_str())).ok();
        Ok(document.map(|document| {
            let root = known.cloned().unwrap_or_else(|| describe(&document, Some(digest)));
            (root, document)
        }))
    }

    async fn stored_bytes(&self, digest: &Digest) -> Result<Option<Bytes>, FetchError> {
        match self.ports.blobs.read_small(digest, MANIFEST_BYTES_MAX as u64).await {
            Ok(bytes) => Ok(Some(bytes)),
            // What is too large for a manifest is whole, and something else.
            Err(BlobError::NotFound(_) | BlobError::WrongSize { .. }) => Ok(None),
            Err(error) if error.is_integrity() => {
                tracing::warn!(%digest, %error, "a stored document is damaged; it is fetched again");
                self.ports.blobs.delete(digest).await.map_err(|source| self.store_error(source))?;
                Ok(None)
            }
            Err(error) => Err(self.store_error(error)),
        }
    }

    async fn stored_document(&self, at: &Descriptor) -> Result<Document, FetchError> {
        let document = self.ports.blobs.document(at).await.map_err(|source| self.store_error(source))?;
        document.ok_or_else(|| self.store_error(BlobError::NotFound(at.digest.clone())))
    }

    /// A single image says only in its configuration what it runs on: that comes first, so that a wrong one costs no layer.
    async fn refuse_wrong_platform(&mut self, document: &Document) -> Result<(), FetchError> {
        let (Kind::Image(image), PlatformSet::Only(wanted)) = (document.kind(), &self.wanted.platforms)
        else {
            return Ok(());
        };
        if !media_type::is_config(&image.config.media_type) || image.artifact_type.is_some() {
            return Ok(());
        }
        let wanted = wanted.clone();
        self.bring(std::slice::from_ref(&image.config)).await?;
        let read = self.ports.blobs.read_small(&image.config.digest, MANIFEST_BYTES_MAX as u64).await;
        let config = Config::parse(&read.map_err(|source| self.store_error(source))?);
        // What names no platform runs nowhere, or anywhere: a signature, for example.
        let Some(platform) = config.map_err(|source| self.image_error(source))?.platform else {
            return Ok(());
        };
        let missing: Vec<_> = wanted.into_iter().filter(|wish| !wish.accepts(&platform)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.image_error(OciError::PlatformNotFound { wanted: missing, present: vec![platform] }))
    }

    fn count(&mut self, blobs: &[Descriptor]) {
        self.fetched.blobs += blobs.len() as u64;
        // Sizes are a stranger's claims: together they may exceed any number.
        let sizes = blobs.iter().map(|blob| blob.size);
        self.fetched.bytes = sizes.fold(self.fetched.bytes, u64::saturating_add);
    }

    /// Returns when all of `blobs` are stored.
    async fn bring(&mut self, blobs: &[Descriptor]) -> Result<(), FetchError> {
        let mut missing = self.missing(blobs).await?;
        for blob in blobs.iter().filter(|blob| !missing.contains_key(&blob.digest)) {
            self.tell(blob, blob.size, true).await;
        }
        if missing.is_empty() {
            return Ok(());
        }
        let topics = [topic::<BlobStored>(None), topic::<BlobRejected>(None), topic::<BlobProgress>(None)];
        let mut ear = self.ports.voice.listen(&topics).await.map_err(|_| FetchError::Interrupted)?;
        for blob in missing.values() {
            self.tell(blob, 0, false).await;
        }
        self.ask(missing.values()).await?;
        let mut again =
            tokio::time::interval_at(tokio::time::Instant::now() + ASK_AGAIN_EVERY, ASK_AGAIN_EVERY);
        while !missing.is_empty() {
            tokio::select! {
                heard = self.hear(&mut ear, &mut missing) => heard?,
                _ = again.tick() => {
                    let waiting: Vec<Descriptor> = missing.values().cloned().collect();
                    let still = self.missing(&waiting).await?;
                    missing.retain(|digest, _| still.contains_key(digest));
                    self.ask(missing.values()).await?;
                }
            }
        }
        Ok(())
    }

    /// Those of `blobs` that are not there with their size. Of documents, which are small, also the digest counts.
    async fn missing(&self, blobs: &[Descriptor]) -> Result<HashMap<Digest, Descriptor>, FetchError> {
        let missing = self.ports.blobs.missing(blobs).await.map_err(|source| self.store_error(source))?;
        let by_digest = |blob: Descriptor| (blob.digest.clone(), blob);
        let mut missing: HashMap<_, _> = missing.into_iter().map(by_digest).collect();
        for blob in blobs.iter().filter(|blob| is_document(blob)) {
            if !missing.contains_key(&blob.digest) && self.stored_bytes(&blob.digest).await?.is_none() {
                missing.insert(blob.digest.clone(), blob.clone());
            }
        }
        Ok(missing)
    }

    async fn ask(&self, blobs: impl Iterator<Item = &Descriptor>) -> Result<(), FetchError> {
        for blob in blobs {
            let wanted = BlobWanted::of(blob, &self.wanted.reference);
            // A full queue, or a bus that is away for a moment: the next round asks again.
            if let Err(error) = self.ports.voice.say(self.job, &wanted).await {
                tracing::debug!(digest = %blob.digest, %error, "cannot ask for a blob yet");
            }
        }
        Ok(())
    }

    /// Takes one piece of news about what is missing.
    async fn hear(
        &mut self,
        ear: &mut Ear,
        missing: &mut HashMap<Digest, Descriptor>,
    ) -> Result<(), FetchError> {
        let Some(heard) = ear.next().await else {
            return Err(FetchError::Interrupted);
        };
        if let Some(news) = heard.of::<BlobProgress>() {
            if let Some(blob) = missing.get(&news.digest) {
                self.tell(blob, news.received_bytes, false).await;
            }
        } else if let Some(news) = heard.of::<BlobStored>() {
            if let Some(blob) = missing.remove(&news.digest) {
                self.fetched.fetched_blobs += u64::from(news.fetched_bytes > 0);
                self.fetched.fetched_bytes += news.fetched_bytes;
                self.tell(&blob, blob.size, true).await;
            }
        } else if let Some(news) = heard.of::<BlobRejected>()
            && missing.contains_key(&news.digest)
        {
            if news.from == self.wanted.reference {
                return Err(FetchError::Blob(news.reason));
            }
            // Another repository did not have it, which says nothing about ours.
            self.ask(missing.get(&news.digest).into_iter()).await?;
        }
        Ok(())
    }

    async fn tell(&self, blob: &Descriptor, received_bytes: u64, stored: bool) {
        let progress = ImageProgress {
            wanted: self.wanted.wanted_id(),
            digest: blob.digest.clone(),
            size: blob.size,
            received_bytes,
            stored,
        };
        // Nobody depends on hearing it.
        let _ = self.ports.voice.announce(self.job, &progress).await;
    }

    fn upstream_error(&self, source: RegistryError) -> FetchError {
        FetchError::Upstream { reference: self.wanted.reference.clone(), source }
    }

    fn store_error(&self, source: BlobError) -> FetchError {
        FetchError::Store { reference: self.wanted.reference.clone(), source }
    }

    fn image_error(&self, source: OciError) -> FetchError {
        FetchError::Image { reference: self.wanted.reference.clone(), source }
    }
}

fn is_document(blob: &Descriptor) -> bool {
    let read = blob.is_manifest() || media_type::is_config(&blob.media_type);
    read && blob.size <= MANIFEST_BYTES_MAX as u64
}

/// Whether a registry that answers so understood and refused. Where it knows no `HEAD` (405), the client has asked for the manifest.
fn is_refusal(status: u16) -> bool {
    matches!(status, 400 | 402 | 403 | 406..=428 | 430..=499)
}

/// Describes `document`, by `digest` if that is what names it.
fn describe(document: &Document, digest: Option<&Digest>) -> Descriptor {
    let mut descriptor = document.descriptor();
    if let Some(digest) = digest {
        descriptor.digest = digest.clone();
    }
    descriptor
}
