//! Names that are safe as one token of a subject, and the queue a name and a policy make.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::BusError;

/// How many characters a queue, a topic or a message id may have.
pub const NAME_CHARS_MAX: usize = 100;

/// Tells whether `name` is one token that every server, file system and shell takes as it is.
pub(crate) fn is_token(name: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(safe)
}

fn token(what: &'static str, name: &str) -> Result<Arc<str>, BusError> {
    if is_token(name) {
        return Ok(name.into());
    }
    let name = name.chars().take(NAME_CHARS_MAX).collect();
    Err(BusError::InvalidName { what, name, chars_max: NAME_CHARS_MAX })
}

macro_rules! token_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BusError;

            fn from_str(name: &str) -> Result<Self, BusError> {
                token($what, name).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

token_name! {
    /// Names what a message is about. While a message of that id is in its queue, no other is taken.
    MessageId, "message id"
}

token_name! {
    /// Names what news are about.
    Topic, "topic"
}

/// Says how patient a queue is, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How long a worker may stay silent before its message goes to another.
    pub ack_wait_ms: u64,
    /// How often a message is delivered before it is a dead letter.
    pub attempts_max: u32,
    /// How many messages, waiting and in work, the queue holds.
    pub depth_max: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { ack_wait_ms: 30_000, attempts_max: 5, depth_max: 10_000 }
    }
}

/// Names a queue and holds its policy. Everybody who uses a queue should agree on the policy; the last to open it wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    name: Arc<str>,
    policy: Policy,
}

impl Queue {
    /// Makes the queue `name` under `policy`.
    ///
    /// # Errors
    /// [`BusError::InvalidName`] for a name that is no token; [`BusError::InvalidConfig`] for a policy with a zero.
    pub fn new(name: &str, policy: Policy) -> Result<Self, BusError> {
        let rules = [
            (policy.ack_wait_ms > 0, "ack_wait_ms"),
            (policy.attempts_max > 0, "attempts_max"),
            (policy.depth_max > 0 && i64::try_from(policy.depth_max).is_ok(), "depth_max"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, key)) => Err(BusError::InvalidConfig { key, why: "is out of range" }),
            None => Ok(Self { name: token("queue name", name)?, policy }),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long a worker may stay silent.
    pub fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.policy.ack_wait_ms)
    }

    /// How often a message is delivered at most.
    pub fn attempts_max(&self) -> u32 {
        self.policy.attempts_max
    }

    /// How many messages the queue holds at most.
    pub fn depth_max(&self) -> u64 {
        self.policy.depth_max
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_only_tokens_as_names() {
        for (name, fits) in [
            ("sha256-0a", true),
            ("A_b-9", true),
            ("", false),
            ("a.b", false),
            ("a b", false),
            ("*", false),
            ("ä", false),
        ] {
            assert_eq!(name.parse::<MessageId>().is_ok(), fits, "{name:?}");
        }
        assert!("x".repeat(NAME_CHARS_MAX).parse::<Topic>().is_ok());
        assert!("x".repeat(NAME_CHARS_MAX + 1).parse::<Topic>().is_err());
    }

    #[test]
    fn refuses_a_policy_with_a_zero() {
        assert!(Queue::new("q", Policy::default()).is_ok());
        assert!(Queue::new("q", Policy { attempts_max: 0, ..Policy::default() }).is_err());
    }
}
