//! Whether who may read a repository may have a blob by naming it there: only if the repository has it.
//!
//! Where everybody may read everything the question does not arise, and nothing is looked up.

use std::collections::HashSet;
use std::time::Duration;

use larder_blobs::closure::reach;
use larder_messages::{ImageSeen, ImageSought};
use larder_oci::Digest;
use moka::future::Cache;

use super::Distribution;
use super::place::Place;
use super::reply::{Code, Refusal};
use crate::door::access::Caller;
use crate::error::{blob_error, catalog_error};

/// The labels of a blob that say which repositories it was uploaded to.
const LINKS: &str = "larder.repositories";
const PROOFS_MAX: u64 = 65_536;
/// How long a proof counts: what a repository loses is readable there that much longer.
const PROVEN_FOR: Duration = Duration::from_mins(5);

/// What repositories were found to have.
pub(super) type Proofs = Cache<(String, Digest), ()>;

pub(super) fn proofs() -> Proofs {
    Cache::builder().max_capacity(PROOFS_MAX).time_to_live(PROVEN_FOR).build()
}

impl Distribution {
    /// Refuses `digest`, as one that is `unknown`, to a caller who may not read everything, unless the repository has it.
    pub(super) async fn prove(
        &self,
        caller: &Caller,
        place: &Place,
        digest: &Digest,
        unknown: Code,
    ) -> Result<(), Refusal> {
        if self.access.may_pull_everything(caller) {
            return Ok(());
        }
        let key = (place.repository.clone(), digest.clone());
        if self.proofs.contains_key(&key) {
            return Ok(());
        }
        if self.is_linked(place, digest).await?
            || self.is_reached(place, digest).await?
            || self.is_upstream(place, digest).await?
        {
            self.proofs.insert(key, ()).await;
            return Ok(());
        }
        // Whether it is here at all is nothing that this caller may learn.
        Err(Refusal::new(unknown, format!("{digest} is not here")))
    }

    /// Notes that a blob came to a repository, where that makes a difference.
    pub(super) async fn link(&self, place: &Place, digest: &Digest) -> Result<(), Refusal> {
        if !self.access.is_restricted() {
            return Ok(());
        }
        let change = |labels: &mut std::collections::BTreeMap<String, String>| {
            labels.insert(place.repository.clone(), String::new());
        };
        let linked = self.facade.catalog.set_labels(LINKS, digest, change).await;
        linked.map(drop).map_err(|error| Refusal::of(&catalog_error(&error), Code::BlobUnknown))
    }

    async fn is_linked(&self, place: &Place, digest: &Digest) -> Result<bool, Refusal> {
        let labels = self.facade.catalog.labels(LINKS, digest).await;
        let labels = labels.map_err(|error| Refusal::of(&catalog_error(&error), Code::BlobUnknown))?;
        Ok(labels.is_some_and(|labels| labels.values.contains_key(&place.repository)))
    }

    /// Whether a name of the repository leads to it.
    async fn is_reached(&self, place: &Place, digest: &Digest) -> Result<bool, Refusal> {
        let mut reached = HashSet::new();
        for (_, root) in self.names_of(place).await? {
            let walked = reach(&self.facade.blobs, &root.digest, Some(&root.media_type), &mut reached).await;
            match walked {
                Err(error) if !error.is_integrity() => {
                    return Err(Refusal::of(&blob_error(&error), Code::BlobUnknown));
                }
                _ if reached.contains(digest) => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    /// Whether upstream, asked with larder's own credentials, has it in this repository.
    async fn is_upstream(&self, place: &Place, digest: &Digest) -> Result<bool, Refusal> {
        if !place.has_upstream {
            return Ok(false);
        }
        if self.size_upstream(place, digest).await.is_ok() {
            return Ok(true);
        }
        let sought = ImageSought { reference: place.at(digest), platforms: false };
        let seen = self.facade.ask::<_, ImageSeen>(&sought).await;
        Ok(seen.map_err(|error| Refusal::of(&error, Code::BlobUnknown))?.root.is_some())
    }
}
