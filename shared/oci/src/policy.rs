//! What may happen to a name that is taken.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// What a name must point to for it to be changed: compare-and-swap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Whatever it points to.
    #[default]
    Any,
    /// To nothing.
    Absent,
    /// To this.
    At(Digest),
}

impl Expected {
    /// That the name still points to `current`.
    pub fn still(current: Option<&Digest>) -> Self {
        current.map_or(Self::Absent, |digest| Self::At(digest.clone()))
    }

    /// Whether a name that points to `current` may be changed.
    pub fn holds(&self, current: Option<&Digest>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::At(digest) => current == Some(digest),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anything"),
            Self::Absent => f.write_str("nothing"),
            Self::At(digest) => digest.fmt(f),
        }
    }
}

/// What a pull does to a name that was written here and has something that upstream has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnLocal {
    /// The local index keeps its images, and gets those of upstream for other platforms.
    #[default]
    Merge,
    /// The name points to what upstream has.
    Replace,
    /// The pull fails.
    Fail,
}

/// What a push does when the remote name is taken by something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PushMode {
    /// It fails.
    #[default]
    IfAbsent,
    /// The remote index keeps its images for other platforms.
    Merge,
    /// It replaces it.
    Replace,
}
