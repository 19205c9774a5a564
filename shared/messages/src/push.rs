//! Facts about images on their way to registries.

use larder_oci::{Descriptor, Reference};
use serde::{Deserialize, Serialize};

use crate::name::token;
use crate::{Announcement, Fact, News, Reason, WishRejected, Work};

/// What to do when the remote name is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushMode {
    /// Fail if it holds something else.
    #[default]
    IfAbsent,
    /// Replace it.
    Replace,
}

/// Somebody wants an image in a registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PushWanted {
    /// What to push.
    pub root: Descriptor,
    /// Where to.
    pub to: Reference,
    /// What to do when it is taken.
    pub mode: PushMode,
}

impl Fact for PushWanted {
    const NAME: &'static str = "PushWanted";
}

impl Work for PushWanted {
    fn id(&self) -> String {
        let mode = format!("{:?}", self.mode);
        token(&["push", self.root.digest.as_str(), &self.to.to_string(), &mode])
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
    /// What was pushed, byte for byte.
    pub root: Descriptor,
    /// Blobs that had to be sent.
    pub sent_blobs: u64,
    /// Bytes that had to be sent.
    pub sent_bytes: u64,
}

impl Fact for ImagePushed {
    const NAME: &'static str = "ImagePushed";
}

impl News for ImagePushed {
    fn key(&self) -> Option<String> {
        Some(self.id.clone())
    }
}
