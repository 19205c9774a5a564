//! Blobs that come in parts.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use larder_oci::{Algorithm, Digest, Digester};

use super::{collect, content, noise};
use crate::{BlobError, Blobs, Upload, Uploads};

pub(super) async fn all(blobs: &Blobs, seed: &str) {
    parts_become_one_blob(blobs, seed).await;
    one_part_is_the_blob(blobs, seed).await;
    upload_of_nothing_is_the_empty_blob(blobs).await;
    wrong_digest_keeps_the_upload(blobs, seed).await;
    blob_that_is_there_is_compared(blobs, seed).await;
    blob_of_another_algorithm_is_made(blobs, seed).await;
    second_to_append_is_overtaken(blobs, seed).await;
    aborted_upload_takes_no_more(blobs, seed).await;
    names_and_notes_are_bounded(blobs).await;
    old_uploads_are_swept(blobs, seed).await;
}

async fn begun(uploads: &Uploads, id: &str) -> Upload {
    uploads.begin(id, "for the suite").await.expect("begin").expect("is new")
}

async fn append(uploads: &Uploads, upload: &Upload, bytes: &Bytes) -> Result<Upload, BlobError> {
    let mut part = uploads.append(upload, Algorithm::Sha256).await?;
    part.write(bytes.clone()).await?;
    assert_eq!(part.written(), bytes.len() as u64);
    part.finish().await
}

async fn found(uploads: &Uploads, id: &str) -> Upload {
    uploads.find(id).await.expect("find").expect("is there")
}

async fn parts_become_one_blob(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let bytes = noise(&format!("{seed} parts of an upload"), 9 << 20);
    let mut upload = begun(&uploads, "parts").await;
    assert!(uploads.begin("parts", "").await.expect("begin").is_none(), "there is one");
    for start in (0..bytes.len()).step_by(4 << 20) {
        let part = bytes.slice(start..bytes.len().min(start + (4 << 20)));
        append(&uploads, &upload, &part).await.expect("append");
        // Whoever goes on knows the id alone.
        upload = found(&blobs.uploads(), "parts").await;
        assert_eq!(upload.size, (start + part.len()) as u64);
    }
    assert_eq!(upload.note, "for the suite");
    let so_far: Vec<_> = uploads.read(&upload).try_collect().await.expect("read");
    assert!(so_far.concat() == bytes);
    assert!(upload.begun <= upload.updated && upload.updated <= SystemTime::now());
    let none = append(&uploads, &upload, &Bytes::new()).await.expect("a part of nothing");
    assert_eq!(none, upload);
    let listed: Vec<_> = uploads.list().try_collect().await.expect("list");
    assert_eq!(listed, [upload.clone()]);
    let digest = Digest::of(&bytes);
    let size = uploads.commit(upload, &digest, Some(bytes.len() as u64)).await.expect("commit");
    assert_eq!(size, bytes.len() as u64);
    assert!(collect(blobs, &digest).await.expect("read") == bytes);
    assert_eq!(uploads.find("parts").await.expect("find"), None);
}

async fn one_part_is_the_blob(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let (digest, bytes) = content(seed, "uploaded at once");
    let upload = begun(&uploads, "one").await;
    let upload = append(&uploads, &upload, &bytes).await.expect("append");
    assert_eq!(uploads.commit(upload.clone(), &digest, None).await.expect("commit"), bytes.len() as u64);
    assert_eq!(collect(blobs, &digest).await.expect("read"), bytes);
    blobs.delete(&digest).await.expect("delete");
    let gone = uploads.commit(upload, &digest, None).await;
    assert!(matches!(gone, Err(BlobError::NotFound(_))), "{gone:?}");
}

async fn upload_of_nothing_is_the_empty_blob(blobs: &Blobs) {
    let uploads = blobs.uploads();
    let empty = Digest::of(b"");
    let upload = begun(&uploads, "nothing").await;
    let refused = uploads.commit(upload.clone(), &Digest::of(b"x"), None).await;
    assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
    assert_eq!(uploads.commit(upload, &empty, Some(0)).await.expect("commit"), 0);
    assert_eq!(blobs.size(&empty).await.expect("size"), Some(0));
}

async fn wrong_digest_keeps_the_upload(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let (right, bytes) = content(seed, "kept upload");
    let (wrong, _) = content(seed, "another upload");
    let mut upload = begun(&uploads, "kept").await;
    for half in [bytes.slice(..3), bytes.slice(3..)] {
        upload = append(&uploads, &upload, &half).await.expect("append");
        let refused = uploads.commit(upload.clone(), &wrong, None).await;
        assert!(matches!(refused, Err(BlobError::Corrupt { .. })), "{refused:?}");
        let refused = uploads.commit(upload.clone(), &right, Some(1)).await;
        assert!(matches!(refused, Err(BlobError::WrongSize { .. })), "{refused:?}");
        assert_eq!(found(&uploads, "kept").await.size, upload.size);
    }
    assert_eq!(blobs.size(&wrong).await.expect("size"), None);
    uploads.commit(upload, &right, None).await.expect("commit");
    assert_eq!(collect(blobs, &right).await.expect("read"), bytes);
}

async fn blob_that_is_there_is_compared(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let (digest, bytes) = content(seed, "there before its upload");
    blobs.put(&digest, bytes.clone()).await.expect("put");
    let other = Bytes::from(vec![b'x'; bytes.len()]);
    for (id, sent, is_it) in [("same", &bytes, true), ("other", &other, false)] {
        let mut upload = begun(&uploads, id).await;
        for half in [sent.slice(..3), sent.slice(3..)] {
            upload = append(&uploads, &upload, &half).await.expect("append");
        }
        let committed = uploads.commit(upload, &digest, None).await;
        assert_eq!(committed.is_ok(), is_it, "{committed:?}");
    }
    assert!(uploads.abort("other").await.expect("abort"));
}

async fn blob_of_another_algorithm_is_made(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let bytes = noise(&format!("{seed} uploaded by sha512"), 100_000);
    let mut digester = Digester::new(Algorithm::Sha512);
    digester.update(&bytes);
    let digest = digester.finish();
    let upload = begun(&uploads, "longer-digest").await;
    let upload = append(&uploads, &upload, &bytes).await.expect("append");
    uploads.commit(upload, &digest, None).await.expect("commit");
    assert!(collect(blobs, &digest).await.expect("read") == bytes);
}

async fn second_to_append_is_overtaken(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let (digest, bytes) = content(seed, "first");
    let upload = begun(&uploads, "raced").await;
    let mut slow = uploads.append(&upload, Algorithm::Sha256).await.expect("append");
    slow.write(Bytes::from_static(b"second")).await.expect("write");
    let grown = append(&blobs.uploads(), &upload, &bytes).await.expect("append");
    let refused = slow.finish().await;
    let says = |error: &BlobError| matches!(error, BlobError::Overtaken { id, offset: 0 } if id == "raced");
    assert!(refused.as_ref().is_err_and(says), "{refused:?}");
    assert_eq!(found(&uploads, "raced").await.size, grown.size);
    uploads.commit(grown, &digest, None).await.expect("commit");
}

async fn aborted_upload_takes_no_more(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    let (_, bytes) = content(seed, "aborted");
    let upload = begun(&uploads, "aborted").await;
    let upload = append(&uploads, &upload, &bytes).await.expect("append");
    let mut part = uploads.append(&upload, Algorithm::Sha256).await.expect("append");
    part.write(bytes).await.expect("write");
    assert!(uploads.abort("aborted").await.expect("abort"));
    assert!(!uploads.abort("aborted").await.expect("abort"));
    let refused = part.finish().await;
    assert!(matches!(refused, Err(BlobError::UploadNotFound(_))), "{refused:?}");
    assert_eq!(begun(&uploads, "aborted").await.size, 0, "a new one begins from nothing");
    assert!(uploads.abort("aborted").await.expect("abort"));
}

async fn names_and_notes_are_bounded(blobs: &Blobs) {
    let uploads = blobs.uploads();
    let long = "x".repeat(65);
    for id in ["", "..", "a/b", "A", "a b", "a_b", &long] {
        let refused = uploads.begin(id, "").await;
        assert!(matches!(refused, Err(BlobError::UploadRefused { .. })), "{id:?}: {refused:?}");
        assert_eq!(uploads.find(id).await.expect("find"), None);
        assert!(!uploads.abort(id).await.expect("abort"));
    }
    let refused = uploads.begin("noted", &"x".repeat(4097)).await;
    assert!(matches!(refused, Err(BlobError::UploadRefused { .. })), "{refused:?}");
}

async fn old_uploads_are_swept(blobs: &Blobs, seed: &str) {
    let uploads = blobs.uploads();
    blobs.sweep(Duration::ZERO).await.expect("sweep");
    let upload = begun(&uploads, "left").await;
    append(&uploads, &upload, &content(seed, "left").1).await.expect("append");
    assert_eq!(blobs.sweep(Duration::from_hours(1)).await.expect("sweep"), 0);
    assert_eq!(blobs.sweep(Duration::ZERO).await.expect("sweep"), 1);
    assert!(uploads.list().try_collect::<Vec<_>>().await.expect("list").is_empty());
}
