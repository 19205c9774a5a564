//! What every store of blobs must hold to, run against each by the tests.

mod drafts;
mod fillings;
mod listing;
mod ranges;
mod uploads;

use bytes::Bytes;
use futures::StreamExt;
use larder_oci::{Descriptor, Digest, media_type};

use crate::{BlobError, Blobs, Claim, Content, Ingest};

/// Runs the whole suite on `blobs`, with content that no earlier run has stored.
pub async fn all(blobs: &Blobs, seed: &str) {
    commit_makes_visible(blobs, seed).await;
    refuses_blob_whose_digest_differs(blobs, seed).await;
    refuses_blob_whose_size_differs(blobs, seed).await;
    abandoned_ingest_is_invisible(blobs, seed).await;
    restart_forgets_what_came(blobs, seed).await;
    present_blob_is_not_written_again(blobs, seed).await;
    large_blob_survives_the_round_trip(blobs, seed).await;
    empty_blob_is_a_blob(blobs).await;
    reads_documents_whole_and_checked(blobs, seed).await;
    drafts::all(blobs, seed).await;
    ranges::all(blobs, seed).await;
    listing::all(blobs, seed).await;
    fillings::all(blobs, seed).await;
    uploads::all(blobs, seed).await;
}

fn content(seed: &str, what: &str) -> (Digest, Bytes) {
    let bytes = Bytes::from(format!("{seed} {what}"));
    (Digest::of(&bytes), bytes)
}

async fn granted(blobs: &Blobs, digest: &Digest, size: Option<u64>) -> Ingest {
    match blobs.ingest(digest, size).await.expect("ingest starts") {
        Claim::Granted(ingest) => ingest,
        Claim::Present(_) => panic!("{digest} is there before it was written"),
    }
}

async fn collect(blobs: &Blobs, digest: &Digest) -> Result<Vec<u8>, BlobError> {
    let content = blobs.read(digest).await?;
    let size = content.size;
    let all = drain(content).await?;
    assert_eq!(all.len() as u64, size);
    Ok(all)
}

async fn drain(mut content: Content) -> Result<Vec<u8>, BlobError> {
    let mut all = Vec::new();
    while let Some(chunk) = content.bytes.next().await {
        all.extend_from_slice(&chunk?);
    }
    Ok(all)
}

/// Bytes that no other seed has and that no compression shrinks.
fn noise(seed: &str, length: usize) -> Bytes {
    let first = Digest::of(seed.as_bytes());
    let mut word = u64::from_le_bytes(first.hex().as_bytes()[..8].try_into().expect("8 bytes"));
    let mut whole = Vec::with_capacity(length);
    while whole.len() < length {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        whole.extend_from_slice(&word.to_le_bytes());
    }
    whole.truncate(length);
    whole.into()
}

async fn commit_makes_visible(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "visible");
    let mut ingest = granted(blobs, &digest, Some(bytes.len() as u64)).await;
    ingest.write(bytes.slice(..3)).await.expect("write");
    assert_eq!(blobs.size(&digest).await.expect("size"), None);
    assert!(matches!(blobs.read(&digest).await, Err(BlobError::NotFound(_))));
    ingest.write(bytes.slice(3..)).await.expect("write");
    assert_eq!(ingest.commit().await.expect("commit"), bytes.len() as u64);
    assert_eq!(blobs.size(&digest).await.expect("size"), Some(bytes.len() as u64));
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
    assert!(blobs.delete(&digest).await.expect("delete"));
    assert!(!blobs.delete(&digest).await.expect("delete"));
}

async fn refuses_blob_whose_digest_differs(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "wrong digest");
    for size in [None, Some(bytes.len() as u64)] {
        let mut ingest = granted(blobs, &digest, size).await;
        let mut wrong = bytes.to_vec();
        wrong[0] ^= 1;
        ingest.write(wrong.into()).await.expect("write");
        let refused = ingest.commit().await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
        assert_eq!(blobs.size(&digest).await.expect("size"), None);
    }
    let mut again = granted(blobs, &digest, None).await;
    assert_eq!(again.offset(), 0, "nothing of a refused blob is kept");
    again.write(bytes).await.expect("write");
    again.commit().await.expect("the right bytes are taken afterwards");
}

async fn refuses_blob_whose_size_differs(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "wrong size");
    let size = bytes.len() as u64;
    let mut short = granted(blobs, &digest, Some(size + 1)).await;
    short.write(bytes.clone()).await.expect("write");
    let refused = short.commit().await;
    assert!(matches!(refused, Err(BlobError::WrongSize { .. })), "{refused:?}");
    let mut long = granted(blobs, &digest, Some(size - 1)).await;
    let refused = match long.write(bytes).await {
        Ok(()) => long.commit().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(refused, Err(BlobError::WrongSize { .. })), "{refused:?}");
    assert_eq!(blobs.size(&digest).await.expect("size"), None);
}

async fn abandoned_ingest_is_invisible(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "abandoned");
    let mut ingest = granted(blobs, &digest, Some(bytes.len() as u64)).await;
    ingest.write(bytes.slice(..4)).await.expect("write");
    drop(ingest);
    assert_eq!(blobs.size(&digest).await.expect("size"), None);
    let mut again = granted(blobs, &digest, Some(bytes.len() as u64)).await;
    let offset = usize::try_from(again.offset()).expect("small");
    assert!(offset <= 4);
    again.write(bytes.slice(offset..)).await.expect("write");
    again.commit().await.expect("a resumed blob holds");
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
}

async fn restart_forgets_what_came(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "restarted");
    let mut ingest = granted(blobs, &digest, Some(bytes.len() as u64)).await;
    ingest.write(Bytes::from_static(b"no")).await.expect("write");
    ingest.restart().await.expect("restart");
    ingest.write(bytes).await.expect("write");
    ingest.commit().await.expect("commit");
}

async fn present_blob_is_not_written_again(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "present");
    blobs.put(&digest, bytes.clone()).await.expect("put");
    blobs.put(&digest, bytes.clone()).await.expect("put again");
    let size = bytes.len() as u64;
    let there = blobs.ingest(&digest, Some(size)).await.expect("ingest");
    assert!(matches!(there, Claim::Present(stored) if stored == size));
    let other = blobs.ingest(&digest, Some(size + 1)).await.expect("ingest");
    assert!(matches!(other, Claim::Granted(_)), "a blob of the wrong size is not trusted");
    let mut wrong = bytes.to_vec();
    wrong[0] ^= 1;
    let (missing, _) = content(seed, "never stored");
    let refused = blobs.put(&missing, wrong.into()).await;
    assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
}

async fn large_blob_survives_the_round_trip(blobs: &Blobs, seed: &str) {
    let whole = noise(seed, 18 << 20);
    let digest = Digest::of(&whole);
    let mut ingest = granted(blobs, &digest, Some(whole.len() as u64)).await;
    for start in (0..whole.len()).step_by(300_000) {
        let end = whole.len().min(start + 300_000);
        ingest.write(whole.slice(start..end)).await.expect("write");
    }
    ingest.commit().await.expect("commit");
    assert_eq!(collect(blobs, &digest).await.expect("read"), whole);
    blobs.delete(&digest).await.expect("delete");
}

async fn empty_blob_is_a_blob(blobs: &Blobs) {
    let digest = Digest::of(b"");
    blobs.put(&digest, Bytes::new()).await.expect("put");
    assert_eq!(blobs.size(&digest).await.expect("size"), Some(0));
    assert!(collect(blobs, &digest).await.expect("read").is_empty());
    blobs.delete(&digest).await.expect("delete");
}

async fn reads_documents_whole_and_checked(blobs: &Blobs, seed: &str) {
    let json = format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"seed":"{seed}"}}}}"#);
    let bytes = Bytes::from(json);
    let descriptor = Descriptor::new(media_type::OCI_INDEX, Digest::of(&bytes), bytes.len() as u64);
    assert!(blobs.document(&descriptor).await.expect("absent").is_none());
    blobs.put(&descriptor.digest, bytes.clone()).await.expect("put");
    let document = blobs.document(&descriptor).await.expect("read").expect("present");
    assert_eq!(document.bytes(), &bytes);
    let longer = Descriptor { size: descriptor.size + 1, ..descriptor.clone() };
    assert!(matches!(blobs.document(&longer).await, Err(BlobError::WrongSize { .. })));
    let other = Descriptor { media_type: media_type::OCI_MANIFEST.into(), ..descriptor };
    assert!(matches!(blobs.document(&other).await, Err(BlobError::Document { .. })));
}
