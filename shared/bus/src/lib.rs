//! Subjects, bytes and acknowledgement: `mem:` and `nats://` behind one trait, with the `suite` both pass.
//!
//! - **Work** is said on a named [`Queue`] and heard by one worker of all processes, at least once, until it is acknowledged.
//! - **News** is announced on a [`Topic`] and heard by everybody who listens at that moment, at most once.
//! - **Dead letters** are the messages nobody managed to finish.
//!
//! **Invariant:** nothing here knows what a payload means. **Invariant:** the bus is no truth; whoever lost a message says it again.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bus;
mod config;
mod durability;
mod error;
mod memory;
mod name;
mod nats;
#[cfg(feature = "suite")]
pub mod suite;

use std::sync::Arc;

pub use bus::{Bus, Delivery, Depth, Heard, Letter, News, PAYLOAD_BYTES_MAX, Said, Settle, Worker};
pub use config::Config;
pub use durability::{Durability, durability};
pub use error::BusError;
pub use name::{MessageId, NAME_CHARS_MAX, Policy, Queue, Topic};

/// The URL of the bus that lives in this process.
const MEMORY_URL: &str = "mem:";

/// Opens the bus behind `url`: `mem:` for a new one in this process, else a NATS server with JetStream, 2.10 or later.
///
/// A NATS URL is `nats://` or `tls://`, then servers separated by commas, each `host`, `host:port` or with `user:password@` or `token@`
/// before it (percent-encoded where needed); the first credentials found count for all servers.
///
/// # Errors
/// [`BusError::InvalidUrl`] and [`BusError::InvalidConfig`] at once; [`BusError::Unauthorized`], [`BusError::ServerTooOld`],
/// [`BusError::JetStreamMissing`] and [`BusError::Conflict`] as soon as the server says so; [`BusError::Connect`] or
/// [`BusError::Nats`] after `connect_timeout_ms` of retries.
pub async fn open(url: &str, config: &Config) -> Result<Arc<dyn Bus>, BusError> {
    config.check()?;
    if url == MEMORY_URL {
        return Ok(Arc::new(memory::MemoryBus::new(config)));
    }
    Ok(Arc::new(nats::NatsBus::open(url, config).await?))
}
