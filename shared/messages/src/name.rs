//! Facts about names and what they point to at rest.

use larder_oci::{Descriptor, Digest, PlatformSet};
use serde::{Deserialize, Serialize};

use crate::{Announcement, Fact, News, Reason, Work};

/// Derives a bus token from free text.
pub(crate) fn token(parts: &[&str]) -> String {
    Digest::of(parts.join("\n").as_bytes()).hex()[..32].to_owned()
}

/// A wish about a name cannot be granted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WishRejected {
    /// The id of the work.
    pub id: String,
    /// Why.
    pub reason: Reason,
}

impl Fact for WishRejected {
    const NAME: &'static str = "WishRejected";
}

impl News for WishRejected {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// Somebody wants a name gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovalWanted {
    /// The name.
    pub name: String,
}

impl Fact for RemovalWanted {
    const NAME: &'static str = "RemovalWanted";
}

impl Work for RemovalWanted {
    fn id(&self) -> String {
        token(&["rm", &self.name])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// A name points to nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NameRemoved {
    /// The id of the work.
    pub id: String,
    /// The name.
    pub name: String,
    /// Whether it pointed to something before.
    pub existed: bool,
}

impl Fact for NameRemoved {
    const NAME: &'static str = "NameRemoved";
}

impl News for NameRemoved {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// A name points to something else than before; for those who remember names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NameChanged {
    /// The name.
    pub name: String,
}

impl Fact for NameChanged {
    const NAME: &'static str = "NameChanged";
}

impl News for NameChanged {
    fn key(&self) -> Option<String> {
        None
    }
}

/// Somebody wants what a name points to re-hashed at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditWanted {
    /// The name, for the report.
    pub name: String,
    /// What it points to.
    pub root: Descriptor,
    /// Which platforms must be there; without it what is there is looked at.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub platforms: Option<PlatformSet>,
    /// Whether what hangs on the root may be missing, as it comes only when it is asked for.
    #[serde(default)]
    pub partial: bool,
}

/// All platforms are written as `null`, which is something other than nothing.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<PlatformSet>, D::Error> {
    PlatformSet::deserialize(deserializer).map(Some)
}

impl Fact for AuditWanted {
    const NAME: &'static str = "AuditWanted";
}

impl Work for AuditWanted {
    fn id(&self) -> String {
        let platforms = self.platforms.as_ref().map(ToString::to_string).unwrap_or_default();
        let partial = if self.partial { "partial" } else { "whole" };
        token(&["audit", &self.name, self.root.digest.as_str(), &platforms, partial])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// What is wrong with a stored blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "problem")]
pub enum Problem {
    /// Its bytes hash to something else, or have another length than its parent says.
    Corrupt {
        /// The blob.
        digest: Digest,
        /// What was found instead.
        found: String,
    },
    /// It is not there.
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// It does not say what its parent says it says.
    Invalid {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        what: String,
    },
}

/// What a name points to was re-hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditFinished {
    /// The id of the work.
    pub id: String,
    /// The name.
    pub name: String,
    /// Blobs read.
    pub blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Children of indexes that were never fetched (other platforms).
    pub absent_platforms: u64,
    /// The first problems found, at most 100.
    pub problems: Vec<Problem>,
}

impl Fact for AuditFinished {
    const NAME: &'static str = "AuditFinished";
}

impl News for AuditFinished {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}

/// Somebody wants the blobs deleted that nothing reaches.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CollectionWanted {
    /// How long a blob must not have been used, in seconds.
    pub grace_s: u64,
    /// Whether to count only.
    pub dry_run: bool,
}

impl Fact for CollectionWanted {
    const NAME: &'static str = "CollectionWanted";
}

impl Work for CollectionWanted {
    fn id(&self) -> String {
        token(&["collect", &self.grace_s.to_string(), if self.dry_run { "dry" } else { "wet" }])
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        Announcement::of(&WishRejected { id: self.id(), reason })
    }
}

/// What nothing reached is gone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CollectionFinished {
    /// The id of the work.
    pub id: String,
    /// Blobs that a name or a lease reaches.
    pub kept_blobs: u64,
    /// Their size in bytes.
    pub kept_bytes: u64,
    /// Unreachable blobs, deleted.
    pub deleted_blobs: u64,
    /// Their size in bytes.
    pub deleted_bytes: u64,
    /// Unreachable blobs that were used too recently.
    pub young_blobs: u64,
    /// Unfinished writes, deleted.
    pub unfinished: u64,
}

impl Fact for CollectionFinished {
    const NAME: &'static str = "CollectionFinished";
}

impl News for CollectionFinished {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}
