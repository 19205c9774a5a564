//! Only what is wanted is fetched, and it is what was wanted.

use std::collections::BTreeSet;
use std::fs;

use larder_tests::image::{Blob, Compression, IndexBuilder};
use larder_tests::{Format, Image, Larder, Layer, ScriptedRegistry};
use serde_json::{Value, json};

const NAME: &str = "team/app:1";

/// One image with a layer of its own, and one that all share.
fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform)
        .layer(Layer::files(&[("etc/motd", b"hello\n".as_slice())]))
        .layer(Layer::random(20_000, seed))
        .finish()
}

/// What `uname -m` is to images.
fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "linux/amd64",
        "aarch64" => "linux/arm64",
        other => panic!("no tests for {other}"),
    }
}

/// A registry with `image`, and an empty cache.
fn serving(image: &Image) -> (ScriptedRegistry, Larder) {
    (ScriptedRegistry::serving("team/app", "1", image), Larder::new())
}

fn pull(larder: &Larder, registry: &ScriptedRegistry, platform: &str) {
    larder.ok(&["pull", "--platform", platform, &registry.reference(NAME)]);
}

/// Expects that pulling fails with exit code 3 and leaves no name; returns what it said.
fn not_found(larder: &Larder, registry: &ScriptedRegistry, platform: &[&str]) -> String {
    let reference = registry.reference(NAME);
    let refused = larder.run(&[&["pull", &reference], platform].concat()).expect_code(3);
    assert_eq!(larder.ok(&["ls"]), "");
    refused.stderr
}

fn inspect(larder: &Larder, registry: &ScriptedRegistry) -> Value {
    larder.run(&["--json", "inspect", &registry.reference(NAME)]).expect_code(0).json()
}

fn digests<'a>(images: impl IntoIterator<Item = &'a Image>) -> BTreeSet<String> {
    images.into_iter().flat_map(Image::digests).map(str::to_owned).collect()
}

fn visible(larder: &Larder) -> BTreeSet<String> {
    larder.visible_blobs().into_iter().collect()
}

/// Exactly the closures of `images` and the index itself are there, and all of it holds.
fn assert_holds_just(larder: &Larder, registry: &ScriptedRegistry, index: &Image, images: &[&Image]) {
    let mut expected = digests(images.iter().copied());
    expected.insert(index.root.digest.clone());
    assert_eq!(visible(larder), expected);
    larder.assert_store_is_sound();
    larder.ok(&["verify", &registry.reference(NAME)]);
}

#[test]
fn default_is_the_platform_of_the_host() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let index = Image::index(Format::Oci).image(&amd64).image(&arm64).finish();
    let (registry, larder) = serving(&index);
    larder.ok(&["pull", &registry.reference(NAME)]);
    let own = if host() == "linux/amd64" { &amd64 } else { &arm64 };
    assert_holds_just(&larder, &registry, &index, &[own]);
}

#[test]
fn lists_bring_what_they_name_and_all_brings_everything() {
    let platforms = ["linux/amd64", "linux/arm64/v8", "linux/riscv64", "windows/amd64"];
    let images: Vec<Image> = (1..).zip(platforms).map(|(seed, platform)| image(platform, seed)).collect();
    let index = images.iter().fold(Image::index(Format::Oci), IndexBuilder::image).finish();
    let (registry, larder) = serving(&index);
    pull(&larder, &registry, "linux/riscv64,linux/arm64");
    assert_holds_just(&larder, &registry, &index, &[&images[1], &images[2]]);
    assert_eq!(inspect(&larder, &registry)["sparse"], true);
    pull(&larder, &registry, "all");
    assert_eq!(visible(&larder), digests([&index]));
    assert_eq!(inspect(&larder, &registry)["sparse"], false);
    for blob in &index.blobs {
        assert_eq!(registry.count("GET", &blob.digest), 1, "each is fetched once over all pulls");
    }
    let gets = (registry.count("GET", &index.root.digest), registry.count("GET", "/manifests/1"));
    assert_eq!(gets, (1, 0), "an index that is there is not fetched again");
}

#[test]
fn one_more_platform_costs_only_what_is_missing() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let index = Image::index(Format::Oci).image(&amd64).image(&arm64).finish();
    let (registry, larder) = serving(&index);
    pull(&larder, &registry, "linux/amd64");
    registry.clear_requests();
    pull(&larder, &registry, "linux/arm64");
    assert_eq!(registry.requests().len(), 3, "a manifest, a configuration and a layer");
    assert_eq!(registry.count("GET", &amd64.blob(1).digest), 0, "the shared layer");
    // What was pulled before is still wanted.
    pull(&larder, &registry, "linux/amd64,linux/arm64");
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn sparse_index_is_kept_byte_for_byte_and_known_to_be_sparse() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let index = Image::index(Format::Oci).image(&amd64).image(&arm64).finish();
    let (registry, larder) = serving(&index);
    pull(&larder, &registry, "linux/arm64");
    assert_eq!(fs::read(larder.blob_path(&index.root.digest)).unwrap(), index.root.bytes);
    let reference = registry.reference(NAME);
    assert_eq!(larder.ok(&["inspect", "--raw", &reference]).as_bytes(), index.root.bytes);
    assert_eq!(larder.ok(&["cat", &index.root.digest]).as_bytes(), index.root.bytes);
    let inspection = inspect(&larder, &registry);
    assert_eq!(inspection["sparse"], true);
    let presence: Vec<_> = inspection["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["descriptor"]["platform"]["architecture"].clone(), part["present"].clone()))
        .collect();
    assert_eq!(presence, [("amd64".into(), false.into()), ("arm64".into(), true.into())]);
    let audit = larder.run(&["--json", "verify", &reference]).expect_code(0).json();
    assert_eq!((&audit["absent_platforms"], &audit["problems"]), (&1.into(), &json!([])));
    let text = larder.ok(&["inspect", &reference]);
    assert!(text.contains("some platforms were not fetched"), "{text}");
}

#[test]
fn attestations_follow_their_images() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let index = Image::index(Format::Oci).attested(&[&amd64, &arm64]).finish();
    let attestation = |place: usize| {
        let digest = index.root.json()["manifests"][place]["digest"].as_str().unwrap().to_owned();
        let manifest = index.manifests.iter().find(|one| one.digest == digest).unwrap().json();
        let blob = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
        BTreeSet::from([digest, blob(&manifest["config"]), blob(&manifest["layers"][0])])
    };
    let (registry, larder) = serving(&index);
    pull(&larder, &registry, "linux/arm64");
    let mut expected = digests([&arm64]);
    expected.insert(index.root.digest.clone());
    expected.extend(attestation(3));
    assert_eq!(visible(&larder), expected);
    pull(&larder, &registry, "all");
    assert_eq!(visible(&larder), digests([&index]));
    larder.ok(&["verify", "--all"]);
}

#[test]
fn single_image_for_another_platform_is_refused_before_any_layer_is_fetched() {
    for format in [Format::Oci, Format::Docker] {
        let single = Image::build("linux/s390x").format(format).layer(Layer::random(20_000, 1)).finish();
        let (registry, larder) = serving(&single);
        for platform in [&[][..], &["--platform", "linux/amd64,linux/s390x"]] {
            let said = not_found(&larder, &registry, platform);
            assert!(said.contains("no manifest for") && said.contains("linux/s390x"), "{said}");
            assert_eq!(registry.count("GET", &single.blob(1).digest), 0);
        }
        for platform in ["linux/s390x", "all"] {
            pull(&larder, &registry, platform);
            assert_eq!(visible(&larder), digests([&single]));
        }
        // It is there, but not for whoever wants another one.
        let _ = larder.run(&["pull", &registry.reference(NAME)]).expect_code(3);
    }
}

#[test]
fn docker_list_and_docker_image_are_kept_as_they_are() {
    let build = |platform: &str, seed| {
        Image::build(platform).format(Format::Docker).layer(Layer::random(10_000, seed)).finish()
    };
    let (amd64, arm64) = (build("linux/amd64", 1), build("linux/arm64", 2));
    let list = Image::index(Format::Docker).image(&amd64).image(&arm64).finish();
    let (registry, larder) = serving(&list);
    pull(&larder, &registry, "linux/amd64");
    assert_holds_just(&larder, &registry, &list, &[&amd64]);
    let listed = larder.run(&["--json", "ls"]).json();
    assert_eq!(
        listed["descriptor"]["mediaType"],
        "application/vnd.docker.distribution.manifest.list.v2+json"
    );
    registry.put("team/single", "1", &amd64);
    larder.ok(&["pull", "--platform", "linux/amd64", &registry.reference("team/single:1")]);
    let inspection = larder.run(&["--json", "inspect", &registry.reference("team/single:1")]).json();
    assert_eq!(inspection["descriptor"]["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
}

#[test]
fn layers_are_taken_whatever_their_compression() {
    for format in [Format::Oci, Format::Docker] {
        let mut single = Image::build("linux/amd64").format(format);
        for (seed, compression) in (1..).zip([Compression::Gzip, Compression::Zstd, Compression::Plain]) {
            single = single.layer(Layer::random(5_000, seed).compress(compression));
        }
        let single = single.finish();
        let (registry, larder) = serving(&single);
        pull(&larder, &registry, "linux/amd64");
        assert_eq!(visible(&larder), digests([&single]));
        larder.ok(&["verify", "--all"]);
    }
}

#[test]
fn nested_indexes_are_searched() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let riscv64 = image("linux/riscv64", 3);
    let inner = Image::index(Format::Oci).image(&amd64).image(&riscv64).finish();
    let middle = Image::index(Format::Docker).image(&inner).finish();
    let outer = Image::index(Format::Oci).image(&arm64).image(&middle).finish();
    let (registry, larder) = serving(&outer);
    pull(&larder, &registry, "linux/riscv64");
    let mut expected = digests([&riscv64]);
    expected.extend([&inner, &middle, &outer].map(|index| index.root.digest.clone()));
    assert_eq!(visible(&larder), expected);
    larder.ok(&["verify", "--all"]);
    pull(&larder, &registry, "linux/riscv64,linux/arm64");
    pull(&larder, &registry, "all");
    assert_eq!(visible(&larder), digests([&outer]));
}

#[test]
fn platform_that_no_nested_index_has_is_missed() {
    let inner = Image::index(Format::Oci).image(&image("linux/amd64", 1)).finish();
    let outer = Image::index(Format::Oci).image(&inner).image(&image("linux/arm64", 2)).finish();
    let (registry, larder) = serving(&outer);
    let said = not_found(&larder, &registry, &["--platform", "linux/riscv64"]);
    assert!(said.contains("no manifest for linux/riscv64"), "{said}");
    for blob in &outer.blobs {
        assert_eq!(registry.count("GET", &blob.digest), 0, "nothing is fetched in vain");
    }
}

#[test]
fn artifacts_have_no_platform_and_are_taken() {
    let artifact = Image::artifact("application/vnd.example.sbom", b"{\"components\":[]}", None);
    let (registry, larder) = serving(&artifact);
    larder.ok(&["pull", &registry.reference(NAME)]);
    assert_eq!(visible(&larder), digests([&artifact]));
    larder.ok(&["verify", "--all"]);
    registry.clear_requests();
    larder.ok(&["pull", &registry.reference(NAME)]);
    assert_eq!(registry.requests().len(), 0, "warm");
}

#[test]
fn artifacts_in_an_index_come_along() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let artifact = Image::artifact("application/vnd.example.sbom", b"{}x", None);
    let index = Image::index(Format::Oci).image(&amd64).image(&arm64).image(&artifact).finish();
    let (registry, larder) = serving(&index);
    pull(&larder, &registry, "linux/amd64");
    assert_holds_just(&larder, &registry, &index, &[&amd64, &artifact]);
}

#[test]
fn index_of_nothing_but_artifacts_is_taken() {
    let artifact = Image::artifact("application/vnd.example.sbom", b"{}y", None);
    let mut entry = artifact.root.descriptor();
    entry["artifactType"] = "application/vnd.example.sbom".into();
    let index = Image::index(Format::Oci).image(&artifact).finish();
    let (registry, larder) = serving(&index);
    larder.ok(&["pull", &registry.reference(NAME)]);
    assert_eq!(visible(&larder), digests([&index]));
}

#[test]
fn schema_one_is_refused_with_advice() {
    let old = json!({
        "schemaVersion": 1, "name": "team/app", "tag": "1", "architecture": "amd64",
        "fsLayers": [{ "blobSum": Blob::new("", "layer").digest }],
        "history": [{ "v1Compatibility": "{}" }],
    });
    for media_type in [
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/json",
    ] {
        let (registry, larder) = serving(&Image::raw(media_type, old.to_string()));
        let refused = larder.run(&["pull", &registry.reference(NAME)]).expect_code(1);
        assert!(refused.stderr.contains("schema 1"), "{}", refused.stderr);
        assert!(refused.stderr.contains("re-push"), "{}", refused.stderr);
        assert_eq!(visible(&larder), BTreeSet::new());
        assert_eq!(registry.count("GET", "/manifests/"), 1, "no try will change it");
    }
}

#[test]
fn variants_are_told_apart() {
    let variants = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8"];
    let images: Vec<Image> = (1..).zip(variants).map(|(seed, platform)| image(platform, seed)).collect();
    let index = images.iter().fold(Image::index(Format::Oci), IndexBuilder::image).finish();
    for (wish, got) in [
        ("linux/arm/v6", &[1][..]),
        ("linux/arm/v7", &[2]),
        ("linux/arm/v6,linux/arm/v7", &[1, 2]),
        ("linux/armhf", &[2]),
        ("linux/arm", &[0, 1, 2]),
        ("linux/arm64", &[3]),
        ("linux/aarch64", &[3]),
    ] {
        let (registry, larder) = serving(&index);
        pull(&larder, &registry, wish);
        let images: Vec<&Image> = got.iter().map(|place| &images[*place]).collect();
        assert_holds_just(&larder, &registry, &index, &images);
    }
    let (registry, larder) = serving(&index);
    let said = not_found(&larder, &registry, &["--platform", "linux/arm/v8"]);
    assert!(said.contains("linux/arm/v7"), "{said}");
}

#[test]
fn variant_of_a_single_image_counts() {
    let (registry, larder) = serving(&image("linux/arm/v6", 1));
    not_found(&larder, &registry, &["--platform", "linux/arm/v7"]);
    pull(&larder, &registry, "linux/arm/v6");
}

#[test]
fn missing_platform_is_named_with_those_that_are_there() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64/v8", 2));
    let index = Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish();
    let (registry, larder) = serving(&index);
    for platform in ["linux/riscv64", "linux/amd64,linux/riscv64"] {
        let said = not_found(&larder, &registry, &["--platform", platform]);
        let told = "no manifest for linux/riscv64; the image has linux/amd64, linux/arm64/v8";
        assert!(said.contains(told), "{said}");
    }
    assert_eq!(registry.count("GET", "/blobs/"), 0);
    let failed = larder.run(&["--json", "pull", "--platform", "linux/riscv64", &registry.reference(NAME)]);
    assert_eq!(failed.json_lines().last().unwrap()["kind"], "not_found");
}

#[test]
fn platform_that_upstream_has_by_now_is_found() {
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    let (registry, larder) = serving(&Image::index(Format::Oci).image(&amd64).finish());
    pull(&larder, &registry, "linux/amd64");
    let grown = Image::index(Format::Oci).image(&amd64).image(&arm64).finish();
    registry.put("team/app", "1", &grown);
    pull(&larder, &registry, "linux/arm64");
    assert_eq!(inspect(&larder, &registry)["descriptor"]["digest"], grown.root.digest);
}

#[test]
fn malformed_platforms_are_usage_errors() {
    let larder = Larder::new();
    for platform in ["", "linux", "Linux/amd64", "linux/amd64,", "a/b/c/d"] {
        let refused = larder.run(&["pull", "--platform", platform, "localhost:1/app"]).expect_code(2);
        assert!(refused.stderr.contains("platform"), "{}", refused.stderr);
    }
}
