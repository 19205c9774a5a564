//! What can fail on the bus.

use std::path::PathBuf;

/// Says what failed on the bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// A queue, topic or message was given a name that cannot be one token of a subject.
    #[error("{what} {name:?} is not 1 to {chars_max} of A-Z, a-z, 0-9, `_` and `-`")]
    InvalidName {
        /// The thing that was to be named.
        what: &'static str,
        /// The name, cut to its first characters.
        name: String,
        /// How many characters a name may have.
        chars_max: usize,
    },
    /// A setting is out of its range.
    #[error("setting {key} {why}")]
    InvalidConfig {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with its value.
        why: &'static str,
    },
    /// The URL names no bus.
    #[error("bus url {url} {why}")]
    InvalidUrl {
        /// The URL without credentials.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file the connection needs cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No server answered in time.
    #[error("cannot connect to {url}")]
    Connect {
        /// The servers without credentials.
        url: String,
        /// The last cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server refused the credentials.
    #[error("{url} refuses the credentials")]
    Unauthorized {
        /// The servers without credentials.
        url: String,
    },
    /// The server lacks what the bus relies on.
    #[error("{url} runs nats-server {version}, and 2.10 or later is needed")]
    ServerTooOld {
        /// The servers without credentials.
        url: String,
        /// What the server says it is.
        version: String,
    },
    /// The server stores no messages.
    #[error("{url} runs without JetStream")]
    JetStreamMissing {
        /// The servers without credentials.
        url: String,
    },
    /// The server refuses the settings of a stream or consumer: mostly because one of that name exists with others that cannot be changed.
    #[error("server refuses the settings of {name}")]
    Conflict {
        /// The stream or consumer.
        name: String,
        /// What the server said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The payload is larger than the bus carries.
    #[error("payload of {bytes} bytes exceeds {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        bytes_max: usize,
    },
    /// The queue holds as many messages as it may.
    #[error("queue {queue} is full")]
    Full {
        /// The queue.
        queue: String,
    },
    /// The bus was closed by this process.
    #[error("bus is closed")]
    Closed,
    /// The server did not do what it was asked, or did not answer; in the latter case it may have done it.
    #[error("cannot {act}")]
    Nats {
        /// What was asked of it.
        act: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl BusError {
    /// Tells whether the same call may succeed later without anybody changing anything.
    pub fn heals(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Nats { .. } | Self::Full { .. })
    }

    /// Names a failed act of the server.
    pub(crate) fn nats(
        act: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Nats { act, source: source.into() }
    }
}
