//! From the errors of stores to the codes that containerd's clients know.

use std::io::ErrorKind;

use larder_blobs::BlobError;
use larder_catalog::CatalogError;
use larder_oci::Digest;
use tonic::Status;

use super::filter::FilterError;
use crate::error::chain;

pub(super) fn blob_fault(error: &BlobError) -> Status {
    let message = chain(error);
    match error {
        BlobError::NotFound(_) => Status::not_found(message),
        BlobError::OutOfRange { .. } => Status::out_of_range(message),
        // A client asks again later, and finds what the other has written.
        BlobError::Overtaken { .. } | BlobError::Interrupted => Status::unavailable(message),
        BlobError::UploadNotFound(_) => Status::aborted(message),
        BlobError::UploadRefused { .. } => Status::invalid_argument(message),
        BlobError::Disk { source, .. } if source.kind() == ErrorKind::StorageFull => {
            Status::resource_exhausted(message)
        }
        error if error.is_integrity() => Status::data_loss(message),
        _ => Status::internal(message),
    }
}

/// What is wrong with bytes on their way in is who sent them to blame for.
pub(super) fn commit_fault(error: &BlobError) -> Status {
    if error.is_integrity() { Status::failed_precondition(chain(error)) } else { blob_fault(error) }
}

pub(super) fn catalog_fault(error: &CatalogError) -> Status {
    let message = chain(error);
    match error {
        CatalogError::Contended(_) => Status::aborted(message),
        CatalogError::Labels(_) => Status::invalid_argument(message),
        _ => Status::internal(message),
    }
}

pub(super) fn filter_fault(FilterError(message): FilterError) -> Status {
    Status::invalid_argument(message)
}

pub(super) fn absent(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

pub(super) fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(200).collect();
        Status::invalid_argument(format!("{shown:?} failed validation: it is no sha256 or sha512 digest"))
    })
}
