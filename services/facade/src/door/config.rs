//! What the door allows.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::DoorError;

/// Where the door is, and how much a peer may ask of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The address; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How many connections are open at a time; more wait to be accepted.
    pub connections_max: usize,
    /// How many of them one peer may have; more are closed at once. An IPv6 peer is a /64 network.
    pub connections_per_peer_max: usize,
    /// How long a connection may take to be encrypted, and then to send the head of a request, in seconds.
    pub header_timeout_s: u64,
    /// The largest head of a request, in bytes.
    pub header_bytes_max: u32,
    /// How long a connection may be open without a request, in seconds.
    pub idle_timeout_s: u64,
    /// How many requests an HTTP/2 connection may have in flight.
    pub streams_per_connection_max: u32,
    /// The slowest a body may be sent or taken, in bytes per second.
    pub rate_floor_bytes_per_s: u64,
    /// How long a body may be slower than that, in seconds.
    pub rate_floor_window_s: u64,
    /// Certificate and key; they are settings of their own (`[tls]`).
    #[serde(skip)]
    pub tls: TlsConfig,
}

/// With what connections are encrypted: with nothing, or with both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// A PEM file of the certificate and those it was signed with.
    pub certificate: Option<PathBuf>,
    /// A PEM file of its private key.
    pub key: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5050)),
            // Some 75 MiB when all are idle, below what a process may usually open, and a farm's nodes with what they keep open.
            connections_max: 4_096,
            // What stands before larder may gather a farm behind one address, but no single peer may take all.
            connections_per_peer_max: 512,
            header_timeout_s: 10,
            header_bytes_max: 16 * 1_024,
            // Longer than the 90 s for which clients written in Go keep a connection.
            idle_timeout_s: 120,
            streams_per_connection_max: 128,
            rate_floor_bytes_per_s: 1_024,
            rate_floor_window_s: 30,
            tls: TlsConfig::default(),
        }
    }
}

impl Config {
    /// Whether only this machine can reach the door.
    pub fn is_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }

    pub(super) fn check(&self) -> Result<(), DoorError> {
        let refuse = |setting: &str, what| Err(DoorError::Setting { setting: setting.to_owned(), what });
        let zeros = [
            ("connections_max", self.connections_max == 0),
            ("connections_per_peer_max", self.connections_per_peer_max == 0),
            ("header_timeout_s", self.header_timeout_s == 0),
            ("idle_timeout_s", self.idle_timeout_s == 0),
            ("streams_per_connection_max", self.streams_per_connection_max == 0),
            ("rate_floor_bytes_per_s", self.rate_floor_bytes_per_s == 0),
            ("rate_floor_window_s", self.rate_floor_window_s == 0),
        ];
        if let Some((setting, _)) = zeros.iter().find(|(_, is_zero)| *is_zero) {
            return refuse(setting, "must not be 0");
        }
        if !(8_192..=1 << 20).contains(&self.header_bytes_max) {
            return refuse("header_bytes_max", "must be between 8 KiB and 1 MiB");
        }
        if self.rate_floor_bytes_per_s.saturating_mul(self.rate_floor_window_s) > 1 << 20 {
            return refuse("rate_floor_window_s", "the floor must ask for at most 1 MiB in all of it");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return refuse("tls", "a certificate needs a key, and a key a certificate");
        }
        Ok(())
    }

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}
