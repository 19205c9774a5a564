//! The upstream registry client: one egress door.
//!
//! Speaks OCI distribution to registries that it does not trust: what they send is bounded, hashed against what was asked for
//! and resumed when it is cut; where they send us is judged by `egress` before anything leaves.
//!
//! **Invariant:** nothing but `egress` makes a request, and it makes none to a URL from a server that breaks its rules.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod answer;
mod auth;
mod blob;
mod client;
mod config;
mod credentials;
mod egress;
mod error;
mod feed;
mod listing;
mod manifest;
mod patience;
mod push;
mod rest;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;
mod traffic;
mod upload;
mod upstream;

pub use blob::{BlobStream, Chunk};
pub use client::Client;
pub use config::{Config, HostConfig, Scheme};
pub use error::{Reason, Refusal, RegistryError};
pub use feed::Content;
pub use manifest::Head;
pub use rest::{Resting, Rests};
pub use traffic::Traffic;
