//! What is there is not fetched again.

use std::fs;

use larder_tests::image::{Blob, Compression};
use larder_tests::scripted::manifest_path;
use larder_tests::{Finished, Format, Image, Larder, Layer, ScriptedRegistry};
use serde_json::Value;

const NAME: &str = "team/app:1";

/// Two platforms with an attestation, three layers for amd64.
fn image() -> Image {
    let amd64 = Image::build("linux/amd64")
        .layer(Layer::files(&[("etc/motd", b"hello\n".as_slice())]))
        .layer(Layer::random(40_000, 1))
        .layer(Layer::random(60_000, 2).compress(Compression::Zstd))
        .finish();
    let arm64 = Image::build("linux/arm64").layer(Layer::random(30_000, 3)).finish();
    Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish()
}

/// The event that a pull ends in.
fn pulled(run: &Finished) -> Value {
    let lines = run.json_lines();
    lines.into_iter().find(|line| line["event"] == "pulled").expect("a pull says what it did")
}

fn pull(larder: &Larder, registry: &ScriptedRegistry, more: &[&str]) -> Value {
    let reference = registry.reference(NAME);
    let arguments = [&["--json", "pull", &reference], more].concat();
    pulled(&larder.run(&arguments).expect_code(0))
}

/// A registry with the image, and a cache that has pulled it for linux/amd64; no request is counted so far.
fn warm() -> (ScriptedRegistry, Larder, Image) {
    let image = image();
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let larder = Larder::new();
    assert_eq!(pull(&larder, &registry, &["--platform", "linux/amd64"])["outcome"], "pulled");
    registry.clear_requests();
    (registry, larder, image)
}

fn asked(registry: &ScriptedRegistry) -> Vec<String> {
    let line = |exchange: &larder_tests::scripted::Exchange| {
        format!("{} {}", exchange.request.method, exchange.request.path)
    };
    registry.requests().iter().map(line).collect()
}

fn blob_gets(image: &[&Blob]) -> Vec<String> {
    let mut gets: Vec<String> =
        image.iter().map(|blob| format!("GET /v2/team/app/blobs/{}", blob.digest)).collect();
    gets.sort();
    gets
}

#[test]
fn second_pull_touches_no_network() {
    let (registry, larder, image) = warm();
    let connections = registry.connections();
    let again = pull(&larder, &registry, &["--platform", "linux/amd64"]);
    assert_eq!(again["outcome"], "already_present");
    assert_eq!(again["root"]["digest"], image.root.digest);
    assert_eq!(asked(&registry), Vec::<String>::new());
    assert_eq!(registry.connections(), connections, "not even a connection is made");
    let reference = registry.reference(NAME);
    drop(registry);
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
}

#[test]
fn second_pull_reads_no_layer() {
    let (registry, larder, image) = warm();
    let layer = larder.blob_path(&image.blob(2).digest);
    let mut bytes = fs::read(&layer).unwrap();
    bytes[100] ^= 1;
    fs::write(&layer, bytes).unwrap();
    // Only a pull that hashes would see it; that is what verify is for.
    assert_eq!(pull(&larder, &registry, &["--platform", "linux/amd64"])["outcome"], "already_present");
    let verdict = larder.run(&["verify", &registry.reference(NAME)]).expect_code(4);
    assert!(verdict.stdout.contains(&image.blob(2).digest), "{}", verdict.stdout);
    assert_eq!(asked(&registry), Vec::<String>::new());
}

#[test]
fn always_costs_one_head_when_nothing_has_changed() {
    let (registry, larder, _) = warm();
    let again = pull(&larder, &registry, &["--platform", "linux/amd64", "--always"]);
    assert_eq!(again["outcome"], "already_present");
    assert_eq!(asked(&registry), [format!("HEAD {}", manifest_path("team/app", "1"))]);
}

#[test]
fn always_asks_nothing_about_what_a_digest_names() {
    let (registry, larder, image) = warm();
    let reference = format!("{}@{}", registry.reference("team/app"), image.root.digest);
    let platform = ["--platform", "linux/amd64", "--always"];
    for expected in ["pulled", "already_present"] {
        let arguments = [&["--json", "pull", &reference], &platform[..]].concat();
        let said = pulled(&larder.run(&arguments).expect_code(0));
        // The first one gives what is there a second name.
        assert!(said["outcome"] == expected || said["fetched_blobs"] == 0, "{said}");
    }
    assert_eq!(asked(&registry), Vec::<String>::new());
}

#[test]
fn always_without_the_registry_fails_and_keeps_what_is_there() {
    let (registry, larder, _) = warm();
    let reference = registry.reference(NAME);
    drop(registry);
    let larder = larder.env("LARDER_REGISTRY__RETRIES_MAX", "0");
    let failed = larder.run(&["pull", "--platform", "linux/amd64", "--always", &reference]).expect_code(1);
    assert!(failed.stderr.contains("cannot fetch"), "{}", failed.stderr);
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    larder.ok(&["verify", &reference]);
}

/// Damages what `path_of` names in a warm cache and expects the next pull to fetch just that.
fn heals(damage: impl Fn(&std::path::Path)) {
    let (registry, larder, image) = warm();
    // The configuration and the three layers.
    for blob in &image.blobs[..4] {
        damage(&larder.blob_path(&blob.digest));
        let said = pull(&larder, &registry, &["--platform", "linux/amd64"]);
        assert_eq!(
            (&said["outcome"], &said["fetched_blobs"], &said["fetched_bytes"]),
            (&"pulled".into(), &1.into(), &blob.bytes.len().into())
        );
        assert_eq!(asked(&registry), blob_gets(&[blob]));
        registry.clear_requests();
    }
    larder.ok(&["verify", "--all"]);
    larder.assert_store_is_sound();
}

#[test]
fn missing_blob_alone_is_fetched() {
    heals(|path| fs::remove_file(path).unwrap());
}

#[test]
fn blob_that_is_too_short_alone_is_fetched() {
    heals(|path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap());
}

#[test]
fn blob_that_is_too_long_alone_is_fetched() {
    heals(|path| {
        let long = fs::metadata(path).unwrap().len() + 1;
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(long).unwrap();
    });
}

#[test]
fn missing_or_damaged_manifest_alone_is_fetched() {
    let (registry, larder, image) = warm();
    let (child, root) = (&image.manifests[0], &image.root);
    for blob in [child, root] {
        let path = larder.blob_path(&blob.digest);
        let mut flipped = blob.bytes.to_vec();
        flipped[20] ^= 1;
        for damage in [None, Some(&blob.bytes[..9]), Some(&flipped[..])] {
            fs::remove_file(&path).unwrap();
            if let Some(damage) = damage {
                fs::write(&path, damage).unwrap();
            }
            let said = pull(&larder, &registry, &["--platform", "linux/amd64"]);
            assert_eq!(said["fetched_blobs"], 1, "{said}");
            assert_eq!(fs::read(&path).unwrap(), blob.bytes);
            // What the tag stands for has to be found out again before its manifest can be got.
            let head =
                (blob.digest == root.digest).then(|| format!("HEAD {}", manifest_path("team/app", "1")));
            let get = format!("GET {}", manifest_path("team/app", &blob.digest));
            assert_eq!(asked(&registry), head.into_iter().chain([get]).collect::<Vec<_>>());
            registry.clear_requests();
        }
    }
}

#[test]
fn moved_tag_is_followed_only_with_always_and_costs_only_what_is_new() {
    let (registry, larder, before) = warm();
    let amd64 = Image::build("linux/amd64")
        .layer(Layer::files(&[("etc/motd", b"hello\n".as_slice())]))
        .layer(Layer::random(40_000, 1))
        .layer(Layer::random(50_000, 9))
        .finish();
    let after = Image::index(Format::Oci).image(&amd64).finish();
    registry.put("team/app", "1", &after);
    let platform = ["--platform", "linux/amd64"];
    let stale = pull(&larder, &registry, &platform);
    assert_eq!(
        (&stale["outcome"], &stale["root"]["digest"]),
        (&"already_present".into(), &before.root.digest.as_str().into())
    );
    assert_eq!(asked(&registry), Vec::<String>::new());

    let fresh = pull(&larder, &registry, &[&platform[..], &["--always"]].concat());
    assert_eq!(fresh["root"]["digest"], after.root.digest);
    assert_eq!(registry.count("HEAD", ""), 1);
    assert_eq!(registry.count("GET", "/manifests/"), 2, "the index and the image: {:?}", asked(&registry));
    let mut gets: Vec<String> = asked(&registry).into_iter().filter(|one| one.contains("/blobs/")).collect();
    gets.sort();
    assert_eq!(gets, blob_gets(&[amd64.blob(0), amd64.blob(3)]));
    let history = larder.run(&["--json", "history", &registry.reference(NAME)]).json_lines();
    let targets: Vec<_> = history.iter().map(|change| change["descriptor"]["digest"].clone()).collect();
    assert_eq!(targets, [before.root.digest.as_str(), &after.root.digest]);
}

#[test]
fn another_name_of_the_same_content_costs_one_head() {
    let (registry, larder, image) = warm();
    registry.put("team/app", "2", &image);
    larder.ok(&["pull", "--platform", "linux/amd64", &registry.reference("team/app:2")]);
    assert_eq!(asked(&registry), [format!("HEAD {}", manifest_path("team/app", "2"))]);
}

#[test]
fn another_image_costs_only_the_layers_that_are_not_there() {
    let (registry, larder, _) = warm();
    let other = Image::build("linux/amd64")
        .layer(Layer::files(&[("etc/motd", b"hello\n".as_slice())]))
        .layer(Layer::random(20_000, 4))
        .finish();
    registry.put("team/other", "1", &other);
    larder.ok(&["pull", &registry.reference("team/other:1")]);
    assert_eq!(registry.count("GET", "/blobs/"), 2, "{:?}", asked(&registry));
    assert_eq!(registry.count("GET", &other.blob(1).digest), 0);
}

#[test]
fn digest_whose_manifest_is_there_needs_no_name_upstream() {
    let (registry, larder, image) = warm();
    let child = &image.manifests[0].digest;
    let reference = format!("{}@{child}", registry.reference("team/app"));
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    assert_eq!(asked(&registry), Vec::<String>::new());
}
