//! Facts about what else upstream can tell: lists, and that it wants to be left alone.

use larder_oci::{Descriptor, Digest, Reference};
use serde::{Deserialize, Serialize};

use crate::name::token;
use crate::{Announcement, Fact, News, Reason, WishRejected, Work};

/// A list that a registry keeps of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "list")]
pub enum Listing {
    /// Its tags.
    Tags,
    /// The manifests that refer to this one (OCI distribution-spec, referrers API or the tag that stands in for it).
    Referrers {
        /// The manifest they refer to.
        subject: Digest,
    },
}

/// Somebody wants to know what upstream has in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListingSought {
    /// An image of the repository.
    pub repository: Reference,
    /// Which list.
    pub of: Listing,
}

impl Fact for ListingSought {
    const NAME: &'static str = "ListingSought";
}

impl Work for ListingSought {
    fn id(&self) -> String {
        let (registry, repository) = (self.repository.registry(), self.repository.repository());
        match &self.of {
            Listing::Tags => token(&["tags", registry, repository]),
            Listing::Referrers { subject } => token(&["referrers", registry, repository, subject.as_str()]),
        }
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// What upstream has in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListingSeen {
    /// The id of the work.
    pub id: String,
    /// The list, as a stored blob: tags as a JSON list of texts, referrers as an image index; nothing when upstream has none.
    pub list: Option<Descriptor>,
}

impl Fact for ListingSeen {
    const NAME: &'static str = "ListingSeen";
}

impl News for ListingSeen {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// A registry wants to be left alone for a while, or does not answer; for all who ask registries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamResting {
    /// Its `host[:port]`.
    pub host: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Whether it said so (429, `Retry-After`), or failed too often in a row.
    pub limited: bool,
}

impl Fact for UpstreamResting {
    const NAME: &'static str = "UpstreamResting";
}

impl News for UpstreamResting {
    fn key(&self) -> Option<String> {
        None
    }
}
