//! What the client has done, as plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

/// Running totals since the client was built. Each only ever grows.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Requests for a manifest's bytes.
    pub manifest_get: AtomicU64,
    /// Requests for a manifest's headers.
    pub manifest_head: AtomicU64,
    /// Requests for a blob's bytes, each reopening counted.
    pub blob_get: AtomicU64,
    /// Requests for a blob's headers.
    pub blob_head: AtomicU64,
    /// Requests for a page of a list of tags or referrers.
    pub listing: AtomicU64,
    /// Requests to a token endpoint.
    pub token: AtomicU64,
    /// Requests that serve a push.
    pub push: AtomicU64,
    /// Bytes of bodies received.
    pub bytes_in: AtomicU64,
    /// Bytes of blobs and manifests handed to the network.
    pub bytes_out: AtomicU64,
    /// Waits before trying something again.
    pub retries: AtomicU64,
    /// Answers that ask for fewer requests.
    pub limited: AtomicU64,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ManifestGet,
    ManifestHead,
    BlobGet,
    BlobHead,
    Listing,
    Token,
    Push,
}

impl Traffic {
    pub(crate) fn request(&self, kind: Kind) {
        let counter = match kind {
            Kind::ManifestGet => &self.manifest_get,
            Kind::ManifestHead => &self.manifest_head,
            Kind::BlobGet => &self.blob_get,
            Kind::BlobHead => &self.blob_head,
            Kind::Listing => &self.listing,
            Kind::Token => &self.token,
            Kind::Push => &self.push,
        };
        add(counter, 1);
    }

    pub(crate) fn received(&self, bytes: usize) {
        add(&self.bytes_in, bytes as u64);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        add(&self.bytes_out, bytes as u64);
    }

    pub(crate) fn retried(&self) {
        add(&self.retries, 1);
    }

    pub(crate) fn limited(&self) {
        add(&self.limited, 1);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
