//! T62–T66: images out of the cache as archives, and in again.

use futures::StreamExt;
use larder::{Config, Process, Role};
use larder_oci::{Descriptor, Document, Kind, Platform, PlatformSet};
use larder_provider::{ByteStream, CacheProvider, LoadOptions, Loaded, ProviderError};
use larder_tests::image::Compression;
use larder_tests::{Format, Image, Layer};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::archive::{Tar, blobs, children, file, files, listed, put_as, stream};
use super::stage::{self, descriptor, digest, read, set};

const APP: &str = "registry.example.org/team/app:1";
const NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

fn image(platform: &str, seed: u64) -> Image {
    let small = Layer::files(&[("etc/seed", seed.to_string().as_bytes())]);
    Image::build(platform).layer(small).layer(Layer::random(20_000, seed)).finish()
}

fn attested() -> Image {
    let (one, two) = (image("linux/amd64", 1), image("linux/arm64", 2));
    Image::index(Format::Oci).image(&one).attestation(&one).image(&two).attestation(&two).finish()
}

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn sorted<'a>(digests: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut digests: Vec<_> = digests.into_iter().map(str::to_owned).collect();
    digests.sort();
    digests
}

async fn load(cache: &dyn CacheProvider, archive: &[u8]) -> Result<Vec<Loaded>, ProviderError> {
    cache.image_load(stream(archive), &LoadOptions::default()).await
}

#[derive(Clone, Copy)]
enum Shape {
    Flat,
    Docker,
    Oci,
}

/// The image for linux/amd64 at [`APP`] as a stream.
async fn open(cache: &dyn CacheProvider, shape: Shape) -> Result<ByteStream, ProviderError> {
    let source = cache.new_source(APP, &amd64()).await?;
    match shape {
        Shape::Flat => source.tar_reader().await,
        Shape::Docker => source.v1_tar_reader(None).await,
        Shape::Oci => source.oci_tar_reader(None).await,
    }
}

async fn all_of(cache: &dyn CacheProvider, shape: Shape) -> Vec<u8> {
    read(open(cache, shape).await.unwrap()).await.unwrap()
}

async fn index_of(cache: &dyn CacheProvider, platforms: &PlatformSet) -> Vec<u8> {
    let source = cache.new_index_source(APP, platforms).await.unwrap();
    read(source.oci_tar_reader(None).await.unwrap()).await.unwrap()
}

/// Another cache, in a directory, that holds an image as [`APP`].
struct Origin {
    config: Config,
    process: Process,
    directory: TempDir,
}

impl Origin {
    async fn of(image: &Image) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = format!("file://{}", directory.path().join("store").display());
        let config = Config { store, ..Config::default() };
        let process =
            Process::start(&config, &Role::ALL).await.unwrap_or_else(|failure| panic!("{}", failure.message));
        let archive = Tar::new().image(image).index(&[listed(&image.root, &[(NAME, APP)])]).finish();
        load(&process.facade, &archive).await.unwrap();
        Self { config, process, directory }
    }

    fn cache(&self) -> &dyn CacheProvider {
        &self.process.facade
    }

    async fn end(self) {
        let finished = self.process.finish(&self.config).await;
        finished.unwrap_or_else(|failure| panic!("{}", failure.message));
        self.process.runtime.stop(stage::LIMIT).await;
    }
}

#[test]
fn t62_oci_archive_of_one_image_comes_back_as_it_was() {
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        let origin = Origin::of(&image).await;
        let archive = all_of(origin.cache(), Shape::Oci).await;
        let loaded = load(stage.cache(), &archive).await.unwrap();
        assert_eq!(loaded, [Loaded { names: vec![APP.to_owned()], descriptor: descriptor(&image.root) }]);
        assert_eq!(stage.target(APP).await, Some(digest(&image.root)));
        assert_eq!(stage.cache().new_source(APP, &amd64()).await.unwrap().platform(), Some(&amd64()));
        for shape in [Shape::Flat, Shape::Docker, Shape::Oci] {
            assert!(all_of(stage.cache(), shape).await == all_of(origin.cache(), shape).await);
        }
        origin.end().await;
    });
}

#[test]
fn t62_oci_archive_of_an_index_comes_back_as_it_was() {
    stage::on_both(async |stage| {
        let index = attested();
        let origin = Origin::of(&index).await;
        let archive = index_of(origin.cache(), &PlatformSet::All).await;
        load(stage.cache(), &archive).await.unwrap();
        assert_eq!(stage.target(APP).await, Some(digest(&index.root)));
        assert!(stage.cache().image_in_cache(APP, &PlatformSet::All).await.unwrap().is_complete());
        assert!(index_of(stage.cache(), &PlatformSet::All).await == archive);
        assert!(all_of(stage.cache(), Shape::Flat).await == all_of(origin.cache(), Shape::Flat).await);
        origin.end().await;
    });
}

/// The manifest is no part of what docker saves: name, configuration, layers and platform come back, and its digest only when it is
/// written just as the one that was made for it on the way in.
#[test]
fn t62_docker_archive_comes_back_with_all_that_it_holds() {
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        let origin = Origin::of(&image).await;
        let archive = all_of(origin.cache(), Shape::Docker).await;
        let loaded = load(stage.cache(), &archive).await.unwrap();
        assert_eq!((loaded.len(), &loaded[0].names), (1, &vec![APP.to_owned()]));
        let source = stage.cache().new_source(APP, &amd64()).await.unwrap();
        assert_eq!(source.config().await.unwrap().bytes, image.blob(0).bytes);
        assert_eq!(source.platform(), Some(&amd64()));
        let held = blobs(&all_of(stage.cache(), Shape::Oci).await);
        for blob in &image.blobs {
            assert!(held.contains(&blob.digest));
        }
        assert!(all_of(stage.cache(), Shape::Flat).await == all_of(origin.cache(), Shape::Flat).await);
        // From here on nothing is made anew.
        let archive = all_of(stage.cache(), Shape::Docker).await;
        assert_eq!(load(stage.cache(), &archive).await.unwrap(), loaded);
        origin.end().await;
    });
}

#[test]
fn t62_layout_comes_back_as_it_was() {
    stage::on_both(async |stage| {
        let index = attested();
        let origin = Origin::of(&index).await;
        let layout = origin.directory.path().join("layout");
        origin.process.facade.export_layout(APP, None, None, &layout).await.unwrap();
        let loaded = stage.process.facade.load_layout(&layout, &LoadOptions::default()).await.unwrap();
        assert_eq!(loaded, [Loaded { names: vec![APP.to_owned()], descriptor: descriptor(&index.root) }]);
        assert!(stage.cache().image_in_cache(APP, &PlatformSet::All).await.unwrap().is_complete());
        let again = origin.directory.path().join("again");
        stage.process.facade.export_layout(APP, None, None, &again).await.unwrap();
        let list = |layout: &std::path::Path| std::fs::read_to_string(layout.join("index.json")).unwrap();
        assert_eq!(list(&layout), list(&again));
        origin.end().await;
    });
}

/// linuxkit lists the manifest that it exports as an index, with the name only where other tools have a tag.
#[test]
fn t62_archive_of_linuxkit_that_calls_an_image_an_index_is_loaded_as_an_image() {
    stage::on_both(async |stage| {
        for format in [Format::Oci, Format::Docker] {
            let image = Image::build("linux/amd64").format(format).layer(Layer::random(100, 1)).finish();
            let mut entry = listed(&image.root, &[(NAME, APP)]);
            entry["mediaType"] = "application/vnd.oci.image.index.v1+json".into();
            let archive = Tar::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
            let loaded = load(stage.cache(), &archive.image(&image).index(&[entry]).finish()).await.unwrap();
            assert_eq!(loaded, [Loaded { names: vec![APP.to_owned()], descriptor: descriptor(&image.root) }]);
            let found = stage.cache().find_descriptor(APP).await.unwrap().unwrap();
            assert_eq!(found.descriptor, descriptor(&image.root));
            assert!(stage.cache().image_in_cache(APP, &set("linux/amd64")).await.unwrap().is_complete());
        }
    });
}

/// The one entry of an archive's list, and the document that it describes.
fn described(archive: &[u8]) -> (Descriptor, Document) {
    let list: Value = serde_json::from_slice(&file(archive, "index.json")).unwrap();
    assert_eq!(list["manifests"].as_array().map(Vec::len), Some(1));
    let entry = &list["manifests"][0];
    assert_eq!(
        (&entry["annotations"][NAME], &entry["annotations"][CONTAINERD_NAME]),
        (&APP.into(), &APP.into())
    );
    let entry: Descriptor = serde_json::from_value(entry.clone()).unwrap();
    let bytes = file(archive, &format!("blobs/sha256/{}", entry.digest.hex()));
    assert_eq!(entry.size, bytes.len() as u64);
    let document = Document::parse(bytes.into(), Some(&entry.media_type)).unwrap();
    (entry, document)
}

#[test]
fn t63_oci_archive_says_of_an_image_what_it_is_and_holds_each_blob_once() {
    stage::on_both(async |stage| {
        for format in [Format::Oci, Format::Docker] {
            let twice = Layer::random(1_000, 1);
            let layers = Image::build("linux/amd64").format(format).layer(twice.clone());
            let image = layers.layer(Layer::random(1_000, 2)).layer(twice).finish();
            put_as(stage, APP, &image).await;
            let archive = all_of(stage.cache(), Shape::Oci).await;
            let (entry, _) = described(&archive);
            assert_eq!(entry.unnamed(), descriptor(&image.root));
            let mut expected = sorted(image.digests());
            expected.dedup();
            assert_eq!(blobs(&archive), expected);
            assert_eq!(file(&archive, "oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#);
        }
    });
}

#[test]
fn t64_archive_for_some_platforms_holds_an_index_of_these_alone() {
    stage::on_both(async |stage| {
        let (one, two) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let artifact = Image::artifact("application/vnd.example.chart", b"chart", None);
        let both = Image::index(Format::Oci).image(&one).attestation(&one).image(&two).attestation(&two);
        let index = both.image(&artifact).finish();
        put_as(stage, APP, &index).await;
        let archive = index_of(stage.cache(), &set("linux/amd64")).await;

        let (entry, document) = described(&archive);
        let Kind::Index(kept) = document.kind() else { panic!("{} is no index", entry.digest) };
        let listed = children(&index);
        // What says nothing of a platform comes along.
        assert_eq!(kept.manifests, [&listed[..2], &listed[4..]].concat());
        let attested = Image::index(Format::Oci).image(&one).attestation(&one).image(&artifact).finish();
        let digests = attested.digests();
        let root = attested.root.digest.as_str();
        let others = digests.into_iter().filter(|digest| *digest != root);
        assert_eq!(blobs(&archive), sorted(others.chain([entry.digest.as_str()])));

        let refused = stage.cache().new_index_source(APP, &set("linux/riscv64")).await.err().unwrap();
        assert!(matches!(refused, ProviderError::PlatformNotFound { .. }), "{refused:?}");
    });
}

#[test]
fn t65_docker_archive_is_what_docker_load_takes() {
    stage::on_both(async |stage| {
        let twice = Layer::random(1_000, 1);
        let zstd = Layer::random(1_000, 2).compress(Compression::Zstd);
        let image = Image::build("linux/amd64").layer(twice.clone()).layer(zstd).layer(twice).finish();
        put_as(stage, APP, &image).await;
        let source = stage.cache().new_source(APP, &amd64()).await.unwrap();
        let archive = read(source.v1_tar_reader(Some("x:y")).await.unwrap()).await.unwrap();
        let layer = |place: usize| format!("{}.tar.gz", &image.blob(place).digest[7..]);
        let config = image.blob(0).digest.clone();
        let list = json!([{
            "Config": config, "RepoTags": ["x:y"], "Layers": [layer(1), layer(2), layer(1)],
        }]);
        let found = files(&archive);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [&config, &layer(1), &layer(2), "manifest.json"]);
        for (place, (_, content)) in found[..3].iter().enumerate() {
            assert_eq!(content[..], image.blob(place).bytes);
        }
        assert_eq!(serde_json::from_slice::<Value>(&found[3].1).unwrap(), list);

        let untagged = read(source.v1_tar_reader(Some("x")).await.unwrap()).await.unwrap();
        let list: Value = serde_json::from_slice(&file(&untagged, "manifest.json")).unwrap();
        assert_eq!(list[0]["RepoTags"], json!(["x:latest"]));
    });
}

/// An image of which no stream is done before its last layer is opened: what is read ahead is less than the first one.
fn large() -> Image {
    let first = Layer::random(16 << 20, 1).compress(Compression::Plain);
    Image::build("linux/amd64").layer(first).layer(Layer::random(1_000, 2)).finish()
}

fn assert_lacking(refused: &ProviderError) {
    assert!(matches!(refused, ProviderError::Partial { .. } | ProviderError::Corrupt(_)), "{refused:?}");
}

#[test]
fn t66_stream_of_an_image_that_lacks_a_layer_never_ends_cleanly() {
    stage::on_both(async |stage| {
        let image = large();
        put_as(stage, APP, &image).await;
        let last = digest(image.blob(2));
        for shape in [Shape::Flat, Shape::Docker, Shape::Oci] {
            let mut begun = open(stage.cache(), shape).await.unwrap();
            begun.next().await.unwrap().unwrap();
            stage.lose(&last).await;
            assert_lacking(&read(begun).await.unwrap_err());
            let refused = open(stage.cache(), shape).await.err().expect("it is refused at once");
            assert!(matches!(refused, ProviderError::Partial { missing, .. } if missing == [last.clone()]));
            stage.overwrite(&last, image.blob(2).bytes.to_vec()).await;
        }
    });
}

/// The contract speaks of missing layers; a wrong byte is as bad.
#[test]
fn t66_stream_of_an_image_with_a_wrong_byte_never_ends_cleanly() {
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        put_as(stage, APP, &image).await;
        for place in [0, 2] {
            stage.flip(&digest(image.blob(place))).await;
            for shape in [Shape::Flat, Shape::Docker, Shape::Oci] {
                let refused = match open(stage.cache(), shape).await {
                    Ok(stream) => read(stream).await.unwrap_err(),
                    Err(refused) => refused,
                };
                assert!(matches!(refused, ProviderError::Corrupt(_)), "{refused:?}");
            }
            stage.overwrite(&digest(image.blob(place)), image.blob(place).bytes.to_vec()).await;
        }
        // Nothing of the above was remembered.
        all_of(stage.cache(), Shape::Flat).await;
    });
}
