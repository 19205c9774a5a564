//! What can go wrong at the door.

use std::net::SocketAddr;
use std::path::PathBuf;

use larder_provider::ProviderError;

/// Why the door does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file of certificates, keys or credentials cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {what}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The line, where there is one, and what is wrong with it; never what the line says.
        what: String,
    },
    /// A certificate and a key that rustls does not take.
    #[error("cannot use the certificate and key of {}", path.display())]
    Certificate {
        /// The file of the certificate.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: rustls::Error,
    },
    /// A setting that makes no sense.
    #[error("{setting}: {what}")]
    Setting {
        /// Its key.
        setting: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It has more bytes than are taken.
    #[error("the body has more than {bytes_max} bytes")]
    TooLarge {
        /// How many are taken.
        bytes_max: usize,
    },
    /// Its bytes come too slowly.
    #[error("the body comes at less than {bytes_per_s} bytes a second")]
    TooSlow {
        /// How many are asked for.
        bytes_per_s: u64,
    },
    /// It ended before, or went on after, the size that was said.
    #[error("the body was to have {size} bytes and has others")]
    Size {
        /// What was said.
        size: u64,
    },
    /// What is served could not be read.
    #[error("cannot read what is served")]
    Content(#[source] ProviderError),
    /// The peer broke off, or broke the protocol.
    #[error("the connection broke off")]
    Connection(#[source] hyper::Error),
}

impl BodyError {
    /// Whether it is the peer's doing, and no other answer would have helped it.
    pub fn is_peers(&self) -> bool {
        !matches!(self, Self::Content(_) | Self::Size { .. })
    }
}
