//! Facts about images on their way to registries.

use larder_oci::{Descriptor, Digest, PushMode, Reference};
use serde::{Deserialize, Serialize};

use crate::name::token;
use crate::{Announcement, Fact, News, Reason, WishRejected, Work};

/// How many repositories a push may name as holding its blobs.
pub const MOUNT_FROM_MAX: usize = 16;

/// Somebody wants an image in a registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushWanted {
    /// What to push.
    pub root: Descriptor,
    /// Where to.
    pub to: Reference,
    /// What to do when it is taken.
    pub mode: PushMode,
    /// Whether each platform's image gets a tag of its own as well, such as `1.0-arm64`.
    #[serde(default)]
    pub arch_tags: bool,
    /// Whether a name that is taken by something else is passed over instead of failing, where it is not to be replaced.
    #[serde(default)]
    pub skip_if_exists: bool,
    /// Images whose repositories may hold its blobs already, at most [`MOUNT_FROM_MAX`]; those of another registry say nothing.
    #[serde(default)]
    pub mount_from: Vec<Reference>,
}

impl Fact for PushWanted {
    const NAME: &'static str = "PushWanted";
}

impl Work for PushWanted {
    fn id(&self) -> String {
        let how = format!("{:?} {} {}", self.mode, self.arch_tags, self.skip_if_exists);
        let mut parts = vec!["push".to_owned(), self.root.digest.to_string(), self.to.to_string(), how];
        parts.extend(self.mount_from.iter().map(ToString::to_string));
        token(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn rejected(&self, reason: Reason) -> Announcement {
        let id = self.id();
        Announcement::of(&WishRejected { id, reason })
    }
}

/// An image is in a registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImagePushed {
    /// The id of the work.
    pub id: String,
    /// Where it is.
    pub to: Reference,
    /// What is there now, under its name.
    pub root: Descriptor,
    /// Whether the name was left as it was.
    #[serde(default)]
    pub skipped: bool,
    /// What was there before its platforms were merged with those pushed.
    #[serde(default)]
    pub merged_from: Option<Digest>,
    /// The tags given to the images of single platforms.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Blobs and manifests that had to be sent.
    pub sent_blobs: u64,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
    /// Blobs that the registry took over from another of its repositories.
    #[serde(default)]
    pub mounted_blobs: u64,
}

impl Fact for ImagePushed {
    const NAME: &'static str = "ImagePushed";
}

impl News for ImagePushed {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}
