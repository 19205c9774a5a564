//! All of an image, or some of its platforms, opened for reading.

use std::sync::Arc;

use async_trait::async_trait;
use larder_blobs::closure::{Closure, Scope, walk};
use larder_oci::{Descriptor, Digest, Kind, Platform, PlatformSet, restrict};
use larder_provider::{ByteStream, ImageSource, IndexSource, ProviderError};

use super::{Excerpt, Opened};
use crate::error::{blob_error, platform_error, refuse_partial};

pub(crate) struct WholeIndex {
    pub(super) opened: Opened,
    pub(super) descriptor: Descriptor,
    pub(super) platforms: PlatformSet,
}

impl WholeIndex {
    pub(super) async fn closure(&self) -> Result<Closure, ProviderError> {
        let scope = match &self.platforms {
            PlatformSet::All => Scope::Present,
            some @ PlatformSet::Only(_) => Scope::Wanted(some),
        };
        let closure =
            walk(&self.opened.blobs, &self.descriptor, &scope).await.map_err(|error| blob_error(&error))?;
        refuse_partial(&self.opened.name, &closure)?;
        match closure.uncovered(&self.platforms) {
            Some(error) => Err(platform_error(&self.opened.name, error)),
            None => Ok(closure),
        }
    }

    /// What is there of it, or of some platforms an index of these alone.
    pub(crate) async fn excerpt(&self) -> Result<Excerpt, ProviderError> {
        let mut blobs = self.closure().await?.blobs;
        let document = self.opened.document(&self.opened.name, &self.descriptor).await?;
        let (mut root, mut made) = (self.descriptor.clone(), None);
        if self.platforms != PlatformSet::All && matches!(document.kind(), Kind::Index(_)) {
            let kept: Vec<Digest> = blobs.iter().map(|blob| blob.digest.clone()).collect();
            let restricted =
                restrict(&document, &kept).map_err(|error| platform_error(&self.opened.name, error))?;
            root = Descriptor { annotations: root.annotations, ..restricted.descriptor() };
            blobs[0] = root.clone();
            made = Some(restricted);
        }
        Ok(Excerpt { opened: self.opened.clone(), root, blobs, made })
    }
}

#[async_trait]
impl IndexSource for WholeIndex {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn image(&self, platform: &Platform) -> Result<Arc<dyn ImageSource>, ProviderError> {
        let name = self.opened.name.clone();
        Ok(Arc::new(self.opened.image(&name, &self.descriptor, platform).await?))
    }

    async fn oci_tar_reader(&self, name: Option<&str>) -> Result<ByteStream, ProviderError> {
        let name = self.opened.archive_name(name)?;
        Ok(self.excerpt().await?.archive(name))
    }
}
