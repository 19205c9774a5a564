//! Everything that a manifest points to, on its way to a registry.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use larder_messages::{MOUNT_FROM_MAX, PushWanted};
use larder_oci::{Descriptor, Digest, Document, INDEX_DEPTH_MAX, Kind, OciError, Reference};

use crate::PushError;
use crate::push::Errand;

/// Requests of one push at a time; how many of them transfer blobs the registry client bounds.
pub(crate) const REQUESTS_IN_FLIGHT_MAX: usize = 16;
/// Repositories that are asked for one blob before it is sent.
const MOUNTS_TRIED_MAX: usize = 4;
/// Blobs that a repository may turn out not to have before it is asked no more.
const MOUNTS_MISSED_MAX: usize = 4;

/// What is to be sent.
#[derive(Default)]
struct Plan {
    blobs: Vec<Descriptor>,
    /// Manifests by their depth, the uppermost first.
    levels: Vec<Vec<Descriptor>>,
}

/// What has been sent so far.
#[derive(Default)]
pub(crate) struct Tally {
    blobs: AtomicU64,
    bytes: AtomicU64,
    mounted: AtomicU64,
}

impl Tally {
    fn sent(&self, bytes: u64) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Blobs and bytes sent, and blobs mounted.
    pub(crate) fn read(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.blobs), read(&self.bytes), read(&self.mounted))
    }
}

/// Other repositories of the registry that may have blobs, and how often each had not.
pub(crate) struct Mounts(Vec<(String, AtomicUsize)>);

impl Mounts {
    pub(crate) fn of(wanted: &PushWanted) -> Self {
        let to = &wanted.to;
        let mut seen = HashSet::from([to.repository()]);
        let others = wanted.mount_from.iter().filter(|from| from.registry() == to.registry());
        let others = others.map(Reference::repository).filter(|repository| seen.insert(repository));
        Self(
            others
                .take(MOUNT_FROM_MAX)
                .map(|repository| (repository.to_owned(), AtomicUsize::new(0)))
                .collect(),
        )
    }

    fn likely(&self) -> impl Iterator<Item = &(String, AtomicUsize)> {
        let likely = self.0.iter().filter(|(_, missed)| missed.load(Ordering::Relaxed) < MOUNTS_MISSED_MAX);
        likely.take(MOUNTS_TRIED_MAX)
    }
}

impl Errand<'_> {
    /// Sends all that `document` points to and the registry does not have, deepest first.
    ///
    /// # Errors
    /// [`PushError::Sparse`], before anything is sent, when a manifest is neither here nor there.
    pub(crate) async fn send(&self, document: &Document) -> Result<(), PushError> {
        let Plan { blobs, levels } = self.plan(document).await?;
        let sends = stream::iter(blobs).map(|blob| async move { self.push_blob(&blob).await });
        sends.buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<()>().await?;
        for level in levels.into_iter().rev() {
            let puts = stream::iter(level).map(|child| async move {
                let document = self.stored(&child).await?;
                self.put(&self.wanted.to.at(&child.digest), &document).await
            });
            puts.buffer_unordered(REQUESTS_IN_FLIGHT_MAX).try_collect::<()>().await?;
        }
        Ok(())
    }

    /// Sends `document` itself.
    pub(crate) async fn put(&self, to: &Reference, document: &Document) -> Result<(), PushError> {
        let sent = self.ports.registry.push_manifest(to, document).await;
        sent.map_err(|source| self.upstream(source))?;
        self.tally.sent(document.bytes().len() as u64);
        Ok(())
    }

    async fn plan(&self, root: &Document) -> Result<Plan, PushError> {
        let (mut plan, mut seen, mut missing) = (Plan::default(), HashSet::new(), Vec::new());
        let mut manifests = sort(root, &mut seen, &mut plan.blobs);
        while !manifests.is_empty() {
            if plan.levels.len() >= INDEX_DEPTH_MAX {
                let (what, max) = ("nested indexes", INDEX_DEPTH_MAX);
                return Err(self.image(OciError::TooMany { what, max }));
            }
            let (mut level, mut next) = (Vec::new(), Vec::new());
            for child in self.absent(manifests).await? {
                match self.ports.blobs.document(&child).await.map_err(|source| self.store(source))? {
                    Some(document) => {
                        next.extend(sort(&document, &mut seen, &mut plan.blobs));
                        level.push(child);
                    }
                    None => missing.push(child.digest),
                }
            }
            plan.levels.push(level);
            manifests = next;
        }
        if missing.is_empty() {
            Ok(plan)
        } else {
            Err(PushError::Sparse { to: self.wanted.to.clone(), missing })
        }
    }

    /// Those of `manifests` that the registry does not have. It has what one that it has points to.
    async fn absent(&self, manifests: Vec<Descriptor>) -> Result<Vec<Descriptor>, PushError> {
        let looks = stream::iter(manifests).map(|child| async move {
            let there = self.ports.registry.origin_descriptor(&self.wanted.to.at(&child.digest)).await;
            let there = there.map_err(|source| self.upstream(source))?;
            Ok::<_, PushError>(there.is_none().then_some(child))
        });
        let looks: Vec<_> = looks.buffered(REQUESTS_IN_FLIGHT_MAX).try_collect().await?;
        Ok(looks.into_iter().flatten().collect())
    }

    async fn push_blob(&self, blob: &Descriptor) -> Result<(), PushError> {
        let (registry, to) = (&self.ports.registry, &self.wanted.to);
        let there = registry.blob_exists(to, &blob.digest).await;
        if there.map_err(|source| self.upstream(source))?.is_some() {
            return Ok(());
        }
        if self.mount(&blob.digest).await {
            self.tally.mounted.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let open = |offset| {
            let (blobs, digest) = (self.ports.blobs.clone(), blob.digest.clone());
            async move {
                let content = blobs.read_unproven(&digest, offset).await.map_err(io::Error::other)?;
                Ok(content.bytes.map_err(io::Error::other).boxed())
            }
            .boxed()
        };
        // Whoever takes a blob hashes it, and what is wrong with it shows there: here that would be done a second time.
        match registry.push_blob(to, blob, open).await {
            Ok(true) => {}
            // Of bytes that it has not hashed, no manifest is to speak.
            Ok(false) => self.prove(&blob.digest).await?,
            Err(error) => {
                if error.is_integrity() || error.status().is_some() {
                    self.prove(&blob.digest).await?;
                }
                return Err(self.upstream(error));
            }
        }
        self.tally.sent(blob.size);
        Ok(())
    }

    /// Fails unless the stored bytes of `digest` are what it says.
    async fn prove(&self, digest: &Digest) -> Result<(), PushError> {
        let stored = async {
            let mut content = self.ports.blobs.read(digest).await?;
            while content.bytes.try_next().await?.is_some() {}
            Ok(())
        };
        stored.await.map_err(|source| self.store(source))
    }

    /// Has the registry take the blob over from another of its repositories, if one has it.
    async fn mount(&self, digest: &Digest) -> bool {
        for (repository, missed) in self.mounts.likely() {
            match self.ports.registry.mount_blob(&self.wanted.to, digest, repository).await {
                Ok(true) => return true,
                Ok(false) => {}
                // Whatever it is, sending the blob will show it too.
                Err(error) => tracing::debug!(%error, repository, "cannot mount a blob"),
            }
            missed.fetch_add(1, Ordering::Relaxed);
        }
        false
    }
}

/// Puts what `document` points to, and was not seen before, to the blobs or returns it as manifests.
fn sort(document: &Document, seen: &mut HashSet<Digest>, blobs: &mut Vec<Descriptor>) -> Vec<Descriptor> {
    let is_index = matches!(document.kind(), Kind::Index(_));
    let children = document.children().into_iter().filter(|child| seen.insert(child.digest.clone()));
    let (manifests, others): (Vec<_>, Vec<_>) =
        children.cloned().partition(|child| is_index && child.is_manifest());
    blobs.extend(others);
    manifests
}
