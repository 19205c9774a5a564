use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::*;

async fn append(blobs: &Blobs, id: &str, bytes: &'static [u8]) -> Upload {
    let uploads = blobs.uploads();
    let upload = uploads.find(id).await.unwrap().unwrap();
    let mut part = uploads.append(&upload, Algorithm::Sha256).await.unwrap();
    part.write(Bytes::from_static(bytes)).await.unwrap();
    part.finish().await.unwrap()
}

async fn another_goes_on(first: &Blobs, second: &Blobs) {
    first.uploads().begin("shared", "a note").await.unwrap().unwrap();
    append(first, "shared", b"begun here, ").await;
    let upload = append(second, "shared", b"finished there").await;
    assert_eq!((&upload.note[..], upload.size), ("a note", 26));
    let digest = Digest::of(b"begun here, finished there");
    second.uploads().commit(upload, &digest, None).await.unwrap();
    assert_eq!(first.size(&digest).await.unwrap(), Some(26));
    assert_eq!(first.uploads().find("shared").await.unwrap(), None);
}

#[tokio::test]
async fn another_process_goes_on_with_an_upload() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Blobs::on_disk(folder.path()).unwrap();
    another_goes_on(&open(), &open()).await;
    let store = Arc::new(InMemory::new());
    let open = || Blobs::on_objects(Arc::clone(&store) as Arc<dyn ObjectStore>);
    another_goes_on(&open(), &open()).await;
}

#[tokio::test]
async fn only_part_is_not_copied() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(folder.path()).unwrap();
    let records = folder.path().join("uploads");
    assert!(!records.exists(), "nobody has uploaded yet");
    blobs.uploads().begin("one", "").await.unwrap();
    let upload = append(&blobs, "one", b"as it came").await;
    let digest = Digest::of(b"as it came");
    let path = folder.path().join("blobs/sha256").join(digest.hex());
    let before = fs::metadata(&path).unwrap();
    blobs.uploads().commit(upload, &digest, Some(10)).await.unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.mtime_nsec()), (before.ino(), before.mtime_nsec()));
    assert!(!records.exists(), "nothing is left");

    let store = Arc::new(InMemory::new());
    let blobs = Blobs::on_objects(Arc::clone(&store) as Arc<dyn ObjectStore>);
    blobs.uploads().begin("one", "").await.unwrap();
    let upload = append(&blobs, "one", b"as it came").await;
    let key = Path::from_iter(["blobs", "sha256", digest.hex()]);
    let before = store.head(&key).await.unwrap();
    blobs.uploads().commit(upload, &digest, Some(10)).await.unwrap();
    assert_eq!(store.head(&key).await.unwrap(), before, "it was not put again");
}

#[tokio::test]
async fn upload_lives_as_long_as_its_last_part_is_young() {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::on_disk(folder.path()).unwrap();
    let hour = Duration::from_hours(1);
    for id in ["old", "young"] {
        blobs.uploads().begin(id, "").await.unwrap();
        append(&blobs, id, b"x").await;
        let age = |record: &str| {
            let path = folder.path().join("uploads").join(id).join(record);
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_modified(SystemTime::now() - 2 * hour)
                .unwrap();
        };
        age("0000");
        if id == "old" {
            age("0001");
        }
    }
    assert_eq!(blobs.sweep(hour).await.unwrap(), 1);
    assert_eq!(blobs.uploads().find("old").await.unwrap(), None);
    assert!(blobs.uploads().find("young").await.unwrap().is_some());
}

#[tokio::test]
async fn parts_are_bounded() {
    let blobs = Blobs::on_objects(Arc::new(InMemory::new()));
    let mut upload = blobs.uploads().begin("many", "").await.unwrap().unwrap();
    upload.parts = vec![PartBlob { digest: Digest::of(b"x"), size: 1 }; PARTS_MAX];
    let refused = blobs.uploads().append(&upload, Algorithm::Sha256).await.err();
    assert!(matches!(refused, Some(BlobError::UploadRefused { .. })), "{refused:?}");
}

#[tokio::test]
async fn record_that_makes_no_sense_is_an_error() {
    let store = Arc::new(InMemory::new());
    store.put(&Path::from("uploads/odd/0000"), "{}".into()).await.unwrap();
    store.put(&Path::from("uploads/odd/note.txt"), "x".into()).await.unwrap();
    let blobs = Blobs::on_objects(store);
    let refused = blobs.uploads().find("odd").await;
    assert!(matches!(refused, Err(BlobError::UploadRecord { .. })), "{refused:?}");
}
