//! Why something was not done.

use larder_oci::{Digest, Platform};
use serde::{Deserialize, Serialize};

/// Why a wish was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of failure.
    pub kind: ReasonKind,
    /// The whole chain of causes, for a person; at most 2 KiB, no secrets.
    pub message: String,
    /// The first blobs that are missing, at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Digest>,
    /// The platforms that were wanted and are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
    /// The HTTP status of the registry's last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Kinds of failure that a caller tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// The image, name or blob does not exist.
    NotFound,
    /// The image has no manifest for a wanted platform.
    PlatformNotFound,
    /// A digest, size or manifest did not hold.
    Integrity,
    /// The registry wants other credentials.
    Denied,
    /// The registry did not answer as it should, after retries.
    Upstream,
    /// The image is of a kind that larder does not take.
    Unsupported,
    /// Blobs that should be there are not (any more).
    Incomplete,
    /// What was asked for is not a valid wish.
    Invalid,
    /// An index where an image is needed, or the other way round.
    WrongKind,
    /// The name is held by something else.
    Conflict,
    /// The store failed, after retries.
    Storage,
    /// Every worker that tried has died or run out of time.
    Abandoned,
    /// A kind that this version does not know.
    #[serde(other)]
    Other,
}

const MESSAGE_BYTES_MAX: usize = 2048;
const MISSING_MAX: usize = 100;

impl Reason {
    /// A reason with a plain message.
    pub fn new(kind: ReasonKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        Self { kind, message, missing: Vec::new(), platforms: Vec::new(), status: None }
    }

    /// The same, telling which blobs are missing; only the first 100 are kept.
    #[must_use]
    pub fn with_missing(mut self, missing: &[Digest]) -> Self {
        self.missing = missing.iter().take(MISSING_MAX).cloned().collect();
        self
    }

    /// The same, telling which wanted platforms are not there.
    #[must_use]
    pub fn with_platforms(mut self, platforms: &[Platform]) -> Self {
        self.platforms = platforms.iter().take(MISSING_MAX).cloned().collect();
        self
    }

    /// The same, telling what the registry answered.
    #[must_use]
    pub fn with_status(mut self, status: Option<u16>) -> Self {
        self.status = status;
        self
    }

    /// A reason that tells `error` with all its causes.
    pub fn of(kind: ReasonKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let mut cause = error.source();
        while let Some(error) = cause {
            // Some libraries tell their causes themselves, and some in many lines.
            let text = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self::new(kind, message)
    }
}
