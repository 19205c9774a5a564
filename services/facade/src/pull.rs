//! A pull: nothing to do, or one wish and its answer.

use larder_blobs::closure::{Scope, walk};
use larder_messages::{
    ImageIndexed, ImageProgress, ImageRejected, ImageStored, ImageWanted, Naming, Reach, Reason, topic,
};
use larder_oci::{Descriptor, Document, Kind, OciError, OnLocal, PlatformSet, Reference, select};
use larder_provider::{Progress, ProviderError, PullOptions, Pulled};

use crate::Facade;
use crate::error::{blob_error, platform_error};

/// How often a pull is begun anew when blobs vanish between their arrival and the verdict.
const TRIES_MAX: u32 = 3;

impl Facade {
    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError> {
        let pulled = self.pull_image(reference, platforms, options).await?;
        if options.arch_names && reference.digest().is_none() {
            self.name_images(reference, pulled.root(), platforms).await?;
        }
        Ok(pulled)
    }

    /// Gives each image of an index that is there a name of its own, `NAME-ARCH[VARIANT]`.
    async fn name_images(
        &self,
        reference: &Reference,
        root: &Descriptor,
        platforms: &PlatformSet,
    ) -> Result<(), ProviderError> {
        let document = self.blobs.document(root).await.map_err(|error| blob_error(&error))?;
        let Some(Kind::Index(index)) = document.as_ref().map(Document::kind) else {
            return Ok(());
        };
        let images = select(index, platforms).complete();
        for child in images.map_err(|error| platform_error(&reference.to_string(), error))? {
            let platform = child.platform.as_ref().filter(|platform| !platform.is_unknown());
            let (Some(platform), true) = (platform, child.is_manifest()) else {
                continue;
            };
            let name = format!("{}-{}", reference.name(), platform.suffix());
            let name: Reference =
                name.parse().map_err(|error: OciError| ProviderError::InvalidReference(error.to_string()))?;
            // It is what upstream has, as its index is.
            let naming = Naming::Pulled { local: OnLocal::Replace };
            self.settle(&ImageStored::written(name, child.clone(), Reach::Whole, naming)).await?;
        }
        Ok(())
    }

    async fn pull_image(
        &self,
        reference: &Reference,
        platforms: &PlatformSet,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError> {
        let known = self.named(&reference.name()).await?.map(|name| name.descriptor);
        if let Some(root) = &known
            && !options.always
            && self.is_whole(root, platforms).await?
        {
            return Ok(Pulled::AlreadyPresent { root: root.clone() });
        }
        let _hold = self.keep(None).await?;
        // What a digest names cannot have changed.
        let revalidate = options.always && reference.digest().is_none();
        let mut wanted = ImageWanted {
            reference: reference.clone(),
            platforms: platforms.clone(),
            known,
            revalidate,
            shallow: false,
            local: options.local,
        };
        let mut tries = 1;
        loop {
            match self.want(&wanted, options).await {
                // What is cached lacks the platform; what upstream has by now may not.
                Err(ProviderError::PlatformNotFound { .. })
                    if wanted.known.is_some() && !wanted.revalidate =>
                {
                    wanted.revalidate = true;
                }
                Err(ProviderError::Partial { .. }) if tries < TRIES_MAX => tries += 1,
                other => return other,
            }
        }
    }

    async fn is_whole(&self, root: &Descriptor, platforms: &PlatformSet) -> Result<bool, ProviderError> {
        let closure = walk(&self.blobs, root, &Scope::Wanted(platforms)).await;
        Ok(closure.map_err(|error| blob_error(&error))?.is_whole(platforms))
    }

    pub(crate) async fn want(
        &self,
        wanted: &ImageWanted,
        options: &PullOptions,
    ) -> Result<Pulled, ProviderError> {
        let wanted_id = wanted.wanted_id();
        let id = Some(wanted_id.as_str());
        let mut topics = vec![topic::<ImageIndexed>(id), topic::<ImageRejected>(id)];
        if options.watch.is_some() {
            topics.push(topic::<ImageProgress>(id));
        }
        let indexed = self.ask_on(&topics, wanted, |heard| {
            if let Some(progress) = heard.of::<ImageProgress>() {
                let ImageProgress { digest, size, received_bytes, stored, .. } = progress;
                if let Some(watch) = &options.watch {
                    watch.progress(&Progress { digest, size, received_bytes, stored });
                }
                return None;
            }
            if let Some(rejected) = heard.of::<ImageRejected>() {
                return Some(Err::<ImageIndexed, Reason>(rejected.reason));
            }
            heard.of::<ImageIndexed>().map(Ok)
        });
        let ImageIndexed { root, fetched, .. } = indexed.await?;
        if fetched.fetched_blobs == 0 && wanted.known.as_ref() == Some(&root) {
            return Ok(Pulled::AlreadyPresent { root });
        }
        Ok(Pulled::Pulled {
            root,
            blobs: fetched.blobs,
            bytes: fetched.bytes,
            fetched_blobs: fetched.fetched_blobs,
            fetched_bytes: fetched.fetched_bytes,
        })
    }
}
