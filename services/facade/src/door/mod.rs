//! The door: who may come in over HTTP, how many, how fast, and what they may do.
//!
//! Behind it a request is a plain [`http::Request`] of a [`Body`]; whatever a peer does to its connection stays in here.
//!
//! Invariant: what a peer makes the process hold is bounded, in bytes, in connections and in time.

pub mod access;
mod activity;
mod admission;
mod body;
mod config;
mod connection;
mod error;
mod exchange;
mod head;
mod listener;
mod pace;
mod tls;
mod watched;
mod wire;

use std::net::SocketAddr;

pub use body::Body;
pub use config::{Config, TlsConfig};
pub use error::{BodyError, DoorError};
pub use listener::serve;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Whether it is encrypted.
    pub is_tls: bool,
}

#[cfg(test)]
mod tests;
