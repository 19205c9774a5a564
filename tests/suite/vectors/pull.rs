//! T20 to T36: bringing images in. T34, a crash at any point of it, is in `crash`.

use std::collections::BTreeSet;

use futures::future::join_all;
use larder_oci::{Digest, OnLocal, PlatformSet, media_type};
use larder_provider::{Presence, ProviderError, PullOptions, Pulled, Root, WriteOptions};
use larder_tests::image::Compression;
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Behaviour, Format, Gate, Image, Layer};
use serde_json::json;

use super::stage::{LIMIT, Stage, blocking, descriptor, digest, image, index, on_both, set};

const ALWAYS: PullOptions =
    PullOptions { always: true, arch_names: false, local: OnLocal::Merge, watch: None };

/// The paths of all requests so far, each with its method.
fn requests(stage: &Stage) -> Vec<String> {
    let log = stage.registry.requests();
    log.into_iter().map(|one| format!("{} {}", one.request.method, one.request.path)).collect()
}

fn sorted(image: &Image) -> Vec<String> {
    let mut digests: Vec<String> = image.digests().into_iter().map(str::to_owned).collect();
    digests.sort();
    digests
}

#[track_caller]
fn assert_already_present(pulled: &Result<Pulled, ProviderError>, image: &Image) {
    let Ok(Pulled::AlreadyPresent { root }) = pulled else {
        panic!("{pulled:?}");
    };
    assert_eq!(root.digest, digest(&image.root));
}

#[track_caller]
fn assert_not_for(pulled: &Result<Pulled, ProviderError>, platform: &str) {
    let Err(ProviderError::PlatformNotFound { missing, .. }) = pulled else {
        panic!("{pulled:?}");
    };
    assert_eq!(*missing, [platform.parse().unwrap()]);
}

#[test]
fn t20_complete_image_costs_no_request() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let index = index([&amd64, &arm64]);
        let reference = stage.filled(&index).await;
        for platforms in ["linux/amd64", "linux/arm64", "linux/amd64,linux/arm64", "all"] {
            assert_already_present(&stage.pull(&reference, platforms).await, &index);
        }
        assert_eq!(requests(stage), [""; 0]);
    });
}

#[test]
fn t21_only_the_missing_layer_is_fetched() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let reference = stage.filled(&index([&amd64, &arm64])).await;
        for blob in [amd64.blob(2), arm64.blob(2)] {
            stage.lose(&digest(blob)).await;
        }
        let pulled = stage.pull(&reference, "linux/amd64").await.unwrap();
        let bytes = amd64.blob(2).bytes.len() as u64;
        let Pulled::Pulled { fetched_blobs: 1, fetched_bytes, .. } = pulled else {
            panic!("{pulled:?}");
        };
        assert_eq!(fetched_bytes, bytes);
        assert_eq!(requests(stage), [format!("GET {}", blob_path("team/app", &amd64.blob(2).digest))]);
        assert_eq!(
            stage.cache().image_in_cache(&reference.name(), &set("linux/amd64")).await.unwrap(),
            Presence::Complete
        );
    });
}

#[test]
fn t22_other_platforms_are_not_fetched_and_attestations_follow_theirs() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let index = Image::index(Format::Oci).attested(&[&amd64, &arm64]).finish();
        stage.pull(&stage.serve(&index), "linux/amd64").await.unwrap();
        let attested = Image::index(Format::Oci).attestation(&amd64).finish();
        let mut expected: BTreeSet<&str> = amd64.digests().into_iter().chain(attested.digests()).collect();
        expected.remove(attested.root.digest.as_str());
        expected.insert(&index.root.digest);
        assert!(stage.visible().await.iter().map(String::as_str).eq(expected));
        for blob in [arm64.blob(0), arm64.blob(2), &arm64.root] {
            assert_eq!(stage.registry.count("GET", &blob.digest), 0);
        }
    });
}

#[test]
fn t23_platform_that_is_not_there_is_named_and_no_name_is_written() {
    on_both(async |stage| {
        let reference = stage.serve(&index([&image("linux/amd64", 1), &image("linux/arm64", 2)]));
        for platforms in ["linux/riscv64", "linux/amd64,linux/riscv64"] {
            assert_not_for(&stage.pull(&reference, platforms).await, "linux/riscv64");
        }
        assert_eq!(stage.names().await, [""; 0]);
        assert_eq!(stage.registry.count("GET", "/blobs/"), 0);
    });
}

#[test]
fn t24_default_variants_match_in_both_directions() {
    on_both(async |stage| {
        for (tag, wish, child) in [
            ("1", "linux/arm64", "linux/arm64/v8"),
            ("2", "linux/arm64/v8", "linux/arm64"),
            ("3", "linux/arm64/v8", "linux/arm64/v8"),
            ("4", "linux/arm/v7", "linux/arm"),
        ] {
            let index = index([&image("linux/amd64", 1), &image(child, 2)]);
            stage.registry.put("team/app", tag, &index);
            let reference = stage.reference(&format!("team/app:{tag}"));
            let pulled = stage.pull(&reference, wish).await;
            assert!(pulled.is_ok(), "{wish} of {child}: {pulled:?}");
        }
        let index = index([&image("linux/arm/v6", 3), &image("linux/arm64/v9", 4)]);
        stage.registry.put("team/app", "5", &index);
        let reference = stage.reference("team/app:5");
        assert_not_for(&stage.pull(&reference, "linux/arm/v7").await, "linux/arm/v7");
        assert_not_for(&stage.pull(&reference, "linux/arm64/v8").await, "linux/arm64/v8");
    });
}

#[test]
fn t25_cached_single_image_is_there_for_whoever_names_no_platform() {
    on_both(async |stage| {
        let image = image("linux/s390x", 1);
        let reference = stage.filled(&image).await;
        for platforms in [PlatformSet::All, PlatformSet::Only(Vec::new())] {
            let pulled = stage.cache().image_pull(&reference, &platforms, &PullOptions::default()).await;
            assert_already_present(&pulled, &image);
        }
        assert_eq!(requests(stage), [""; 0]);
    });
}

#[test]
fn t25_empty_list_of_platforms_is_all_of_them() {
    on_both(async |stage| {
        let index = index([&image("linux/amd64", 1), &image("linux/arm64", 2)]);
        let reference = stage.serve(&index);
        let none = PlatformSet::Only(Vec::new());
        stage.cache().image_pull(&reference, &none, &PullOptions::default()).await.unwrap();
        assert_eq!(stage.visible().await, sorted(&index));
        stage.lose(&digest(index.blob(2))).await;
        let wanted = (reference.name(), none.clone());
        let presence = stage.cache().image_in_cache(&wanted.0, &none).await.unwrap();
        assert_eq!(presence, Presence::Partial { missing: vec![digest(index.blob(2))] });
        assert_eq!(stage.cache().images_in_cache(&[wanted]).await.unwrap(), [presence]);
    });
}

#[test]
fn t26_child_without_platform_does_no_harm() {
    on_both(async |stage| {
        let amd64 = image("linux/amd64", 1);
        let mut nowhere = image("linux/arm64", 2);
        nowhere.platform = None;
        let index = index([&nowhere, &amd64]);
        let reference = stage.filled(&index).await;
        assert_already_present(&stage.pull(&reference, "linux/amd64").await, &index);
        // It may be for anything, so it is what its configuration says.
        assert_already_present(&stage.pull(&reference, "linux/arm64").await, &index);
        assert_eq!(requests(stage), [""; 0]);
        assert_not_for(&stage.pull(&reference, "linux/riscv64").await, "linux/riscv64");
    });
}

#[test]
fn t27_single_image_of_a_registry_is_for_its_own_platform_alone() {
    on_both(async |stage| {
        let amd64 = image("linux/amd64", 1);
        let reference = stage.serve(&amd64);
        assert_not_for(&stage.pull(&reference, "linux/arm64").await, "linux/arm64");
        assert_eq!(stage.names().await, [""; 0]);
        assert_eq!(stage.registry.count("GET", &amd64.blob(1).digest), 0, "a layer in vain");
        stage.pull(&reference, "linux/amd64").await.unwrap();
    });
}

#[test]
fn t28_layers_are_there_however_they_are_compressed() {
    on_both(async |stage| {
        // What stargz-snapshotter adds to a layer are ordinary files in it.
        let estargz = Layer::files(&[
            (".prefetch.landmark", b"\x0f".as_slice()),
            ("bin/sh", b"#"),
            ("stargz.index.json", b"{\"version\":1,\"entries\":[]}"),
        ]);
        for (tag, layer) in [
            ("gzip", Layer::random(20_000, 1)),
            ("zstd", Layer::random(20_000, 2).compress(Compression::Zstd)),
            ("plain", Layer::random(20_000, 3).compress(Compression::Plain)),
            ("estargz", estargz),
        ] {
            let image = Image::build("linux/amd64").layer(layer).finish();
            stage.registry.put("team/app", tag, &image);
            let reference = stage.reference(&format!("team/app:{tag}"));
            stage.pull(&reference, "linux/amd64").await.unwrap();
            stage.registry.clear_requests();
            assert_already_present(&stage.pull(&reference, "linux/amd64").await, &image);
            assert_eq!(requests(stage), [""; 0], "{tag}");
            let valid = stage.cache().validate_image(&reference.name(), &set("linux/amd64")).await;
            assert_eq!(valid.unwrap().digest, digest(&image.root), "{tag}");
        }
    });
}

#[test]
fn t29_unchanged_tag_costs_one_head() {
    on_both(async |stage| {
        let index = index([&image("linux/amd64", 1), &image("linux/arm64", 2)]);
        let reference = stage.filled(&index).await;
        let pulled = stage.cache().image_pull(&reference, &set("all"), &ALWAYS).await;
        assert_already_present(&pulled, &index);
        assert_eq!(requests(stage), [format!("HEAD {}", manifest_path("team/app", "1"))]);
    });
}

#[test]
fn t30_tag_that_moves_to_an_index_of_what_is_there_opens_no_blob() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let reference = stage.filled(&amd64).await;
        stage.registry.put("team/other", "1", &arm64);
        stage.pull(&stage.reference("team/other:1"), "all").await.unwrap();
        stage.registry.clear_requests();
        let index = index([&amd64, &arm64]);
        stage.registry.put("team/app", "1", &index);
        let pulled = stage.cache().image_pull(&reference, &set("all"), &ALWAYS).await.unwrap();
        assert_eq!(pulled.root().digest, digest(&index.root));
        let asked = requests(stage);
        let (tag, root) = (manifest_path("team/app", "1"), manifest_path("team/app", &index.root.digest));
        assert_eq!(asked, [format!("HEAD {tag}"), format!("GET {root}")]);
        assert_eq!(stage.target(&reference.name()).await, Some(digest(&index.root)));
    });
}

async fn children(stage: &Stage, name: &str) -> Vec<Digest> {
    match stage.cache().find_root(name).await.unwrap() {
        Root::Index { children, .. } => children.into_iter().map(|child| child.digest).collect(),
        Root::Image { descriptor } => panic!("{descriptor:?} is an image"),
    }
}

#[test]
fn t31_platform_that_was_never_pushed_survives_a_pull() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let reference = stage.serve(&index([&amd64]));
        stage.written("built:arm64", &arm64).await;
        let mut built = descriptor(&arm64.root);
        built.platform = Some("linux/arm64".parse().unwrap());
        let ours = stage.cache().index_write(&reference, &[built], &WriteOptions::default()).await.unwrap();

        let fail = PullOptions { local: OnLocal::Fail, ..PullOptions::default() };
        let refused = stage.cache().image_pull(&reference, &set("linux/amd64"), &fail).await;
        assert!(matches!(refused, Err(ProviderError::Conflict(_))), "{refused:?}");
        assert_eq!(stage.target(&reference.name()).await, Some(ours.digest));

        for options in [PullOptions::default(), ALWAYS] {
            stage.cache().image_pull(&reference, &set("linux/amd64"), &options).await.unwrap();
            let mut children = children(stage, &reference.name()).await;
            children.sort();
            let mut expected = [digest(&amd64.root), digest(&arm64.root)];
            expected.sort();
            assert_eq!(children, expected);
            let presence = stage.cache().image_in_cache(&reference.name(), &set("all")).await.unwrap();
            assert_eq!(presence, Presence::Complete);
        }

        let replace = PullOptions { local: OnLocal::Replace, ..ALWAYS };
        stage.cache().image_pull(&reference, &set("linux/amd64"), &replace).await.unwrap();
        assert_eq!(children(stage, &reference.name()).await, [digest(&amd64.root)], "on demand alone");
    });
}

/// An image of which one blob, or the manifest, does not hold when it is fetched.
fn bad(seed: u64) -> [(&'static str, Image, Option<usize>, Behaviour); 7] {
    let zeros = vec![0; 50_000].into();
    let behaviours = [
        ("flipped layer", Some(1), Behaviour::FlipByte { at: 25_000 }),
        ("short layer", Some(1), Behaviour::Short),
        ("long layer", Some(1), Behaviour::Long { extra_bytes: 1 }),
        ("endless layer", Some(1), Behaviour::Endless),
        ("other layer", Some(1), Behaviour::Body(zeros)),
        ("flipped configuration", Some(0), Behaviour::FlipByte { at: 10 }),
        ("flipped manifest", None, Behaviour::FlipByte { at: 50 }),
    ];
    let mut seeds = seed..;
    behaviours.map(|(what, place, behaviour)| {
        let layer = Layer::random(50_000, seeds.next().unwrap_or_default());
        (what, Image::build("linux/amd64").layer(layer).finish(), place, behaviour)
    })
}

#[test]
fn t32_body_that_does_not_hold_is_refused_and_changes_nothing() {
    on_both(async |stage| {
        let old = image("linux/amd64", 1);
        let reference = stage.filled(&old).await;
        let always = async || stage.cache().image_pull(&reference, &set("linux/amd64"), &ALWAYS).await;
        let mut target = digest(&old.root);
        for (what, new, place, behaviour) in bad(7) {
            stage.registry.put("team/app", "1", &new);
            let path = match place {
                Some(place) => blob_path("team/app", &new.blob(place).digest),
                None => manifest_path("team/app", &new.root.digest),
            };
            stage.registry.always(&path, [behaviour]);
            let refused = always().await;
            assert!(matches!(refused, Err(ProviderError::Corrupt(_))), "{what}: {refused:?}");
            assert_eq!(stage.target(&reference.name()).await.as_ref(), Some(&target), "{what}");
            // Every blob that is visible is proven by this, those that came before the bad one too.
            let visible = stage.visible().await;
            assert!(visible.contains(&target.to_string()));
            let bad = place.map_or(&new.root, |place| new.blob(place));
            assert!(!visible.contains(&bad.digest), "{what}");

            stage.registry.clear_scripts();
            target = digest(&new.root);
            assert_eq!(always().await.unwrap().root().digest, target, "{what}, when it is mended");
            stage.cache().validate_image(&reference.name(), &set("linux/amd64")).await.unwrap();
        }
    });
}

#[test]
fn t33_fifty_pulls_at_once_fetch_each_blob_once() {
    on_both(async |stage| {
        let image = image("linux/amd64", 1);
        let reference = stage.serve(&image);
        let gate = Gate::new();
        let hold = Behaviour::Hold { after_bytes: 1_000, gate: gate.clone() };
        stage.registry.always(&blob_path("team/app", &image.blob(2).digest), [hold]);
        let other = stage.another().await;
        let (platforms, options) = (set("linux/amd64"), PullOptions::default());
        let pulls = join_all((0..50).map(|number| {
            let cache: &dyn larder_provider::CacheProvider =
                if number % 2 == 0 { stage.cache() } else { &other.facade };
            cache.image_pull(&reference, &platforms, &options)
        }));
        let opened = async {
            let waiting = gate.clone();
            blocking(move || waiting.await_reached(1, LIMIT)).await;
            gate.open();
        };
        let (pulled, ()) = futures::join!(pulls, opened);
        for pulled in pulled {
            assert_eq!(pulled.unwrap().root().digest, digest(&image.root));
        }
        for blob in &image.blobs {
            assert_eq!(stage.registry.count("GET", &blob.digest), 1, "{}", blob.digest);
        }
        stage.end(&other).await;
    });
}

#[test]
fn t35_docker_schema_two_keeps_its_types() {
    on_both(async |stage| {
        let build = |platform: &str, seed| {
            Image::build(platform).format(Format::Docker).layer(Layer::random(9_000, seed)).finish()
        };
        let (amd64, arm64) = (build("linux/amd64", 1), build("linux/arm64", 2));
        let list = Image::index(Format::Docker).image(&amd64).image(&arm64).finish();
        let reference = stage.filled(&list).await;
        let root = stage.cache().find_root(&reference.name()).await.unwrap();
        let Root::Index { descriptor: root, children } = root else {
            panic!("{root:?}");
        };
        assert_eq!(root.media_type, media_type::DOCKER_LIST);
        assert!(children.iter().all(|child| child.media_type == media_type::DOCKER_MANIFEST));
        for blob in list.manifests.iter().chain(&list.blobs) {
            assert_eq!(stage.stored(&digest(blob)).await.as_deref(), Some(&*blob.bytes));
        }
    });
}

#[test]
fn t35_docker_schema_one_is_refused() {
    on_both(async |stage| {
        let old = json!({
            "schemaVersion": 1, "name": "team/app", "tag": "1", "architecture": "amd64",
            "fsLayers": [{ "blobSum": Digest::of(b"layer").as_str() }],
            "history": [{ "v1Compatibility": "{}" }],
        });
        let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        let reference = stage.serve(&Image::raw(media_type, old.to_string()));
        let refused = stage.pull(&reference, "all").await;
        assert!(matches!(refused, Err(ProviderError::Unsupported(_))), "{refused:?}");
        assert_eq!(stage.names().await, [""; 0]);
        assert_eq!(stage.visible().await, [""; 0]);
    });
}

#[test]
fn t36_nested_index_and_artifact_are_stored_and_found() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let artifact = Image::artifact("application/vnd.example.sbom", b"{\"components\":[]}", None);
        let whole = index([&index([&amd64]), &arm64, &artifact]);
        let reference = stage.filled(&whole).await;
        assert_eq!(stage.visible().await, sorted(&whole));
        for manifest in &whole.manifests {
            let name = format!("{}@{}", reference.name().trim_end_matches(":1"), manifest.digest);
            let found = stage.cache().find_descriptor(&name).await.unwrap().unwrap().descriptor;
            let expected = descriptor(manifest);
            assert_eq!(
                (found.digest, found.media_type, found.size),
                (expected.digest, expected.media_type, expected.size)
            );
        }
        for platform in ["linux/amd64", "linux/arm64"] {
            assert_already_present(&stage.pull(&reference, platform).await, &whole);
            let source = stage.cache().new_source(&reference.name(), &platform.parse().unwrap()).await;
            assert_eq!(source.unwrap().platform().unwrap().to_string(), platform);
        }
        assert_eq!(requests(stage), [""; 0]);
    });
}
