//! Digests, references, platforms, manifests and the graph they form. Pure: no I/O.
//!
//! Everything that comes from outside is parsed here once, into types whose fields are private: past this
//! crate no `String` means a digest and no unchecked document means a manifest.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod descriptor;
mod digest;
mod document;
mod error;
pub mod media_type;
mod merge;
mod platform;
mod policy;
mod reference;
mod referrer;
mod select;

pub use config::{Config, ImageConfig, RunConfig};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Digester};
pub use document::{
    Document, INDEX_DEPTH_MAX, INDEX_DESCRIPTORS_MAX, Image, Index, Kind, MANIFEST_BYTES_MAX,
};
pub use error::OciError;
pub use merge::{bundle, merge, overlay, restrict, without_dangling};
pub use platform::{Platform, PlatformSet};
pub use policy::{Expected, OnLocal, PushMode};
pub use reference::{NAME_BYTES_MAX, Reference, TAG_BYTES_MAX};
pub use select::{Selection, select};
