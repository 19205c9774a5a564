//! The settings of the bus.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::BusError;
use crate::name::is_token;

/// Holds the settings of the bus. The memory bus reads only `news_buffer_max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long opening keeps trying, so that a farm may start in any order.
    pub connect_timeout_ms: u64,
    /// How long one request waits for the server.
    pub request_timeout_ms: u64,
    /// What the names of all streams begin with; its lower case begins all subjects. One per farm that shares an account.
    pub stream_prefix: String,
    /// How many servers keep each stream, 1 to 5. One survives a restart, three survive a server.
    pub replicas: usize,
    /// How long unfinished work is kept. Whoever still waits for it says it again.
    pub work_age_s_max: u64,
    /// How many messages of one queue may be in work at once over all processes, those that wait for a retry included.
    pub in_work_max: u32,
    /// How many dead letters the server keeps, the oldest making room.
    pub dead_letters_max: u32,
    /// How long a dead letter is kept.
    pub dead_letter_age_s_max: u64,
    /// How many news a listener may lag behind before it loses what comes next.
    pub news_buffer_max: usize,
    /// The file with a NATS JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// The certificates to trust beside those of the system, as PEM.
    pub ca_file: Option<PathBuf>,
    /// The monitoring address of the server, `http://host:8222`. When unset, port 8222 of the first server is tried.
    pub monitor_url: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            request_timeout_ms: 5_000,
            stream_prefix: "LARDER".to_owned(),
            replicas: 1,
            work_age_s_max: 24 * 60 * 60,
            in_work_max: 10_000,
            dead_letters_max: 10_000,
            dead_letter_age_s_max: 7 * 24 * 60 * 60,
            news_buffer_max: 8_192,
            credentials_file: None,
            ca_file: None,
            monitor_url: None,
        }
    }
}

impl Config {
    /// Refuses values that no bus can honour.
    pub(crate) fn check(&self) -> Result<(), BusError> {
        let rules = [
            (self.connect_timeout_ms > 0, "connect_timeout_ms", "must not be 0"),
            (self.request_timeout_ms > 0, "request_timeout_ms", "must not be 0"),
            (
                is_token(&self.stream_prefix),
                "stream_prefix",
                "must be one word of letters, digits, `_` and `-`",
            ),
            ((1..=5).contains(&self.replicas), "replicas", "must be 1 to 5"),
            (self.work_age_s_max > 0, "work_age_s_max", "must not be 0"),
            (self.in_work_max > 0, "in_work_max", "must not be 0"),
            (self.dead_letters_max > 0, "dead_letters_max", "must not be 0"),
            (self.dead_letter_age_s_max > 0, "dead_letter_age_s_max", "must not be 0"),
            (self.news_buffer_max > 0, "news_buffer_max", "must not be 0"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, why)) => Err(BusError::InvalidConfig { key, why }),
            None => Ok(()),
        }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_prefix_that_is_no_word() {
        let config = Config { stream_prefix: "a.b".to_owned(), ..Config::default() };
        assert!(matches!(config.check(), Err(BusError::InvalidConfig { key: "stream_prefix", .. })));
    }

    #[test]
    fn refuses_unknown_keys_and_fills_in_defaults() {
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>(r#"{"replica": 3}"#).is_err());
    }
}
