//! T42–T54: names and indexes that are written here.

use std::collections::BTreeSet;

use futures::StreamExt;
use larder_oci::{Descriptor, Digest, Reference};
use larder_provider::{ProviderError, WriteOptions};
use larder_tests::{Format, Image, Larder, Layer};

use super::archive::{children, index_at, point, put, put_as, reference};
use super::crash::alone_on;
use super::stage::{self, Stage, descriptor, digest};

const APP: &str = "registry.example.org/team/app:1";
const RELEASE: &str = "registry.example.org/team/app:release";

fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform).layer(Layer::random(1_000, seed)).finish()
}

/// An index of `images`, each with its attestation.
fn attested(images: &[&Image]) -> Image {
    let both =
        |index: larder_tests::image::IndexBuilder, image: &&Image| index.image(image).attestation(image);
    images.iter().fold(Image::index(Format::Oci), both).finish()
}

fn plain(images: &[&Image]) -> Image {
    images.iter().fold(Image::index(Format::Oci), |index, image| index.image(image)).finish()
}

async fn write(stage: &Stage, name: &str, manifests: &[Descriptor]) -> Result<Descriptor, ProviderError> {
    stage.cache().index_write(&reference(name), manifests, &WriteOptions::default()).await
}

/// Stores `index` and adds its children to the index at `name`.
async fn add(stage: &Stage, name: &str, index: &Image) -> Descriptor {
    put(stage, index).await;
    write(stage, name, &children(index)).await.unwrap()
}

#[test]
fn t42_index_write_refuses_no_descriptors() {
    stage::on_both(async |stage| {
        let refused = write(stage, APP, &[]).await.unwrap_err();
        assert!(matches!(refused, ProviderError::WrongKind(_)), "{refused:?}");
        assert_eq!(stage.target(APP).await, None);
    });
}

#[test]
fn t43_index_write_refuses_a_name_that_points_to_an_image() {
    stage::on_both(async |stage| {
        let (held, other) = (image("linux/amd64", 1), image("linux/arm64", 2));
        put_as(stage, APP, &held).await;
        put(stage, &other).await;
        let refused = write(stage, APP, &children(&plain(&[&other]))).await.unwrap_err();
        assert!(matches!(refused, ProviderError::WrongKind(_)), "{refused:?}");
        assert_eq!(stage.target(APP).await, Some(digest(&held.root)));
    });
}

#[test]
fn t44_image_of_the_same_platform_is_replaced_with_its_attestation() {
    stage::on_both(async |stage| {
        let before = attested(&[&image("linux/amd64", 1)]);
        let after = attested(&[&image("linux/amd64", 2)]);
        add(stage, APP, &before).await;
        add(stage, APP, &after).await;
        assert_eq!(index_at(stage, APP).await, children(&after));
    });
}

#[test]
fn t45_image_of_another_platform_is_added_and_the_first_stays_as_it_is() {
    stage::on_both(async |stage| {
        let mut first = children(&plain(&[&image("linux/amd64", 1)]));
        first[0].annotations.insert("org.example.note".to_owned(), "kept".to_owned());
        put(stage, &image("linux/amd64", 1)).await;
        write(stage, APP, &first).await.unwrap();
        let second = plain(&[&image("linux/arm64", 2)]);
        let root = add(stage, APP, &second).await;
        assert_eq!(index_at(stage, APP).await, [first, children(&second)].concat());
        assert_eq!(stage.target(APP).await, Some(root.digest));
    });
}

#[test]
fn t46_variants_of_one_architecture_are_kept_apart_on_create_and_on_update() {
    stage::on_both(async |stage| {
        let created = plain(&[&image("linux/arm/v6", 1), &image("linux/arm/v7", 2)]);
        add(stage, APP, &created).await;
        assert_eq!(index_at(stage, APP).await, children(&created));
        let updated = plain(&[&image("linux/arm/v6", 3), &image("linux/arm/v7", 4)]);
        add(stage, APP, &updated).await;
        assert_eq!(index_at(stage, APP).await, children(&updated));
        let last = plain(&[&image("linux/arm/v6", 5)]);
        add(stage, APP, &last).await;
        assert_eq!(index_at(stage, APP).await, [&children(&last)[..], &children(&updated)[1..]].concat());
    });
}

/// The contract keeps the order of arrival; here the order of the arguments does not matter either, so that writers that
/// come in any order make the same index.
#[test]
fn t47_same_descriptors_make_the_same_digest_a_hundred_times() {
    stage::on_both(async |stage| {
        let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/riscv64", "windows/amd64"];
        let images: Vec<Image> = (1..).zip(platforms).map(|(seed, platform)| image(platform, seed)).collect();
        let index = attested(&images.iter().collect::<Vec<_>>());
        put(stage, &index).await;
        let manifests = children(&index);
        let runs = (0..100_usize).map(|run| {
            let mut manifests = manifests.clone();
            manifests.rotate_left(run % 10);
            async move {
                write(stage, &format!("registry.example.org/app:{run}"), &manifests).await.unwrap().digest
            }
        });
        let digests: BTreeSet<Digest> = futures::stream::iter(runs).buffer_unordered(16).collect().await;
        assert_eq!(digests.len(), 1);
    });
}

#[test]
fn t48_attestation_of_an_absent_image_is_dropped_from_a_new_index() {
    stage::on_both(async |stage| {
        let both = attested(&[&image("linux/amd64", 1), &image("linux/arm64", 2)]);
        put(stage, &both).await;
        // Two images with an attestation each, of which the second image stays away.
        let mut manifests = children(&both);
        let absent = manifests.remove(2);
        assert_eq!(manifests[2].attests(), Some(absent.digest));
        write(stage, APP, &manifests).await.unwrap();
        assert_eq!(index_at(stage, APP).await, manifests[..2]);
        // Alone it makes no index at all.
        let refused = write(stage, RELEASE, &manifests[2..]).await.unwrap_err();
        assert!(matches!(refused, ProviderError::WrongKind(_)), "{refused:?}");
        assert_eq!(stage.target(RELEASE).await, None);
    });
}

#[test]
fn t49_another_name_of_the_old_index_still_resolves() {
    stage::on_both(async |stage| {
        let (before, after) = (plain(&[&image("linux/amd64", 1)]), plain(&[&image("linux/amd64", 2)]));
        let old = add(stage, APP, &before).await;
        point(stage, RELEASE, &old).await.unwrap();
        let new = add(stage, APP, &after).await;
        assert_ne!(old.digest, new.digest);
        assert_eq!(stage.target(RELEASE).await, Some(old.digest));
        assert_eq!(index_at(stage, RELEASE).await, children(&before));
        assert!(stage.cache().image_in_cache(RELEASE, &stage::set("all")).await.unwrap().is_complete());
    });
}

#[test]
fn t50_writers_that_add_platforms_at_the_same_time_lose_none() {
    stage::on_both(async |stage| {
        let other = stage.another().await;
        let images: Vec<Image> = (0..12).map(|number| image(&format!("linux/cpu{number}"), number)).collect();
        for image in &images {
            put(stage, image).await;
        }
        let name = reference(APP);
        let writes = images.iter().enumerate().map(|(number, image)| {
            let cache = if number % 2 == 0 { &stage.process.facade } else { &other.facade };
            let (cache, name): (&dyn larder_provider::CacheProvider, &Reference) = (cache, &name);
            async move {
                cache.index_write(name, &children(&plain(&[image])), &WriteOptions::default()).await.unwrap();
            }
        });
        futures::future::join_all(writes).await;
        let found: BTreeSet<Digest> =
            index_at(stage, APP).await.into_iter().map(|child| child.digest).collect();
        assert_eq!(found, images.iter().map(|image| digest(&image.root)).collect());
        stage.end(&other).await;
    });
}

#[test]
fn t51_index_cannot_be_put_into_itself() {
    stage::on_both(async |stage| {
        let root = add(stage, APP, &plain(&[&image("linux/amd64", 1)])).await;
        let refused = write(stage, APP, std::slice::from_ref(&root)).await.unwrap_err();
        assert!(matches!(refused, ProviderError::WrongKind(_)), "{refused:?}");
        assert_eq!(stage.target(APP).await, Some(root.digest));
    });
}

/// Every file or object of the store, with what a change of it changes.
async fn seen(stage: &Stage) -> BTreeSet<String> {
    let listed = stage.objects.list(None).filter_map(async |object| {
        // What is there no more when it is looked at is seen the next time.
        let object = object.ok()?;
        Some(format!("{} {} {}", object.location, object.size, object.last_modified))
    });
    listed.collect().await
}

/// Kills a run of the binary when it has changed the store for the `step`th time; `false` when it ends before.
async fn is_killed_at(step: usize, stage: &Stage, larder: &Larder, arguments: &[&str]) -> bool {
    let mut all = seen(stage).await;
    let last = all.len() + step;
    let mut process = larder.spawn(arguments);
    while process.is_running() {
        all.extend(seen(stage).await);
        if all.len() >= last {
            process.kill();
            return true;
        }
    }
    assert!(process.wait(stage::LIMIT).success(), "{}", process.tail());
    false
}

/// Each step has a name and an image of its own, so that all that has to be written is written then.
#[test]
fn t52_crash_at_any_step_leaves_the_old_index_or_the_new_one() {
    stage::on_both(async |stage| {
        let (larder, old) = (alone_on(stage), image("linux/amd64", 0));
        let before = add(stage, RELEASE, &plain(&[&old])).await;
        let (mut step, mut was_killed) = (0, true);
        while was_killed {
            step += 1;
            let new = image("linux/arm64", step);
            let name = format!("registry.example.org/team/app:{step}");
            put_as(stage, &format!("{name}-arm64"), &new).await;
            point(stage, &name, &before).await.unwrap();
            let arguments = ["index", &name, &format!("{name}-arm64")];
            let step = usize::try_from(step).unwrap();
            was_killed = is_killed_at(step, stage, &larder, &arguments).await;

            // This proves each blob that is visible.
            stage.visible().await;
            assert!(stage.cache().verify(&name).await.unwrap().problems.is_empty(), "killed at step {step}");
            let found = index_at(stage, &name).await;
            let (one, both) = (children(&plain(&[&old])), children(&plain(&[&old, &new])));
            assert!(found == both || (was_killed && found == one), "killed at step {step}: {found:?}");
            // Nothing that was left stands in the way of another try.
            write(stage, &name, &both[1..]).await.unwrap();
            assert_eq!(index_at(stage, &name).await, both, "killed at step {step}");
        }
        assert!(step > 2, "only {step} steps were seen");
    });
}

/// What the caller hands over cannot be changed, for it is only lent; what it says of itself is kept.
#[test]
fn t53_empty_name_is_refused_and_annotations_are_kept() {
    assert!("".parse::<Reference>().is_err());
    stage::on_both(async |stage| {
        let image = image("linux/amd64", 1);
        put(stage, &image).await;
        let mut target = descriptor(&image.root);
        target.annotations.insert("org.example.note".to_owned(), "kept".to_owned());
        let kept = target.clone();
        target.annotations.insert("org.opencontainers.image.ref.name".to_owned(), "elsewhere".to_owned());
        assert_eq!(point(stage, APP, &target).await.unwrap(), kept);
        let found = stage.cache().find_descriptor(APP).await.unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.descriptor), (APP, kept));
    });
}

#[test]
fn t54_name_that_is_there_is_replaced_and_others_are_left_alone() {
    stage::on_both(async |stage| {
        let (before, after) = (image("linux/amd64", 1), image("linux/amd64", 2));
        put_as(stage, APP, &before).await;
        put_as(stage, RELEASE, &before).await;
        put_as(stage, APP, &after).await;
        let listed = stage.cache().list().await.unwrap();
        let found: Vec<_> = listed.into_iter().map(|name| (name.name, name.descriptor.digest)).collect();
        let expected = [(APP.to_owned(), digest(&after.root)), (RELEASE.to_owned(), digest(&before.root))];
        assert_eq!(found, expected);
        assert_eq!(stage.cache().history(APP).await.unwrap().len(), 2);
    });
}
