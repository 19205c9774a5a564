//! What can go wrong between us and an upstream registry.

use std::io;
use std::time::Duration;

use http::StatusCode;
use larder_oci::{Digest, OciError};

/// Why a request to a registry did not give what was asked for.
///
/// No message holds a secret: URLs are named by their host alone, and what a server says is cut to 200 printable characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry answers that it has no such manifest, blob or repository.
    #[error("{what} is not in the registry")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The registry wants credentials, and none are configured or it does not take them.
    #[error("{host} does not take the configured credentials, or wants some")]
    Unauthorized {
        /// Who refused.
        host: String,
    },
    /// The credentials are known but do not allow this.
    #[error("{host} denies access{reason}")]
    Denied {
        /// Who refused.
        host: String,
        /// What it says.
        reason: Reason,
    },
    /// The registry limits the rate of requests, even after waiting for it.
    #[error("{host} limits the rate of requests{reason}")]
    RateLimited {
        /// Who refused.
        host: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// What it says.
        reason: Reason,
    },
    /// Any other status that is no success.
    #[error("{host} answers {status}{reason}")]
    Status {
        /// Who answered.
        host: String,
        /// The status.
        status: StatusCode,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// What it says.
        reason: Reason,
    },
    /// Content does not have the digest it was asked for by, or that the registry gave it.
    #[error("expected {want}, received {got}")]
    Corrupt {
        /// The digest that was promised.
        want: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// A blob goes on after its last byte.
    #[error("blob is longer than its {size} bytes")]
    TooLong {
        /// The promised size in bytes.
        size: u64,
    },
    /// A blob ends early, each time it is asked for.
    #[error("blob ends after {got} of {size} bytes")]
    TooShort {
        /// The promised size in bytes.
        size: u64,
        /// The bytes that came.
        got: u64,
    },
    /// The registry declares another size than the one the manifest gives.
    #[error("blob of {want} bytes is declared to have {got}")]
    WrongLength {
        /// The promised size in bytes.
        want: u64,
        /// The declared size in bytes.
        got: u64,
    },
    /// A body exceeds its limit.
    #[error("{what} from {host} exceeds {limit_bytes} bytes")]
    TooLarge {
        /// Who sent it.
        host: String,
        /// Which body.
        what: &'static str,
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// The manifest is of a kind larder does not take, such as docker schema 1.
    #[error("{reference} is of an unsupported kind")]
    Unsupported {
        /// Which manifest.
        reference: String,
        /// Which kind, and what to do.
        #[source]
        source: OciError,
    },
    /// The manifest does not hold to its specification.
    #[error("{reference} is no valid manifest")]
    InvalidDocument {
        /// Which manifest.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: OciError,
    },
    /// The answer comes compressed, although it was asked for as it is.
    #[error("{host} answers with content encoding {encoding:?}")]
    Encoded {
        /// Who answered.
        host: String,
        /// The encoding.
        encoding: String,
    },
    /// The registry sends us for a token to where no credentials may go.
    #[error("{host} names {realm} as its token realm: {refusal}")]
    RealmRefused {
        /// The registry.
        host: String,
        /// The realm's host.
        realm: String,
        /// The rule that it breaks.
        refusal: Refusal,
    },
    /// The registry sends us to where we do not go.
    #[error("{host} redirects to {target}: {refusal}")]
    RedirectRefused {
        /// Who redirects.
        host: String,
        /// The target's host.
        target: String,
        /// The rule that it breaks.
        refusal: Refusal,
    },
    /// No connection, or a connection lost.
    #[error("cannot talk to {host}")]
    Unreachable {
        /// With whom.
        host: String,
        /// Why, without the URL.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{host} was silent for {after:?}")]
    TimedOut {
        /// Who.
        host: String,
        /// For how long.
        after: Duration,
    },
    /// Too little came for too long.
    #[error("{host} sends less than {floor_bytes_per_s} bytes per second")]
    TooSlow {
        /// Who.
        host: String,
        /// The least rate that is put up with.
        floor_bytes_per_s: u64,
    },
    /// It failed too often in a row, and is not asked.
    #[error("{host} has failed too often and is left alone for {left:?}")]
    Resting {
        /// Who.
        host: String,
        /// For how much longer.
        left: Duration,
    },
    /// A list has more entries, pages or bytes than are put up with.
    #[error("{host} lists more than {limit} {what}")]
    Endless {
        /// Who.
        host: String,
        /// Of what there is too much.
        what: &'static str,
        /// How much is put up with.
        limit: usize,
    },
    /// The answer makes no sense.
    #[error("{host} breaks the protocol: {what}")]
    Protocol {
        /// Who.
        host: String,
        /// How.
        what: &'static str,
    },
    /// Credentials are configured but cannot be had.
    #[error("cannot get credentials for {host}: {problem}")]
    Credentials {
        /// For whom.
        host: String,
        /// Why; never what a helper prints.
        problem: String,
    },
    /// The configuration cannot be used.
    #[error("invalid registry configuration: {what}")]
    Config {
        /// What is wrong.
        what: String,
    },
    /// The content to push cannot be read.
    #[error("cannot read the content to push")]
    Source {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The rule that a URL from a server breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It cannot be parsed, or has no host.
    #[error("not a URL with a host")]
    Malformed,
    /// It is neither http nor https.
    #[error("neither http nor https")]
    Scheme,
    /// It leads from https to http.
    #[error("leads from https to http")]
    Downgrade,
    /// It carries a user name or password.
    #[error("carries credentials in the URL")]
    UserInfo,
    /// Its host has nothing to do with the registry.
    #[error("a host that is neither the registry's nor among realm_hosts")]
    ForeignHost,
    /// It continues a list at another host, port or scheme than the list's.
    #[error("another place than the list that it continues")]
    ForeignLink,
    /// Its host has an address that a server at that place may not send us to.
    #[error("an address off limits, or closer to us than the registry's and not among private_hosts_allowed")]
    Address,
    /// There are more redirects than allowed, or they go in circles.
    #[error("too many redirects")]
    TooMany,
    /// A request that changes something is not sent to a second place.
    #[error("a write or a token request is not redirected")]
    Write,
}

/// What a registry gives as its reason: an error code and a message, at most 200 printable characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    /// The code, such as `MANIFEST_UNKNOWN`; empty when there is none.
    pub code: String,
    /// The message; empty when there is none.
    pub message: String,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in [&self.code, &self.message] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

impl RegistryError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                matches!(status.as_u16(), 408 | 425 | 500 | 502..=504 | 506..)
            }
            Self::RateLimited { .. }
            | Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::TooSlow { .. }
            | Self::TooShort { .. } => true,
            _ => false,
        }
    }

    /// The HTTP status that the registry answered with, if it is the answer that says no.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NotFound { .. } => Some(404),
            Self::Unauthorized { .. } => Some(401),
            Self::Denied { .. } => Some(403),
            Self::RateLimited { .. } => Some(429),
            Self::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }

    /// Whether no connection was made at all.
    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.is_connect())
    }

    /// Whether content did not hold to its digest or size.
    pub fn is_integrity(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. } | Self::TooLong { .. } | Self::TooShort { .. } | Self::WrongLength { .. }
        )
    }

    /// How long the registry asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Resting { left, .. } => Some(*left),
            _ => None,
        }
    }
}
