//! Images as tar streams.
//!
//! [`OciArchive`] writes an OCI image layout as a tar stream that containerd, skopeo and `docker load` read, [`DockerArchive`]
//! what older versions of `docker load` read too. The streams are deterministic: equal images make equal bytes. [`unpack`] reads
//! both, and what other tools write of these kinds. [`flatten`] makes one root filesystem of the layers of an image.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod compression;
mod docker;
mod error;
mod files;
mod flatten;
mod layout;
mod oci;
mod unpack;

pub use docker::DockerArchive;
pub use error::ArchiveError;
pub use flatten::{EntryFault, FlattenLimits, Layer, Layers, flatten};
pub use layout::{list_in_layout, pack_layout};
pub use oci::OciArchive;
pub use unpack::{Found, Sink, UnpackLimits, unpack};

const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME_ANNOTATION: &str = "io.containerd.image.name";
