//! Looking into what a name points to.

use std::collections::HashSet;

use larder_blobs::Blobs;
use larder_oci::{Descriptor, Digest, Kind};
use larder_provider::{Inspection, Name, Part, ProviderError};

use crate::error::blob_error;

pub(crate) async fn inspect(blobs: &Blobs, found: Name) -> Result<Inspection, ProviderError> {
    let Name { name, descriptor } = found;
    let mut parts = Vec::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    let mut left = vec![descriptor.clone()];
    while let Some(at) = left.pop() {
        if !seen.insert(at.digest.clone()) {
            continue;
        }
        let document = blobs.document(&at).await.map_err(|error| blob_error(&error))?;
        let Some(document) = document else {
            parts.push(Part { descriptor: at, present: false, blobs: Vec::new() });
            continue;
        };
        let children: Vec<Descriptor> = document.children().into_iter().cloned().collect();
        if matches!(document.kind(), Kind::Index(_)) {
            // Pushed in reverse, so that they come off in the order of the document.
            left.extend(children.into_iter().rev());
        } else {
            let missing = blobs.missing(&children).await.map_err(|error| blob_error(&error))?;
            parts.push(Part { descriptor: at, present: missing.is_empty(), blobs: children });
        }
    }
    let sparse = parts.iter().any(|part| !part.present && part.descriptor.digest != descriptor.digest);
    Ok(Inspection { name, descriptor, sparse, parts })
}
