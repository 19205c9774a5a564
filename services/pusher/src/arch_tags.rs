//! A tag for the image of each platform: `1.0-amd64`, `1.0-armv7`.

use futures::{StreamExt, TryStreamExt, stream};
use larder_oci::{Descriptor, Document, Kind, Platform, Reference, media_type};

use crate::PushError;
use crate::push::Errand;
use crate::send::REQUESTS_IN_FLIGHT_MAX;

/// The image of one platform, and the tag it gets.
pub(crate) struct ArchTag {
    tag: String,
    at: Reference,
    image: Descriptor,
}

impl ArchTag {
    pub(crate) fn into_tag(self) -> String {
        self.tag
    }
}

impl Errand<'_> {
    /// The tags for the images of `local`. Of several images that would get one tag, the first gets it.
    ///
    /// # Errors
    /// [`PushError::NoTag`] when the name has a digest, [`PushError::Tag`] when one would be no tag.
    pub(crate) async fn arch_tags(&self, local: &Document) -> Result<Vec<ArchTag>, PushError> {
        let to = &self.wanted.to;
        let Some(base) = to.tag().filter(|_| to.digest().is_none()) else {
            return Err(PushError::NoTag { to: to.clone() });
        };
        let mut tags: Vec<ArchTag> = Vec::new();
        for (platform, image) in self.platforms(local).await? {
            let tag = format!("{base}-{}", platform.suffix());
            if tags.iter().any(|known| known.tag == tag) {
                continue;
            }
            let at = to.with_tag(&tag);
            let at = at.map_err(|source| PushError::Tag { to: to.clone(), source })?;
            tags.push(ArchTag { tag, at, image });
        }
        Ok(tags)
    }

    /// Gives `tags` to their images, which the registry has. One that was never fetched is read there.
    pub(crate) async fn push_arch_tags(&self, tags: &[ArchTag]) -> Result<(), PushError> {
        let tags = tags.iter().map(|tag| (tag.at.clone(), tag.image.clone()));
        let puts = stream::iter(tags.collect::<Vec<_>>()).map(|(at, image)| async move {
            let document = self.found(&image).await?;
            self.put(&at, &document).await
        });
        puts.buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect().await
    }

    async fn found(&self, image: &Descriptor) -> Result<Document, PushError> {
        let stored = self.ports.blobs.document(image).await;
        if let Some(document) = stored.map_err(|source| self.store(source))? {
            return Ok(document);
        }
        let there = self.ports.registry.origin_manifest(&self.wanted.to.at(&image.digest)).await;
        there.map_err(|source| self.upstream(source))?.ok_or_else(|| PushError::Sparse {
            to: self.wanted.to.clone(),
            missing: vec![image.digest.clone()],
        })
    }

    /// The images of known platforms in `local`: no attestations, no indexes.
    async fn platforms(&self, local: &Document) -> Result<Vec<(Platform, Descriptor)>, PushError> {
        match local.kind() {
            Kind::Index(index) => {
                let images = index
                    .manifests
                    .iter()
                    .filter(|child| media_type::is_image(&child.media_type) && child.attests().is_none());
                let known = |child: &Descriptor| Some((child.platform.clone()?, child.clone()));
                Ok(images.filter_map(known).filter(|(platform, _)| !platform.is_unknown()).collect())
            }
            Kind::Image(image) => {
                let platform = self.local_platform(image).await?;
                Ok(platform.map(|platform| (platform, local.descriptor())).into_iter().collect())
            }
        }
    }
}
