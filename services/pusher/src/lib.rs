//! The only writer to upstream registries.
//! Hears [`PushWanted`]; says [`ImagePushed`](larder_messages::ImagePushed); touches `blobs`, `registry`.
//! Invariant: what is pushed is byte for byte what is stored, unless indexes are merged or an attestation is of nothing; children
//! come before what points to them; no name is made here but in the registry.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arch_tags;
mod error;
mod merge;
mod push;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use actix::{Actor, Context, Handler};
use larder_blobs::Blobs;
use larder_messages::PushWanted;
use larder_registry::Client;
use larder_runtime::{Outcome, Runtime, Says, on_pool};
use serde::Deserialize;

pub use error::PushError;

/// How much a pusher takes on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Images being pushed at the same time.
    pub images_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { images_in_flight_max: 8 }
    }
}

/// The pusher.
pub struct Pusher {
    ports: Arc<Ports>,
}

struct Ports {
    blobs: Blobs,
    registry: Client,
}

impl Actor for Pusher {
    type Context = Context<Self>;
}

/// Starts a pusher that hears [`PushWanted`].
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs, registry: Client) {
    let pusher = Pusher { ports: Arc::new(Ports { blobs, registry }) }.start();
    runtime.listen(config.images_in_flight_max, pusher, |wanted: PushWanted, _| Push { wanted });
}

/// Push what is wanted.
#[derive(actix::Message)]
#[rtype(result = "Outcome")]
pub struct Push {
    /// What, and where to.
    pub wanted: PushWanted,
}

impl Handler<Push> for Pusher {
    type Result = actix::ResponseFuture<Outcome>;

    fn handle(&mut self, Push { wanted }: Push, _: &mut Context<Self>) -> Self::Result {
        let ports = Arc::clone(&self.ports);
        on_pool(async move {
            let pushed = push::push(&ports, &wanted).await?;
            Ok(Says::default().news(&pushed))
        })
    }
}
