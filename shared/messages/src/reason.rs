//! Why something was not done.

use serde::{Deserialize, Serialize};

/// Why a wish was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What kind of failure.
    pub kind: ReasonKind,
    /// The whole chain of causes, for a person; at most 2 KiB, no secrets.
    pub message: String,
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

impl Reason {
    /// A reason with a plain message.
    pub fn new(kind: ReasonKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or(0));
        }
        Self { kind, message }
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
