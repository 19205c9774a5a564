//! Blobs whose digest is known only when they are written.

use bytes::Bytes;
use futures::TryStreamExt;
use larder_oci::{Algorithm, Digest, Digester};

use super::{collect, content, noise};
use crate::{BlobError, Blobs};

pub(super) async fn all(blobs: &Blobs, seed: &str) {
    draft_is_named_by_what_was_written(blobs, seed).await;
    draft_of_any_size_gets_its_name(blobs, seed).await;
    draft_refuses_another_digest_than_expected(blobs, seed).await;
    draft_of_a_present_blob_changes_nothing(blobs, seed).await;
    dropped_draft_leaves_nothing_visible(blobs, seed).await;
    draft_is_named_by_the_algorithm_asked_for(blobs, seed).await;
}

async fn draft_is_named_by_what_was_written(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "draft");
    let mut draft = blobs.draft().await.expect("draft");
    assert_eq!(draft.written(), 0);
    draft.write(bytes.slice(..3)).await.expect("write");
    draft.write(bytes.slice(3..)).await.expect("write");
    assert_eq!(draft.written(), bytes.len() as u64);
    assert_eq!(blobs.size(&digest).await.expect("size"), None);
    let committed = draft.commit(None).await.expect("commit");
    assert_eq!(committed, (digest.clone(), bytes.len() as u64));
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
}

async fn draft_of_any_size_gets_its_name(blobs: &Blobs, seed: &str) {
    for length in [0, 1, 8 << 20, 18 << 20] {
        let bytes = noise(&format!("{seed} draft of {length}"), length);
        let digest = Digest::of(&bytes);
        let mut draft = blobs.draft().await.expect("draft");
        for start in (0..length).step_by(700_000) {
            let chunk = bytes.slice(start..length.min(start + 700_000));
            draft.write(chunk).await.expect("write");
        }
        let committed = draft.commit(Some(&digest)).await.expect("commit");
        assert_eq!(committed, (digest.clone(), length as u64));
        assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
        blobs.delete(&digest).await.expect("delete");
    }
}

async fn draft_refuses_another_digest_than_expected(blobs: &Blobs, seed: &str) {
    let (expected, _) = content(seed, "expected of a draft");
    for length in [9, 9 << 20] {
        let bytes = noise(&format!("{seed} other draft of {length}"), length);
        let digest = Digest::of(&bytes);
        let mut draft = blobs.draft().await.expect("draft");
        draft.write(bytes).await.expect("write");
        let refused = draft.commit(Some(&expected)).await;
        assert!(matches!(&refused, Err(BlobError::Corrupt { want, .. }) if *want == expected), "{refused:?}");
        assert_eq!(blobs.size(&digest).await.expect("size"), None);
        assert_eq!(blobs.size(&expected).await.expect("size"), None);
    }
}

async fn draft_of_a_present_blob_changes_nothing(blobs: &Blobs, seed: &str) {
    for length in [11, 9 << 20] {
        let bytes = noise(&format!("{seed} draft twice of {length}"), length);
        let digest = Digest::of(&bytes);
        let (mut first, mut second) =
            (blobs.draft().await.expect("draft"), blobs.draft().await.expect("draft"));
        first.write(bytes.clone()).await.expect("write");
        second.write(bytes.clone()).await.expect("write");
        first.commit(None).await.expect("commit");
        let committed = second.commit(Some(&digest)).await.expect("commit again");
        assert_eq!(committed, (digest.clone(), length as u64));
        assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
    }
}

async fn dropped_draft_leaves_nothing_visible(blobs: &Blobs, seed: &str) {
    let bytes = noise(&format!("{seed} dropped draft"), 9 << 20);
    let mut draft = blobs.draft().await.expect("draft");
    draft.write(bytes.clone()).await.expect("write");
    drop(draft);
    assert_eq!(blobs.size(&Digest::of(&bytes)).await.expect("size"), None);
    let stored: Vec<_> = blobs.list().try_collect().await.expect("list");
    assert!(stored.iter().all(|blob| blob.digest != Digest::of(&bytes)));
}

async fn draft_is_named_by_the_algorithm_asked_for(blobs: &Blobs, seed: &str) {
    let bytes = Bytes::from(format!("{seed} draft by sha512"));
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(&bytes);
    let digest = digester.finish();
    let mut draft = blobs.draft_for(Algorithm::Sha512).await.expect("draft");
    draft.write(bytes.clone()).await.expect("write");
    assert_eq!(draft.commit(Some(&digest)).await.expect("commit").0, digest);
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
}
