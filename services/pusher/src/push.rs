//! What becomes of a name in a registry.

use larder_blobs::BlobError;
use larder_messages::{ImagePushed, PushMode, PushWanted, Work};
use larder_oci::{Descriptor, Digest, Document, Kind, Reference, without_dangling};
use larder_registry::RegistryError;

use crate::arch_tags::ArchTag;
use crate::send::{Mounts, Tally};
use crate::{Ports, PushError, merge};

/// Merges that others may get in the way of before it is given up.
const MERGES_MAX: usize = 8;

/// One push.
pub(crate) struct Errand<'a> {
    pub(crate) ports: &'a Ports,
    pub(crate) wanted: &'a PushWanted,
    /// Where the image is to be found: at the tag, if `to` has both a tag and a digest.
    pub(crate) at: Reference,
    pub(crate) mounts: Mounts,
    pub(crate) tally: Tally,
}

/// How the name was left.
enum Left {
    /// As it was: it held all that was to be pushed.
    Same(Descriptor),
    /// As it was: it holds something else.
    Foreign(Descriptor),
    /// Pointing to what was pushed, which was merged from what was there, if anything of that is in it.
    Pushed(Descriptor, Option<Digest>),
}

/// Pushes what is wanted.
pub(crate) async fn push(ports: &Ports, wanted: &PushWanted) -> Result<ImagePushed, PushError> {
    let errand = Errand::new(ports, wanted);
    let local = errand.stored(&wanted.root).await?;
    let tags = if wanted.arch_tags { errand.arch_tags(&local).await? } else { Vec::new() };
    let left = errand.settle(&local).await?;
    let (root, skipped, merged_from, is_ours) = match left {
        Left::Same(root) => (root, true, None, true),
        Left::Foreign(root) => (root, true, None, false),
        Left::Pushed(root, merged_from) => (root, false, merged_from, true),
    };
    let tags = if is_ours { tags } else { Vec::new() };
    errand.push_arch_tags(&tags).await?;
    let (sent_blobs, sent_bytes, mounted_blobs) = errand.tally.read();
    Ok(ImagePushed {
        id: wanted.id(),
        to: wanted.to.clone(),
        root,
        skipped,
        merged_from,
        tags: tags.into_iter().map(ArchTag::into_tag).collect(),
        sent_blobs,
        sent_bytes,
        mounted_blobs,
    })
}

impl<'a> Errand<'a> {
    fn new(ports: &'a Ports, wanted: &'a PushWanted) -> Self {
        let to = &wanted.to;
        let at = to.tag().map(|tag| to.with_tag(tag).expect("the tag of a reference is a tag"));
        let at = at.unwrap_or_else(|| to.clone());
        Self { ports, wanted, at, mounts: Mounts::of(wanted), tally: Tally::default() }
    }

    async fn settle(&self, local: &Document) -> Result<Left, PushError> {
        let ours = match local.kind() {
            Kind::Index(_) => without_dangling(local).map_err(|source| self.image(source))?,
            Kind::Image(_) => local.clone(),
        };
        let there = self.there().await?;
        let wanted = self.wanted;
        match (there, wanted.mode) {
            (Some(there), _) if self.is(&there.digest, &ours) => Ok(Left::Same(there)),
            (Some(there), PushMode::IfAbsent) if wanted.skip_if_exists => Ok(Left::Foreign(there)),
            (Some(there), PushMode::IfAbsent) => Err(PushError::Taken {
                to: wanted.to.clone(),
                there: there.digest,
                ours: wanted.root.digest.clone(),
            }),
            (_, PushMode::Merge) => self.merge(&ours).await,
            (_, PushMode::IfAbsent | PushMode::Replace) => {
                self.send(&ours).await?;
                self.put(&wanted.to, &ours).await?;
                Ok(Left::Pushed(ours.descriptor(), None))
            }
        }
    }

    /// Merges `ours` with what is there, again for as long as somebody else changes that in between: no registry has a conditional
    /// write, so what can be seen is looked at.
    async fn merge(&self, ours: &Document) -> Result<Left, PushError> {
        for _ in 0..MERGES_MAX {
            let theirs = self.ports.registry.origin_manifest(&self.at).await;
            let theirs = theirs.map_err(|source| self.upstream(source))?;
            let merged = match &theirs {
                Some(theirs) => match merge::over(self, ours, theirs).await? {
                    Some(merged) => merged,
                    None => return Ok(Left::Same(theirs.descriptor())),
                },
                None => ours.clone(),
            };
            self.send(&merged).await?;
            let before = theirs.map(|theirs| theirs.descriptor().digest);
            if self.there().await?.map(|there| there.digest) != before {
                continue;
            }
            self.put(&self.wanted.to, &merged).await?;
            if self.there().await?.is_some_and(|there| self.is(&there.digest, &merged)) {
                let is_merged = merged.bytes() != ours.bytes();
                return Ok(Left::Pushed(merged.descriptor(), before.filter(|_| is_merged)));
            }
        }
        Err(PushError::Contended { to: self.wanted.to.clone() })
    }

    /// Whether `digest` is that of `document`, or of the image as it was to be pushed.
    fn is(&self, digest: &Digest, document: &Document) -> bool {
        *digest == self.wanted.root.digest || *digest == document.descriptor().digest
    }

    /// What the name points to now, as the registry itself has it.
    async fn there(&self) -> Result<Option<Descriptor>, PushError> {
        let there = self.ports.registry.origin_descriptor(&self.at).await;
        there.map_err(|source| self.upstream(source))
    }

    /// Reads the manifest `at` from the store.
    pub(crate) async fn stored(&self, at: &Descriptor) -> Result<Document, PushError> {
        let document = self.ports.blobs.document(at).await.map_err(|source| self.store(source))?;
        document.ok_or_else(|| self.store(BlobError::NotFound(at.digest.clone())))
    }

    pub(crate) fn upstream(&self, source: RegistryError) -> PushError {
        PushError::Upstream { to: self.wanted.to.clone(), source }
    }

    pub(crate) fn store(&self, source: BlobError) -> PushError {
        PushError::Store { to: self.wanted.to.clone(), source }
    }

    pub(crate) fn image(&self, source: larder_oci::OciError) -> PushError {
        PushError::Image { to: self.wanted.to.clone(), source }
    }
}
