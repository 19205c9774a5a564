//! What is there, since when, and what was left behind.

use std::collections::HashMap;
use std::time::Duration;

use futures::TryStreamExt;
use larder_oci::Digest;

use super::{collect, content, granted, noise};
use crate::{BlobError, Blobs, Stored};

pub(super) async fn all(blobs: &Blobs, seed: &str) {
    list_has_every_blob_once(blobs, seed).await;
    touched_blob_is_listed_as_used(blobs, seed).await;
    sweep_spares_what_is_held(blobs, seed).await;
}

async fn listed(blobs: &Blobs) -> HashMap<Digest, Stored> {
    let all: Vec<Stored> = blobs.list().try_collect().await.expect("list");
    let count = all.len();
    let listed: HashMap<_, _> = all.into_iter().map(|blob| (blob.digest.clone(), blob)).collect();
    assert_eq!(listed.len(), count, "a blob is listed twice");
    listed
}

async fn list_has_every_blob_once(blobs: &Blobs, seed: &str) {
    let before = listed(blobs).await;
    let new: Vec<_> = (0..20).map(|number| content(seed, &format!("listed {number}"))).collect();
    for (digest, bytes) in &new {
        blobs.put(digest, bytes.clone()).await.expect("put");
        blobs.touch(digest).await.expect("touch");
    }
    let after = listed(blobs).await;
    assert_eq!(after.len(), before.len() + new.len());
    for (digest, bytes) in &new {
        assert_eq!(after[digest].size, bytes.len() as u64);
        assert_eq!(blobs.stat(digest).await.expect("stat").as_ref(), Some(&after[digest]));
        blobs.delete(digest).await.expect("delete");
        assert_eq!(blobs.stat(digest).await.expect("stat"), None);
    }
    assert_eq!(listed(blobs).await.len(), before.len());
}

async fn touched_blob_is_listed_as_used(blobs: &Blobs, seed: &str) {
    let (digest, bytes) = content(seed, "touched");
    let absent = blobs.touch(&digest).await;
    assert!(matches!(absent, Err(BlobError::NotFound(_))), "{absent:?}");
    assert_eq!(blobs.size(&digest).await.expect("size"), None);
    blobs.put(&digest, bytes.clone()).await.expect("put");
    let written = listed(blobs).await[&digest].modified;
    collect(blobs, &digest).await.expect("read");
    blobs.touch(&digest).await.expect("touch");
    assert!(listed(blobs).await[&digest].modified >= written);
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
}

async fn sweep_spares_what_is_held(blobs: &Blobs, seed: &str) {
    let bytes = noise(&format!("{seed} held"), 9 << 20);
    let size = bytes.len() as u64;
    let (digest, held) = content(seed, "held");
    let mut ingest = granted(blobs, &digest, Some(held.len() as u64)).await;
    ingest.write(held.slice(..2)).await.expect("write");
    let mut draft = blobs.draft().await.expect("draft");
    draft.write(bytes.slice(..8 << 20)).await.expect("write");
    blobs.sweep(Duration::ZERO).await.expect("sweep");
    draft.write(bytes.slice(8 << 20..)).await.expect("write");
    assert_eq!(draft.commit(None).await.expect("commit"), (Digest::of(&bytes), size));
    ingest.write(held.slice(2..)).await.expect("write");
    ingest.commit().await.expect("commit");
    assert_eq!(blobs.sweep(Duration::ZERO).await.expect("sweep"), 0, "nothing is left");
}
