//! T08 to T19: finding what is there, and reading it.

use bytes::Bytes;
use futures::TryStreamExt;
use larder::{Process, Role};
use larder_oci::{Descriptor, Digest};
use larder_provider::ProviderError;
use larder_tests::{Image, Layer};
use object_store::{ObjectStore, ObjectStoreExt};

use super::stage::{Stage, descriptor, digest, image, index, on_both, on_disk, read};

/// The digest of what is stored nowhere.
fn absent() -> Digest {
    Digest::of(b"stored nowhere")
}

#[test]
fn t08_empty_cache_finds_nothing_and_asks_nobody() {
    on_both(async |stage| {
        stage.registry.put("team/app", "1", &Image::small());
        let name = stage.registry.reference("team/app:1");
        assert_eq!(stage.target(&name).await, None);
        assert_eq!(stage.target("x:1").await, None);
        assert_eq!(stage.registry.requests().len(), 0);
    });
}

#[test]
fn t09_digest_that_is_not_there_is_not_found_by_its_tag() {
    on_both(async |stage| {
        stage.written("x:1", &Image::small()).await;
        assert_eq!(stage.target(&format!("x:1@{}", absent())).await, None);
    });
}

#[test]
fn t10_digest_decides_whatever_the_tag() {
    on_both(async |stage| {
        let (image, other) = (image("linux/amd64", 1), image("linux/amd64", 2));
        stage.written("x:1", &image).await;
        stage.written("x:other", &other).await;
        for tag in ["x:other", "x:none", "x"] {
            let found = stage.target(&format!("{tag}@{}", image.root.digest)).await;
            assert_eq!(found, Some(digest(&image.root)), "{tag}");
        }
    });
}

#[test]
fn t11_child_of_an_index_is_found_with_its_platform() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64/v8", 2));
        stage.written("x:1", &index([&amd64, &arm64])).await;
        for (child, platform) in [(amd64, "linux/amd64"), (arm64, "linux/arm64/v8")] {
            let name = format!("x@{}", child.root.digest);
            let found = stage.cache().find_descriptor(&name).await.unwrap().unwrap();
            assert_eq!(found.name, format!("docker.io/library/{name}"));
            let platform = Some(platform.parse().unwrap());
            assert_eq!(found.descriptor, Descriptor { platform, ..descriptor(&child.root) });
        }
    });
}

#[test]
fn t12_what_was_pulled_without_a_tag_is_found_without_one() {
    on_both(async |stage| {
        let image = Image::small();
        stage.registry.put("team/app", "latest", &image);
        stage.pull(&stage.reference("team/app"), "linux/amd64").await.unwrap();
        for name in ["team/app", "team/app:latest"] {
            let found = stage.target(&stage.registry.reference(name)).await;
            assert_eq!(found, Some(digest(&image.root)), "{name}");
        }
    });
}

#[test]
fn t13_damaged_table_of_names_is_an_error_and_not_an_empty_one() {
    on_both(async |stage| {
        stage.written("x:1", &Image::small()).await;
        let folder = "ledger/names".into();
        let records: Vec<_> = stage.objects.list(Some(&folder)).try_collect().await.unwrap();
        assert_eq!(records.len(), 1);
        for damage in ["", "{", "null"] {
            stage.objects.put(&records[0].location, damage.into()).await.unwrap();
            let found = stage.cache().find_descriptor("x:1").await;
            assert!(matches!(found, Err(ProviderError::Storage(_))), "{damage:?}: {found:?}");
        }
        assert_eq!(stage.target("y:1").await, None, "other names are not touched by it");
    });
}

#[test]
fn t13_damaged_index_of_another_tool_is_refused_at_once() {
    on_disk(async |stage| {
        for damage in ["", "{", "{\"schemaVersion\":2,\"manifests\":{}}"] {
            let foreign = tempfile::tempdir().unwrap();
            std::fs::write(foreign.path().join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
            std::fs::write(foreign.path().join("index.json"), damage).unwrap();
            let mut config = stage.config.clone();
            config.store = format!("file://{}", foreign.path().display());
            let refused = Process::start(&config, &Role::ALL).await;
            let refused = refused.err().unwrap_or_else(|| panic!("{damage:?} was taken"));
            assert!(refused.message.contains("index.json is no OCI image index"), "{}", refused.message);
        }
    });
}

#[test]
fn t14_content_comes_byte_for_byte_or_is_not_found() {
    on_both(async |stage| {
        let image = Image::small();
        stage.written("x:1", &image).await;
        for blob in image.blobs.iter().chain(&image.manifests) {
            let content = stage.cache().get_content(&digest(blob)).await.unwrap();
            assert_eq!(content.size, blob.bytes.len() as u64);
            assert_eq!(read(content.bytes).await.unwrap(), blob.bytes);
        }
        let refused = stage.cache().get_content(&absent()).await.map(|content| content.size);
        assert!(matches!(refused, Err(ProviderError::NotFound(_))), "{refused:?}");
    });
}

/// Stricter than the vector: a digest that is none cannot be handed over at all, for the type refuses it.
#[test]
fn t15_digest_that_is_none_opens_nothing() {
    for text in ["", ":", "sha256:", "sha256", &format!("sha256:{}", "0".repeat(63))] {
        assert!(text.parse::<Digest>().is_err(), "{text:?} was taken");
    }
    on_both(async |stage| {
        let zero: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let refused = stage.cache().get_content(&zero).await.map(|content| content.size);
        assert!(matches!(refused, Err(ProviderError::NotFound(_))), "{refused:?}");
        for text in ["", "@", "x@"] {
            let refused = stage.cache().find_descriptor(text).await;
            assert!(matches!(refused, Err(ProviderError::InvalidReference(_))), "{text:?}: {refused:?}");
        }
    });
}

/// All ways to read `of`, each to its end.
async fn reads(stage: &Stage, of: &Digest) -> Vec<Result<Vec<u8>, ProviderError>> {
    let store = stage.cache().store();
    let contents = [
        stage.cache().get_content(of).await,
        store.read(of, 0, None).await,
        store.read(of, 1, Some(99)).await,
    ];
    let mut all = Vec::new();
    for content in contents {
        all.push(match content {
            Ok(content) => read(content.bytes).await,
            Err(error) => Err(error),
        });
    }
    all
}

#[test]
fn t16_flipped_byte_ends_every_read_in_an_error() {
    on_both(async |stage| {
        let image = Image::build("linux/amd64").layer(Layer::random(600_000, 1)).finish();
        stage.written("x:1", &image).await;
        for (place, was_read) in [(0, false), (1, false), (1, true)] {
            let blob = image.blob(place);
            if was_read {
                stage.overwrite(&digest(blob), blob.bytes.to_vec()).await;
                assert!(reads(stage, &digest(blob)).await.iter().all(Result::is_ok));
            }
            stage.flip(&digest(blob)).await;
            for read in reads(stage, &digest(blob)).await {
                let read = read.map(|bytes| bytes.len());
                assert!(matches!(read, Err(ProviderError::Corrupt(_))), "blob {place}: {read:?}");
            }
        }
    });
}

#[test]
fn t17_store_knows_the_size_of_what_is_there() {
    on_both(async |stage| {
        let image = Image::small();
        stage.written("x:1", &image).await;
        let store = stage.cache().store();
        for blob in image.blobs.iter().chain(&image.manifests) {
            let info = store.info(&digest(blob)).await.unwrap();
            assert_eq!((info.digest, info.size), (digest(blob), blob.bytes.len() as u64));
        }
        let walked: Vec<_> = store.walk().try_collect().await.unwrap();
        assert_eq!(walked.len(), image.digests().len());
        let refused = store.info(&absent()).await;
        assert!(matches!(refused, Err(ProviderError::NotFound(_))), "{refused:?}");
    });
}

#[test]
fn t18_store_handed_to_a_builder_can_only_be_read() {
    on_both(async |stage| {
        let image = Image::small();
        stage.written("x:1", &image).await;
        let (before, store) = (stage.visible().await, stage.cache().store());
        for digest in [digest(&image.root), absent()] {
            let refused = store.delete(&digest).await;
            assert!(matches!(refused, Err(ProviderError::PermissionDenied(_))), "{refused:?}");
        }
        let new = Descriptor::new("application/octet-stream", Digest::of(b"new"), 3);
        for expected in [new, descriptor(&image.root)] {
            let refused = store.writer(&expected).await.map(|writer| writer.is_some());
            assert!(matches!(refused, Err(ProviderError::PermissionDenied(_))), "{refused:?}");
        }
        assert_eq!(stage.visible().await, before);
    });
}

#[test]
fn t18_store_of_an_owner_who_allows_it_can_be_written() {
    on_both(async |stage| {
        let mut config = stage.config.clone();
        config.content.writable = true;
        let process = Process::start(&config, &[Role::Facade]).await.unwrap_or_else(|_| panic!("it starts"));
        let store = larder_provider::CacheProvider::store(&process.facade);
        let new = Descriptor::new("application/octet-stream", Digest::of(b"new"), 3);
        let mut writer = store.writer(&new).await.unwrap().unwrap();
        writer.write(Bytes::from_static(b"nez")).await.unwrap();
        let refused = writer.commit().await;
        assert!(matches!(refused, Err(ProviderError::Corrupt(_))), "{refused:?}");
        assert_eq!(stage.stored(&new.digest).await, None);
        let mut writer = store.writer(&new).await.unwrap().unwrap();
        writer.write(Bytes::from_static(b"new")).await.unwrap();
        writer.commit().await.unwrap();
        assert!(store.writer(&new).await.unwrap().is_none(), "it is there");
        store.delete(&new.digest).await.unwrap();
        assert_eq!(stage.stored(&new.digest).await, None);
        stage.end(&process).await;
    });
}

#[test]
fn t19_ranges_are_clipped_at_the_end_and_refused_behind_it() {
    on_both(async |stage| {
        let image = Image::small();
        stage.written("x:1", &image).await;
        let blob = image.blob(2);
        let (store, size) = (stage.cache().store(), blob.bytes.len());
        for (offset, length, end) in [
            (0, None, size),
            (0, Some(10), 10),
            (10, Some(10), 20),
            (size - 5, Some(100), size),
            (size - 5, Some(0), size),
            (size - 5, None, size),
            (size, None, size),
            (size, Some(1), size),
        ] {
            let content = store.read(&digest(blob), offset as u64, length).await.unwrap();
            assert_eq!(content.size, size as u64);
            let got = read(content.bytes).await.unwrap();
            assert_eq!(got, blob.bytes[offset..end], "{length:?} from {offset}");
        }
        for length in [None, Some(0), Some(1)] {
            let refused =
                store.read(&digest(blob), size as u64 + 1, length).await.map(|content| content.size);
            assert!(matches!(refused, Err(ProviderError::OutOfRange(_))), "{length:?}: {refused:?}");
        }
    });
}
