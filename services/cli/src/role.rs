//! Which services there are.

use clap::ValueEnum;

/// What a process does on a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Answers clients
    Facade,
    /// Reads from upstream registries
    Fetcher,
    /// Judges images
    Verifier,
    /// Writes names
    Indexer,
    /// Writes to upstream registries
    Pusher,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Facade, Self::Fetcher, Self::Verifier, Self::Indexer, Self::Pusher];
}
