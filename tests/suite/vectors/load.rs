//! T55–T61: archives into the cache.

use std::time::Duration;

use futures::StreamExt;
use larder_oci::Platform;
use larder_provider::{LoadOptions, Loaded, ProviderError};
use larder_tests::image::{Blob, Compression};
use larder_tests::{Format, Image, Layer};
use serde_json::json;

use super::archive::{Tar, files, listed, put, stream};
use super::stage::{self, Stage, descriptor, digest, read, set};

const APP: &str = "registry.example.org/team/app:1";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const NAME: &str = "org.opencontainers.image.ref.name";

fn image(seed: u64) -> Image {
    let small = Layer::files(&[("etc/seed", seed.to_string().as_bytes())]);
    Image::build("linux/amd64").layer(small).layer(Layer::random(40_000, seed)).finish()
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

async fn load(stage: &Stage, archive: &[u8]) -> Result<Vec<Loaded>, ProviderError> {
    stage.cache().image_load(stream(archive), &LoadOptions::default()).await
}

/// An archive of `image` by the name of [`APP`], its list last, as BuildKit writes it.
fn archive(image: &Image) -> Vec<u8> {
    Tar::new().image(image).index(&[listed(&image.root, &[(CONTAINERD_NAME, APP)])]).finish()
}

#[test]
fn t55_images_are_named_and_returned_in_the_order_of_the_archive() {
    stage::on_both(async |stage| {
        let (one, two) = (image(1), image(2));
        let index = Image::index(Format::Oci).image(&one).attestation(&one).finish();
        let annotations =
            [(CONTAINERD_NAME, "registry.example.org/b:1,registry.example.org/c:1"), (NAME, "1")];
        let entries =
            [listed(&two.root, &[(CONTAINERD_NAME, APP), (NAME, "1")]), listed(&index.root, &annotations)];
        let archive = Tar::new().image(&two).image(&index).index(&entries).finish();
        let loaded = load(stage, &archive).await.unwrap();
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let expected = [
            Loaded { names: names(&[APP]), descriptor: descriptor(&two.root) },
            Loaded {
                names: names(&["registry.example.org/b:1", "registry.example.org/c:1"]),
                descriptor: descriptor(&index.root),
            },
        ];
        assert_eq!(loaded, expected);
        for (name, root) in [(APP, &two.root), ("registry.example.org/c:1", &index.root)] {
            assert_eq!(stage.target(name).await, Some(digest(root)));
            assert!(stage.cache().image_in_cache(name, &set("all")).await.unwrap().is_complete());
        }
        assert_eq!(stage.names().await.len(), 3);
    });
}

/// Blobs that came before the wrong one are proven and stay, for a later try; no name reaches them.
#[test]
fn t56_blob_that_does_not_hash_to_its_name_is_refused() {
    stage::on_both(async |stage| {
        let image = image(1);
        let layer = image.blob(2);
        let mut wrong = layer.bytes.to_vec();
        wrong[20_000] ^= 1;
        let lying = Blob { bytes: wrong.into(), ..layer.clone() };
        let listed = listed(&image.root, &[(CONTAINERD_NAME, APP)]);
        let archive = Tar::new().blob(&image.root).blob(image.blob(0)).blob(image.blob(1)).blob(&lying);
        let refused = load(stage, &archive.index(&[listed]).finish()).await.unwrap_err();
        assert!(matches!(refused, ProviderError::Corrupt(_)), "{refused:?}");
        assert!(stage.names().await.is_empty());
        assert!(!stage.visible().await.contains(&layer.digest));
    });
}

#[test]
fn t57_cut_stream_is_an_error_and_the_whole_one_succeeds_then() {
    stage::on_both(async |stage| {
        let image = image(1);
        let archive = archive(&image);
        let interrupted = ProviderError::Storage("the network went away".to_owned());
        for cut in [100, 20_000, 30_001, archive.len() - 2_048] {
            let refused = load(stage, &archive[..cut]).await.unwrap_err();
            assert!(matches!(refused, ProviderError::Corrupt(_)), "cut after {cut}: {refused:?}");
            let broken = futures::stream::iter([Err(interrupted.clone())]);
            let broken = stream(&archive[..cut]).chain(broken).boxed();
            let refused = stage.cache().image_load(broken, &LoadOptions::default()).await.unwrap_err();
            assert_eq!(refused, interrupted, "broken after {cut}");
            assert!(stage.names().await.is_empty(), "cut after {cut}");
            assert!(
                !stage.visible().await.contains(&image.blob(2).digest) || cut > 40_000,
                "cut after {cut}"
            );
        }
        load(stage, &archive).await.unwrap();
        assert_eq!(stage.cache().validate_image(APP, &set("all")).await.unwrap(), descriptor(&image.root));
    });
}

#[test]
fn t58_damaged_blobs_are_repaired_by_a_good_archive() {
    stage::on_both(async |stage| {
        let image = image(1);
        put(stage, &image).await;
        stage.flip(&digest(image.blob(2))).await;
        stage.shorten(&digest(image.blob(1))).await;
        stage.flip(&digest(image.blob(0))).await;
        stage.flip(&digest(&image.root)).await;
        load(stage, &archive(&image)).await.unwrap();
        assert_eq!(stage.cache().validate_image(APP, &set("all")).await.unwrap(), descriptor(&image.root));
        let mut expected: Vec<_> = image.digests().into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(stage.visible().await, expected);
    });
}

#[test]
fn t59_names_that_begin_with_a_dot_are_the_same_names() {
    stage::on_both(async |stage| {
        let image = image(1);
        let index =
            json!({ "schemaVersion": 2, "manifests": [listed(&image.root, &[(CONTAINERD_NAME, APP)])] });
        let mut tar = Tar::new().directory("./").file("./index.json", index.to_string());
        for folder in ["./blobs/", "./blobs/sha256/"] {
            tar = tar.directory(folder);
        }
        for blob in image.blobs.iter().chain(&image.manifests) {
            tar = tar.file(&format!("./blobs/{}", blob.digest.replace(':', "/")), &blob.bytes);
        }
        let loaded = load(stage, &tar.finish()).await.unwrap();
        assert_eq!(loaded[0].names, [APP]);
        assert!(stage.cache().image_in_cache(APP, &set("all")).await.unwrap().is_complete());
    });
}

/// What `docker save` writes of an image of one plain layer, with the files for docker before 1.10.
fn saved(image: &Image, with_list: bool) -> Vec<u8> {
    let config = format!("{}.json", &image.blob(0).digest[7..]);
    let tar = Tar::new()
        .file(&config, &image.blob(0).bytes)
        .directory("abc/")
        .file("abc/VERSION", "1.0")
        .file("abc/json", "{}")
        .file("abc/layer.tar", &image.blob(1).bytes)
        .file("repositories", r#"{"registry.example.org/team/app":{"1":"abc"}}"#);
    if !with_list {
        return tar.finish();
    }
    let list = json!([{ "Config": config, "RepoTags": [APP], "Layers": ["abc/layer.tar"] }]);
    tar.file("manifest.json", list.to_string()).finish()
}

#[test]
fn t60_what_docker_saves_is_loaded_and_what_docker_saved_long_ago_is_refused() {
    stage::on_both(async |stage| {
        let layer = Layer::files(&[("hello", b"world")]).compress(Compression::Plain);
        let image = Image::build("linux/amd64").layer(layer).finish();
        let refused = load(stage, &saved(&image, false)).await.unwrap_err();
        assert!(matches!(refused, ProviderError::Unsupported(_)), "{refused:?}");
        assert!(stage.names().await.is_empty());

        let loaded = load(stage, &saved(&image, true)).await.unwrap();
        assert_eq!(loaded[0].names, [APP]);
        let source = stage.cache().new_source(APP, &amd64()).await.unwrap();
        assert_eq!(source.config().await.unwrap().bytes, image.blob(0).bytes);
        let flat = read(source.tar_reader().await.unwrap()).await.unwrap();
        assert_eq!(files(&flat), [("hello".to_owned(), b"world".to_vec())]);
    });
}

/// Content of an archive without a list is not leased, for nothing says what of it belongs together: the grace period keeps it.
#[test]
fn t61_archive_without_a_list_loads_nothing_and_what_has_no_name_is_collected_after_its_lease() {
    stage::on_both(async |stage| {
        let (listless, nameless) = (image(1), image(2));
        assert_eq!(load(stage, &Tar::new().image(&listless).finish()).await.unwrap(), []);
        let archive = Tar::new().image(&nameless).index(&[listed(&nameless.root, &[(NAME, "1")])]).finish();
        let loaded = load(stage, &archive).await.unwrap();
        assert_eq!(loaded, [Loaded { names: Vec::new(), descriptor: descriptor(&nameless.root) }]);
        assert!(stage.names().await.is_empty());

        let now = Duration::ZERO;
        stage.cache().collect(now, false).await.unwrap();
        let mut kept: Vec<_> = nameless.digests().into_iter().map(str::to_owned).collect();
        kept.sort();
        assert_eq!(stage.visible().await, kept);
        for lease in stage.catalog.leases().await.unwrap() {
            stage.catalog.release(&lease.id).await.unwrap();
        }
        stage.cache().collect(now, false).await.unwrap();
        assert!(stage.visible().await.is_empty());
    });
}
