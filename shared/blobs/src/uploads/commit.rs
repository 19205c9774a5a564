//! What has come in parts becomes one blob.

use futures::TryStreamExt;
use larder_oci::{Digest, Digester};

use super::{PartBlob, Upload};
use crate::{BlobError, Blobs, Claim, check, hash};

pub(super) async fn commit(
    blobs: &Blobs,
    upload: &Upload,
    expected: &Digest,
    size: Option<u64>,
) -> Result<(), BlobError> {
    if let Some(want) = size
        && want != upload.size
    {
        return Err(BlobError::WrongSize { digest: expected.clone(), want, got: upload.size });
    }
    if let [only] = &upload.parts[..]
        && only.digest.algorithm() == expected.algorithm()
    {
        check(expected, None, &only.digest, only.size)?;
        // To ask is to mark it as used.
        return match blobs.ingest(expected, Some(only.size)).await? {
            Claim::Present(_) => Ok(()),
            Claim::Granted(_) => Err(BlobError::NotFound(only.digest.clone())),
        };
    }
    match blobs.ingest(expected, Some(upload.size)).await? {
        Claim::Present(_) => compare(blobs, &upload.parts, expected).await,
        Claim::Granted(mut ingest) => {
            if ingest.offset() > 0 {
                ingest.restart().await?;
            }
            for part in &upload.parts {
                let mut bytes = blobs.read_range(&part.digest, 0, None).await?.bytes;
                while let Some(chunk) = bytes.try_next().await? {
                    ingest.write(chunk).await?;
                }
            }
            ingest.commit().await.map(drop)
        }
    }
}

/// Whether the parts are what is there already: to say so of other bytes would be a lie.
async fn compare(blobs: &Blobs, parts: &[PartBlob], expected: &Digest) -> Result<(), BlobError> {
    let mut digester = Digester::new(expected.algorithm());
    for part in parts {
        let mut bytes = blobs.read_range(&part.digest, 0, None).await?.bytes;
        while let Some(chunk) = bytes.try_next().await? {
            digester = hash(digester, vec![chunk]).await?;
        }
    }
    check(expected, None, &digester.finish(), 0)
}
