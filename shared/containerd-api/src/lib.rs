//! The protocol of containerd's content service, generated from `proto/`, which is containerd's own.

/// Package `containerd.services.content.v1`: messages, [`content::content_server`] and [`content::content_client`].
pub mod content {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated; the protocol leaves some of its fields without a word"
    )]
    tonic::include_proto!("containerd.services.content.v1");
}
