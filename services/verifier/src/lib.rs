//! Judges an image before it gets a name.
//!
//! Hears [`ImageStored`]; says [`larder_messages::ImageVerified`]; touches `blobs`. It also re-hashes what a name points to when asked
//! ([`AuditWanted`]).

mod audit;
mod error;
mod judge;

use actix::{Actor, Context};
use larder_blobs::Blobs;
use larder_messages::{AuditWanted, ImageStored};
use larder_runtime::Runtime;
use serde::Deserialize;

pub use audit::Audit;
pub use error::VerifyError;
pub use judge::Verify;

/// How much a verifier takes on at a time.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Images being judged at the same time; that reads manifests only.
    pub images_in_flight_max: usize,
    /// Images being re-hashed at the same time; that reads every byte.
    pub audits_in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { images_in_flight_max: 64, audits_in_flight_max: 2 }
    }
}

/// The verifier.
pub struct Verifier {
    blobs: Blobs,
}

impl Actor for Verifier {
    type Context = Context<Self>;
}

/// Starts a verifier that hears [`ImageStored`] and [`AuditWanted`].
pub fn start(runtime: &Runtime, config: &Config, blobs: Blobs) {
    let verifier = Verifier { blobs }.start();
    runtime.listen(config.images_in_flight_max, verifier.clone(), |stored: ImageStored, _| Verify { stored });
    runtime.listen(config.audits_in_flight_max, verifier, |wanted: AuditWanted, _| Audit { wanted });
}
