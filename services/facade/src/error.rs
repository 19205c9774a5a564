//! From the errors of stores and actors to those of the provider.

use larder_archive::ArchiveError;
use larder_blobs::BlobError;
use larder_blobs::closure::Closure;
use larder_catalog::CatalogError;
use larder_messages::{Reason, ReasonKind};
use larder_oci::{Digest, OciError};
use larder_provider::ProviderError;

/// How many missing blobs an error lists.
const MISSING_MAX: usize = 100;

/// The message of an error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    Reason::of(ReasonKind::Other, error).message
}

pub(crate) fn invalid(error: &OciError) -> ProviderError {
    ProviderError::InvalidReference(chain(error))
}

pub(crate) fn platform_error(typed: &str, error: OciError) -> ProviderError {
    let message = format!("{typed}: {error}");
    match error {
        OciError::PlatformNotFound { wanted, .. } => {
            ProviderError::PlatformNotFound { message, missing: wanted }
        }
        OciError::NotAnIndex(_) | OciError::Empty => ProviderError::WrongKind(message),
        _ => ProviderError::Corrupt(message),
    }
}

pub(crate) fn partial(typed: &str, missing: &[Digest]) -> ProviderError {
    let first = missing.first().map(ToString::to_string).unwrap_or_default();
    let count = missing.len();
    let message = format!(
        "{count} blobs of {typed} are not in the cache, first {first}; pull it (for these platforms) first"
    );
    ProviderError::Partial { message, missing: missing.iter().take(MISSING_MAX).cloned().collect() }
}

/// Refuses what is damaged or not all there.
pub(crate) fn refuse_partial(typed: &str, closure: &Closure) -> Result<(), ProviderError> {
    if let Some((digest, what)) = closure.invalid.first() {
        return Err(ProviderError::Corrupt(format!("{digest} of {typed} is damaged: {what}")));
    }
    if closure.is_hollow() {
        return Err(partial(typed, &closure.absent));
    }
    if closure.missing.is_empty() { Ok(()) } else { Err(partial(typed, &closure.missing)) }
}

pub(crate) fn blob_error(error: &BlobError) -> ProviderError {
    match error {
        BlobError::NotFound(_) => ProviderError::NotFound(chain(error)),
        BlobError::OutOfRange { .. } => ProviderError::OutOfRange(chain(error)),
        error if error.is_integrity() => ProviderError::Corrupt(chain(error)),
        error => ProviderError::Storage(chain(error)),
    }
}

pub(crate) fn catalog_error(error: &CatalogError) -> ProviderError {
    match error {
        CatalogError::Name(_) => ProviderError::InvalidReference(chain(error)),
        CatalogError::Contended(_) | CatalogError::Moved { .. } => ProviderError::Conflict(chain(error)),
        error => ProviderError::Storage(chain(error)),
    }
}

/// What came out of the store, or from whoever sent the archive, is told apart from what the archive holds.
pub(crate) fn archive_error(error: &ArchiveError) -> ProviderError {
    if let Some(inner) = source_of::<BlobError>(error) {
        return blob_error(inner);
    }
    if let Some(inner) = source_of::<ProviderError>(error) {
        return inner.clone();
    }
    if error.is_unsupported() {
        ProviderError::Unsupported(chain(error))
    } else if error.is_integrity() {
        ProviderError::Corrupt(chain(error))
    } else {
        ProviderError::Storage(chain(error))
    }
}

/// The cause of type `E` below `error`, also inside of I/O errors.
fn source_of<'a, E: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        at = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

pub(crate) fn refused(reason: Reason) -> ProviderError {
    let Reason { kind, message, missing, platforms, status } = reason;
    match kind {
        ReasonKind::NotFound => ProviderError::NotFound(message),
        ReasonKind::PlatformNotFound => ProviderError::PlatformNotFound { message, missing: platforms },
        ReasonKind::Integrity => ProviderError::Corrupt(message),
        ReasonKind::Denied => ProviderError::Denied(message),
        ReasonKind::Upstream | ReasonKind::Other => ProviderError::Remote { message, status },
        ReasonKind::Unsupported => ProviderError::Unsupported(message),
        ReasonKind::Incomplete => ProviderError::Partial { message, missing },
        ReasonKind::Invalid => ProviderError::InvalidReference(message),
        ReasonKind::WrongKind => ProviderError::WrongKind(message),
        ReasonKind::Conflict => ProviderError::Conflict(message),
        ReasonKind::Storage => ProviderError::Storage(message),
        ReasonKind::Abandoned => ProviderError::Unavailable(message),
    }
}
