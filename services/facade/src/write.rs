//! Names for what was written here. Manifests and indexes go to the verifier and the indexer like those that were pulled.

use larder_messages::{
    ImageIndexed, ImagePushed, ImageRejected, ImageStored, MOUNT_FROM_MAX, Naming, PushWanted, Reach, Reason,
    topic,
};
use larder_oci::{Descriptor, Reference, bundle};
use larder_provider::{ProviderError, PushOptions, Pushed, WriteOptions};

use crate::Facade;
use crate::error::{blob_error, platform_error};

impl Facade {
    pub(crate) async fn write_index(
        &self,
        reference: &Reference,
        manifests: &[Descriptor],
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError> {
        refuse_digest(reference)?;
        let manifests: Vec<Descriptor> = manifests.iter().cloned().map(Descriptor::unnamed).collect();
        // The wish itself is an index, stored like any other: what crosses the bus is its digest.
        let additions = bundle(&manifests).map_err(|error| platform_error(&reference.to_string(), error))?;
        let root = additions.descriptor();
        let put = self.blobs.put(&root.digest, additions.bytes().clone()).await;
        put.map_err(|error| blob_error(&error))?;
        let naming = Naming::Merged { expected: options.expected.clone() };
        self.settle(&ImageStored::written(reference.clone(), root, reach(options), naming)).await
    }

    pub(crate) async fn write_descriptor(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        options: &WriteOptions,
    ) -> Result<Descriptor, ProviderError> {
        if reference.digest() != Some(&descriptor.digest) {
            refuse_digest(reference)?;
        }
        let root = descriptor.clone().unnamed();
        let naming = Naming::Written { expected: options.expected.clone() };
        self.settle(&ImageStored::written(reference.clone(), root, reach(options), naming)).await
    }

    /// Has what is stored judged and named, and returns what the name points to then.
    pub(crate) async fn settle(&self, stored: &ImageStored) -> Result<Descriptor, ProviderError> {
        let id = Some(stored.wanted.as_str());
        let topics = [topic::<ImageIndexed>(id), topic::<ImageRejected>(id)];
        let indexed = self.ask_on(&topics, stored, |heard| {
            if let Some(rejected) = heard.of::<ImageRejected>() {
                return Some(Err::<ImageIndexed, Reason>(rejected.reason));
            }
            heard.of::<ImageIndexed>().map(Ok)
        });
        Ok(indexed.await?.root)
    }

    pub(crate) async fn send(&self, name: &str, options: &PushOptions) -> Result<Pushed, ProviderError> {
        let found = self.require(name).await?;
        let own = found.name.parse::<Reference>();
        let to = match (&options.remote, &own) {
            (Some(remote), _) => remote.clone(),
            (None, Ok(own)) => own.clone(),
            (None, Err(error)) => {
                let message = format!("{name} is no name of a registry ({error}); say where to push it");
                return Err(ProviderError::InvalidReference(message));
            }
        };
        if to.digest().is_some_and(|digest| *digest != found.descriptor.digest) {
            let message =
                format!("{to} names another digest than {}; push it to a tag", found.descriptor.digest);
            return Err(ProviderError::InvalidReference(message));
        }
        let wanted = PushWanted {
            root: found.descriptor.unnamed(),
            mount_from: self.siblings(own.ok(), &to).await?,
            to,
            mode: options.mode,
            arch_tags: options.arch_tags,
            skip_if_exists: options.skip_if_exists,
        };
        let ImagePushed {
            to, root, skipped, merged_from, tags, sent_blobs, sent_bytes, mounted_blobs, ..
        } = self.ask(&wanted).await?;
        Ok(Pushed { to, root, skipped, merged_from, tags, sent_blobs, sent_bytes, mounted_blobs })
    }

    /// Other repositories of the registry at `to` that may hold the blobs: that of the image's own name, then those of other names.
    async fn siblings(
        &self,
        own: Option<Reference>,
        to: &Reference,
    ) -> Result<Vec<Reference>, ProviderError> {
        let names = self.names().await?;
        let others = names.iter().filter_map(|name| name.name.parse::<Reference>().ok());
        let mut siblings: Vec<Reference> = Vec::new();
        for other in own.into_iter().chain(others) {
            let is_new = |known: &Reference| known.repository() != other.repository();
            if other.registry() == to.registry()
                && other.repository() != to.repository()
                && siblings.iter().all(is_new)
            {
                siblings.push(other);
            }
            if siblings.len() == MOUNT_FROM_MAX {
                break;
            }
        }
        Ok(siblings)
    }
}

fn reach(options: &WriteOptions) -> Reach {
    if options.allow_sparse { Reach::Sparse } else { Reach::Whole }
}

/// A name that says what it points to can point to nothing else.
fn refuse_digest(reference: &Reference) -> Result<(), ProviderError> {
    if reference.digest().is_none() {
        return Ok(());
    }
    let message = format!("{reference} names a digest, which cannot be given to something else; use a tag");
    Err(ProviderError::InvalidReference(message))
}
