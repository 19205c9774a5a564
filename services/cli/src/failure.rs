//! How a command fails: a message, and a code that scripts can tell apart.

use std::fmt::Display;

use larder_provider::ProviderError;

/// A command that did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// What, where, and what to do.
    pub message: String,
    /// What a script tells it apart by.
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
/// Kinds of failure that a script tells apart.
pub enum Kind {
    /// It did not work.
    Failed,
    /// It was asked for in a wrong way.
    Usage,
    /// What was asked for does not exist.
    NotFound,
    /// A digest, size or manifest did not hold.
    Integrity,
    /// A signal ended it.
    Interrupted,
    /// Whoever read the output has seen enough.
    Unread,
}

impl Failure {
    /// Something was asked for in a wrong way.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: Kind::Usage }
    }

    /// `what` did not work.
    pub fn failed(what: &str, error: impl Display) -> Self {
        Self { message: format!("{what}: {error}"), kind: Kind::Failed }
    }

    /// The process's exit code.
    pub fn code(&self) -> i32 {
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
            error if error.is_invalid() => Kind::Usage,
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
