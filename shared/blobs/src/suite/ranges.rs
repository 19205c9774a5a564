//! Parts of blobs, and blobs on threads that block.

use std::io::Read;

use larder_oci::Digest;

use super::{content, drain, noise};
use crate::{BlobError, Blobs};

const LENGTH: usize = (3 << 20) + 17;

pub(super) async fn all(blobs: &Blobs, seed: &str) {
    ranges_are_those_of_the_whole(blobs, seed).await;
    range_behind_the_end_is_refused(blobs, seed).await;
    blocking_reader_yields_the_whole(blobs, seed).await;
}

async fn ranges_are_those_of_the_whole(blobs: &Blobs, seed: &str) {
    let whole = noise(&format!("{seed} ranges"), LENGTH);
    let digest = Digest::of(&whole);
    blobs.put(&digest, whole.clone()).await.expect("put");
    // The first round hashes the whole, the later ones may know that it holds.
    for round in 0..3 {
        for offset in [0, 1, 1 << 20, (2 << 20) - 1, LENGTH - 1, LENGTH] {
            for length in [None, Some(0), Some(1), Some(1 << 20), Some(LENGTH), Some(LENGTH + 1)] {
                let rest = LENGTH - offset;
                let wanted = length.filter(|length| *length > 0).map_or(rest, |length| length.min(rest));
                let length = length.map(|length| length as u64);
                let range = blobs.read_range(&digest, offset as u64, length).await.expect("opens");
                assert_eq!(range.size, LENGTH as u64, "the size is of the whole");
                let bytes = drain(range).await.expect("reads");
                assert!(
                    bytes == whole[offset..offset + wanted],
                    "round {round}: {length:?} bytes from {offset}"
                );
            }
        }
    }
    let far = blobs.read_range(&digest, 1, Some(u64::MAX)).await.expect("opens");
    assert_eq!(drain(far).await.expect("reads").len(), LENGTH - 1);
    blobs.delete(&digest).await.expect("delete");
    let gone = blobs.read_range(&digest, 0, None).await.err();
    assert!(matches!(gone, Some(BlobError::NotFound(_))), "{gone:?}");
}

async fn range_behind_the_end_is_refused(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "short");
    let end = bytes.len() as u64;
    blobs.put(&digest, bytes).await.expect("put");
    for _ in 0..2 {
        for offset in [end + 1, u64::MAX] {
            let refused = blobs.read_range(&digest, offset, None).await.err();
            let says = |error: &BlobError| matches!(error, BlobError::OutOfRange { offset: from, size, .. } if *from == offset && *size == end);
            assert!(refused.as_ref().is_some_and(says), "{refused:?}");
        }
        let at_the_end = blobs.read_range(&digest, end, Some(1)).await.expect("opens");
        assert!(drain(at_the_end).await.expect("reads").is_empty());
        let all = blobs.read_range(&digest, 0, None).await.expect("opens");
        drain(all).await.expect("reads");
    }
}

async fn blocking_reader_yields_the_whole(blobs: &Blobs, seed: &str) {
    for length in [0, 5, LENGTH] {
        let whole = noise(&format!("{seed} blocking"), length);
        let digest = Digest::of(&whole);
        blobs.put(&digest, whole.clone()).await.expect("put");
        let mut reader = blobs.reader(&digest).await.expect("opens");
        assert_eq!(reader.size(), length as u64);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        assert_eq!(read.await.expect("joins").expect("reads"), whole);
        blobs.delete(&digest).await.expect("delete");
        assert!(matches!(blobs.reader(&digest).await.err(), Some(BlobError::NotFound(_))));
    }
}
