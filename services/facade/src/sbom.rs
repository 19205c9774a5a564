//! Software bills of materials, from attestations as BuildKit writes them (in-toto statements in an image's layers).

use bytes::Bytes;
use larder_blobs::{BlobError, Blobs};
use larder_oci::{Document, Kind};
use larder_provider::ProviderError;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{blob_error, partial};

const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const SPDX: &str = "https://spdx.dev/Document";
/// The largest statement that is read, in bytes: the whole of it is held in memory.
const STATEMENT_BYTES_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    predicate_type: String,
    #[serde(borrow)]
    predicate: Option<&'a RawValue>,
}

/// The SPDX predicates of an attestation manifest, as they stand in their statements; other predicates are passed over.
pub(crate) async fn predicates(
    blobs: &Blobs,
    name: &str,
    attestation: &Document,
) -> Result<Vec<Bytes>, ProviderError> {
    let Kind::Image(image) = attestation.kind() else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for layer in &image.layers {
        let is_spdx = layer.annotations.get(PREDICATE_TYPE).is_some_and(|text| text == SPDX);
        if layer.media_type != IN_TOTO || !is_spdx {
            continue;
        }
        let bytes = match blobs.read_small(&layer.digest, STATEMENT_BYTES_MAX).await {
            Err(BlobError::NotFound(digest)) => return Err(partial(name, &[digest])),
            read => read.map_err(|error| blob_error(&error))?,
        };
        let corrupt = |what: &str| ProviderError::Corrupt(format!("{} of {name}: {what}", layer.digest));
        let statement: Statement<'_> = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(&format!("no in-toto statement: {error}")))?;
        if statement.predicate_type != SPDX {
            return Err(corrupt(&format!(
                "its predicate is {:?}, not {SPDX:?} as said of it",
                statement.predicate_type
            )));
        }
        let predicate = statement.predicate.ok_or_else(|| corrupt("it has no predicate"))?;
        found.push(bytes.slice_ref(predicate.get().as_bytes()));
    }
    Ok(found)
}
