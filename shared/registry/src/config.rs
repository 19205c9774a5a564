//! What an operator decides about upstream registries.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::RegistryError;

/// How to reach upstream registries.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Settings per upstream, by `host[:port]` as references name it.
    pub hosts: BTreeMap<String, HostConfig>,
    /// PEM certificates trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A docker `config.json` to take credentials from, instead of the usual places.
    pub auth_file: Option<PathBuf>,
    /// Hosts that any registry may name as its token realm, beside its own domain.
    pub realm_hosts: Vec<String>,
    /// Hosts that servers may redirect to even though they are closer to us than the registry is.
    pub private_hosts_allowed: Vec<String>,
    /// Blob transfers at a time per upstream host; registries throttle beyond a handful.
    pub connections_per_host_max: usize,
    /// Tries again in a row before giving up.
    pub retries_max: u32,
    /// First wait before trying again, doubled each time, in milliseconds.
    pub retry_wait_ms_min: u64,
    /// Longest wait before trying again, also when the registry asks for more, in milliseconds.
    pub retry_wait_ms_max: u64,
    /// Longest that a request for content waits for a host that is to be left alone, in milliseconds; it fails at once when it
    /// would have to wait for longer. Pushes wait for `retry_wait_ms_max`.
    pub rest_wait_ms_max: u64,
    /// Time for a connection to stand, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Time without a byte before a transfer counts as cut, in milliseconds.
    pub read_timeout_ms: u64,
    /// Time for a registry to take over an upload after its last byte, in milliseconds; some copy it first.
    pub commit_timeout_ms: u64,
    /// Length of the requests in which a blob is pushed, in bytes; with 0 it is pushed in one, if the registry takes it.
    pub push_chunk_bytes: u64,
    /// Largest manifest, in bytes.
    pub manifest_bytes_max: usize,
    /// Largest token or error body, in bytes.
    pub token_bytes_max: usize,
    /// Redirects followed per request.
    pub redirects_max: usize,
    /// Least mean rate of a blob transfer.
    pub rate_floor_bytes_per_s: u64,
    /// Time over which that mean is taken, in seconds.
    pub rate_floor_window_s: u64,
    /// How we introduce ourselves.
    pub user_agent: String,
}

/// How to reach one upstream host.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// The protocol; without it, http for loopback hosts and https for all others.
    pub scheme: Option<Scheme>,
    /// URLs of mirrors, asked in turn before the host itself. A path is put before the repository.
    pub mirrors: Vec<String>,
    /// Blob transfers at a time, instead of [`Config::connections_per_host_max`].
    pub connections_max: Option<usize>,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            ca_file: None,
            auth_file: None,
            realm_hosts: Vec::new(),
            private_hosts_allowed: Vec::new(),
            connections_per_host_max: 6,
            retries_max: 5,
            retry_wait_ms_min: 200,
            retry_wait_ms_max: 60_000,
            rest_wait_ms_max: 5_000,
            connect_timeout_ms: 10_000,
            read_timeout_ms: 30_000,
            commit_timeout_ms: 300_000,
            push_chunk_bytes: 0,
            manifest_bytes_max: larder_oci::MANIFEST_BYTES_MAX,
            token_bytes_max: 64 << 10,
            redirects_max: 5,
            rate_floor_bytes_per_s: 1024,
            rate_floor_window_s: 30,
            user_agent: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Config {
    pub(crate) fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }

    /// How long a request for content waits for a host that rests.
    pub(crate) fn rest_wait_max(&self) -> Duration {
        Duration::from_millis(self.rest_wait_ms_max.min(self.retry_wait_ms_max))
    }

    /// Checks what can be checked without touching disk or network.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let zero = [
            ("connections_per_host_max", self.connections_per_host_max == 0),
            ("connect_timeout_ms", self.connect_timeout_ms == 0),
            ("read_timeout_ms", self.read_timeout_ms == 0),
            ("rate_floor_window_s", self.rate_floor_window_s == 0),
        ];
        if let Some((key, _)) = zero.iter().find(|(_, is_zero)| *is_zero) {
            return Err(invalid(format!("{key} is zero")));
        }
        for (host, settings) in &self.hosts {
            if settings.connections_max == Some(0) {
                return Err(invalid(format!("connections_max of {host} is zero")));
            }
            for mirror in &settings.mirrors {
                parse_mirror(mirror)?;
            }
        }
        Ok(())
    }
}

/// Reads a mirror's URL.
pub(crate) fn parse_mirror(text: &str) -> Result<Url, RegistryError> {
    // The text may hold a password, so a refusal does not repeat it.
    let url = Url::parse(text).map_err(|_| invalid("a mirror is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("a mirror is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("a mirror carries credentials: put them into the docker configuration"));
    }
    Ok(url)
}

pub(crate) fn invalid(what: impl Into<String>) -> RegistryError {
    RegistryError::Config { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_unknown_keys() {
        assert!(serde_json::from_str::<Config>(r#"{"retrys_max": 3}"#).is_err());
        let config: Config = serde_json::from_str(r#"{"retries_max": 3}"#).unwrap();
        assert_eq!((config.retries_max, config.read_timeout_ms), (3, 30_000));
    }

    #[test]
    fn refuses_mirror_with_password_without_repeating_it() {
        let error = parse_mirror("https://me:hunter2@mirror.example").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(parse_mirror("ftp://mirror.example").is_err());
        assert!(parse_mirror("mirror.example").is_err());
    }
}
