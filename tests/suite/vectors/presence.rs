//! T37 to T41: what is there, in the cache and in the registry.

use larder_oci::{Digest, Reference};
use larder_provider::{Presence, ProviderError};
use larder_tests::image::Blob;
use larder_tests::scripted::{Auth, manifest_path};
use larder_tests::{Behaviour, ScriptedRegistry};

use super::stage::{Stage, digest, image, index, on_both, set};

async fn presence(stage: &Stage, reference: &Reference, platforms: &str) -> Presence {
    stage.cache().image_in_cache(&reference.name(), &set(platforms)).await.unwrap()
}

async fn published(stage: &Stage, reference: &Reference, platforms: &str) -> Result<bool, ProviderError> {
    stage.cache().image_in_registry(reference, &set(platforms)).await
}

#[test]
fn t37_image_for_another_platform_is_not_there() {
    on_both(async |stage| {
        let reference = stage.filled(&image("linux/amd64", 1)).await;
        let amd64 = "linux/amd64".parse().unwrap();
        assert_eq!(
            presence(stage, &reference, "linux/arm64").await,
            Presence::WrongPlatform { present: vec![amd64] }
        );
        assert_eq!(presence(stage, &reference, "linux/amd64").await, Presence::Complete);
        assert_eq!(presence(stage, &"x:1".parse().unwrap(), "linux/amd64").await, Presence::Absent);
        assert_eq!(stage.registry.requests().len(), 0);
    });
}

fn partial(blobs: &[&Blob]) -> Presence {
    Presence::Partial { missing: blobs.iter().map(|blob| digest(blob)).collect() }
}

#[test]
fn t38_exactly_what_is_missing_is_listed() {
    on_both(async |stage| {
        let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
        let index = index([&amd64, &arm64]);
        let reference = stage.filled(&index).await;
        let (config, layer, manifest) = (amd64.blob(0), amd64.blob(2), &amd64.root);
        for blob in [config, layer, manifest, &index.root] {
            stage.lose(&digest(blob)).await;
            assert_eq!(presence(stage, &reference, "linux/amd64").await, partial(&[blob]));
            let others = presence(stage, &reference, "linux/arm64").await;
            let expected = if *blob == index.root { partial(&[blob]) } else { Presence::Complete };
            assert_eq!(others, expected);
            stage.overwrite(&digest(blob), blob.bytes.to_vec()).await;
        }
        for blob in [config, layer] {
            stage.lose(&digest(blob)).await;
        }
        assert_eq!(presence(stage, &reference, "linux/amd64").await, partial(&[config, layer]));
        let wanted = [
            (reference.name(), set("linux/arm64")),
            ("x:1".to_owned(), set("all")),
            (reference.name(), set("linux/amd64")),
        ];
        let many = stage.cache().images_in_cache(&wanted).await.unwrap();
        assert_eq!(many, [Presence::Complete, Presence::Absent, partial(&[config, layer])]);
        assert_eq!(stage.registry.requests().len(), 0);
    });
}

#[test]
fn t39_short_layer_is_missing() {
    on_both(async |stage| {
        let image = image("linux/amd64", 1);
        let reference = stage.filled(&image).await;
        stage.shorten(&digest(image.blob(2))).await;
        assert_eq!(presence(stage, &reference, "linux/amd64").await, partial(&[image.blob(2)]));
        stage.pull(&reference, "linux/amd64").await.unwrap();
        assert_eq!(presence(stage, &reference, "linux/amd64").await, Presence::Complete);
    });
}

#[test]
fn t40_only_a_registry_that_says_so_has_no_image() {
    on_both(async |stage| {
        let reference = stage.serve(&image("linux/amd64", 1));
        assert_eq!(published(stage, &reference, "linux/amd64").await, Ok(true));
        for absent in ["team/app:2", "team/none:1"] {
            assert_eq!(
                published(stage, &stage.reference(absent), "linux/amd64").await,
                Ok(false),
                "{absent}"
            );
        }
        let unknown = stage.reference(&format!("team/app@{}", Digest::of(b"unknown")));
        assert_eq!(published(stage, &unknown, "linux/amd64").await, Ok(false));
        assert_eq!(stage.names().await, [""; 0]);
    });
}

/// Stricter than the vector: who has the wrong credentials is told so, by [`ProviderError::Denied`].
#[test]
fn t40_registry_that_does_not_answer_is_not_one_without_the_image() {
    on_both(async |stage| {
        let path = manifest_path("team/app", "1");
        for (code, behaviour) in [
            (Some(429), Behaviour::retry_after(429, 1)),
            (Some(500), Behaviour::status(500)),
            (Some(503), Behaviour::status(503)),
            (None, Behaviour::Close),
        ] {
            // One that has failed is left alone for a while, whatever it would say next.
            let registry = ScriptedRegistry::serving("team/app", "1", &image("linux/amd64", 1));
            for method in ["HEAD", "GET"] {
                registry.always_method(method, &path, [behaviour.clone()]);
            }
            let reference = registry.reference("team/app:1").parse().unwrap();
            let refused = published(stage, &reference, "linux/amd64").await;
            assert!(
                matches!(refused, Err(ProviderError::Remote { status, .. }) if status == code),
                "{code:?}: {refused:?}"
            );
            assert!(!registry.requests().is_empty(), "{code:?}: it was not asked");
        }
        for nowhere in ["registry.invalid/team/app:1", "127.0.0.1:1/team/app:1"] {
            let refused = published(stage, &nowhere.parse().unwrap(), "linux/amd64").await;
            assert!(
                matches!(refused, Err(ProviderError::Remote { status: None, .. })),
                "{nowhere}: {refused:?}"
            );
        }
        let reference = stage.serve(&image("linux/amd64", 1));
        stage.registry.require(Auth::Basic { user: "me".to_owned(), password: "secret".to_owned() });
        let refused = published(stage, &reference, "linux/amd64").await;
        assert!(matches!(refused, Err(ProviderError::Denied(_))), "{refused:?}");
    });
}

#[test]
fn t41_registry_with_another_system_does_not_have_the_image() {
    on_both(async |stage| {
        let windows = image("windows/amd64", 1);
        let pair = index([&windows, &image("linux/arm64", 2)]);
        for (name, image) in [("team/single:1", &windows), ("team/index:1", &pair)] {
            let (repository, tag) = name.split_once(':').unwrap();
            stage.registry.put(repository, tag, image);
            let reference = stage.reference(name);
            assert_eq!(published(stage, &reference, "linux/amd64").await, Ok(false), "{name}");
            assert_eq!(published(stage, &reference, "windows/amd64").await, Ok(true), "{name}");
            assert_eq!(published(stage, &reference, "all").await, Ok(true), "{name}");
        }
        let reference = stage.reference("team/index:1");
        assert_eq!(published(stage, &reference, "windows/amd64,linux/arm64").await, Ok(true));
        assert_eq!(published(stage, &reference, "windows/amd64,linux/amd64").await, Ok(false), "all of them");
        assert_eq!(stage.registry.count("GET", "/blobs/"), 1, "a single image's configuration, and no more");
    });
}
