//! How a command fails: a message, and a code that scripts can tell apart.

use std::fmt::Display;

use larder_provider::ProviderError;

/// A command that did not do what it was asked to.
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Failed,
    Usage,
    NotFound,
    Integrity,
    Interrupted,
    /// Whoever read the output has seen enough.
    Unread,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: Kind::Usage }
    }

    pub(crate) fn failed(what: &str, error: impl Display) -> Self {
        Self { message: format!("{what}: {error}"), kind: Kind::Failed }
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> i32 {
        match self.kind {
            Kind::Unread => 0,
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Integrity => 4,
            // As a shell reports a process that SIGINT ended.
            Kind::Interrupted => 130,
        }
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let kind = match &error {
            ProviderError::InvalidReference(_) => Kind::Usage,
            error if error.is_not_found() => Kind::NotFound,
            error if error.is_integrity() => Kind::Integrity,
            _ => Kind::Failed,
        };
        Self { message: error.to_string(), kind }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let mut failure = Self::failed("cannot write the output", &error);
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            failure.kind = Kind::Unread;
        }
        failure
    }
}
