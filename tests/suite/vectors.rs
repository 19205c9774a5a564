//! The conformance vectors of the provider, by number, on the trait and in both modes.

pub(crate) mod archive;
mod crash;
mod export;
mod find;
mod flatten;
mod index;
mod load;
mod names;
mod presence;
mod pull;
mod readonly;
mod references;
mod sbom;
mod scale;
pub(crate) mod stage;
mod writers;
