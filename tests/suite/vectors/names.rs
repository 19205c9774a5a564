//! T91–T96, T98: names are taken away, content is collected, and nobody waits for anybody.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use larder_oci::{Digest, PlatformSet};
use larder_provider::{ByteStream, Collected, LoadOptions, ProviderError};
use larder_tests::image::{Blob, Compression};
use larder_tests::{Format, Image, Layer};

use super::archive::{Tar, listed, point, put, put_as};
use super::stage::{self, Stage, descriptor, digest, read};

const APP: &str = "registry.example.org/team/app:1";
const OTHER: &str = "registry.example.org/team/other:1";
const NOW: Duration = Duration::ZERO;

fn image(seed: u64) -> Image {
    Image::build("linux/amd64").layer(Layer::random(3_000, 1)).layer(Layer::random(3_000, 10 + seed)).finish()
}

fn sorted(image: &Image) -> Vec<String> {
    let mut digests: Vec<_> = image.digests().into_iter().map(str::to_owned).collect();
    digests.sort();
    digests
}

async fn collect(stage: &Stage, grace: Duration) -> Collected {
    stage.cache().collect(grace, false).await.unwrap()
}

async fn is_complete(stage: &Stage, name: &str) -> bool {
    stage.cache().image_in_cache(name, &PlatformSet::All).await.unwrap().is_complete()
}

#[test]
fn t91_image_that_shares_a_layer_with_a_removed_one_stays_complete() {
    stage::on_both(async |stage| {
        let (one, two) = (image(1), image(2));
        put_as(stage, APP, &one).await;
        put_as(stage, OTHER, &two).await;
        assert!(stage.cache().remove(APP).await.unwrap());
        assert_eq!(collect(stage, NOW).await.deleted_blobs, 3);
        assert!(is_complete(stage, OTHER).await);
        assert_eq!(stage.visible().await, sorted(&two));
        assert!(stage.cache().verify(OTHER).await.unwrap().problems.is_empty());
    });
}

#[test]
fn t92_removing_what_is_not_there_does_nothing() {
    stage::on_both(async |stage| {
        assert!(!stage.cache().remove(APP).await.unwrap());
        put_as(stage, OTHER, &image(1)).await;
        assert!(!stage.cache().remove(APP).await.unwrap());
        assert!(stage.cache().remove(OTHER).await.unwrap());
        assert!(!stage.cache().remove(OTHER).await.unwrap());
        assert_eq!(stage.cache().history(OTHER).await.unwrap().len(), 2);
    });
}

#[test]
fn t93_name_whose_manifest_is_lost_can_be_removed() {
    stage::on_both(async |stage| {
        let image = image(1);
        put_as(stage, APP, &image).await;
        put_as(stage, OTHER, &image).await;
        stage.lose(&digest(&image.root)).await;
        assert!(stage.cache().remove(APP).await.unwrap());
        assert_eq!(stage.names().await, [OTHER]);
        // One that is damaged is no better.
        stage.overwrite(&digest(&image.root), b"{".to_vec()).await;
        assert!(stage.cache().remove(OTHER).await.unwrap());
        assert!(stage.names().await.is_empty());
    });
}

#[test]
fn t94_index_with_a_nested_index_and_attestations_can_be_removed() {
    stage::on_both(async |stage| {
        let (one, two) = (image(1), image(2));
        let nested = Image::index(Format::Oci).image(&two).attestation(&two).finish();
        let index = Image::index(Format::Oci).image(&one).attestation(&one).image(&nested).finish();
        put_as(stage, APP, &index).await;
        collect(stage, NOW).await;
        assert_eq!(stage.visible().await, sorted(&index));
        assert!(stage.cache().remove(APP).await.unwrap());
        assert_eq!(collect(stage, NOW).await.kept_blobs, 0);
        assert!(stage.visible().await.is_empty());
    });
}

#[test]
fn t95_reader_of_a_removed_image_reads_on_to_the_end() {
    stage::on_both(async |stage| {
        // More than is read ahead, so that the last layer is opened when its name is gone.
        let first = Layer::random(16 << 20, 1).compress(Compression::Plain);
        let image = Image::build("linux/amd64").layer(first).layer(Layer::random(1_000, 2)).finish();
        put_as(stage, APP, &image).await;
        let source = stage.cache().new_source(APP, &"linux/amd64".parse().unwrap()).await.unwrap();
        let whole = read(source.oci_tar_reader(None).await.unwrap()).await.unwrap();
        let mut begun = source.oci_tar_reader(None).await.unwrap();
        drop(source);
        let first = begun.next().await.unwrap().unwrap();
        assert!(stage.cache().remove(APP).await.unwrap());
        assert_eq!(collect(stage, NOW).await.deleted_blobs, 0);
        let rest = read(begun).await.unwrap();
        assert!([&first[..], &rest].concat() == whole, "the bytes differ");

        stage.process.facade.finish().await.unwrap();
        assert_eq!(collect(stage, NOW).await.kept_blobs, 0);
        assert!(stage.visible().await.is_empty());
    });
}

#[test]
fn t96_collection_after_a_tag_has_moved_deletes_only_what_nothing_reaches() {
    stage::on_both(async |stage| {
        let (before, after) = (image(1), image(2));
        put_as(stage, APP, &before).await;
        put_as(stage, APP, &after).await;
        let would = stage.cache().collect(NOW, true).await.unwrap();
        let young = collect(stage, Duration::from_hours(1)).await;
        assert_eq!((young.young_blobs, young.deleted_blobs), (3, 0));
        let done = collect(stage, NOW).await;
        assert_eq!((would.deleted_blobs, done.deleted_blobs, done.kept_blobs), (3, 3, 4));
        assert_eq!(stage.visible().await, sorted(&after));
        assert!(is_complete(stage, APP).await);
    });
}

/// An archive that comes when it is told to.
fn held() -> (UnboundedSender<Result<Bytes, ProviderError>>, ByteStream) {
    let (sender, receiver) = unbounded();
    (sender, receiver.boxed())
}

/// Waits until a blob is visible.
async fn await_stored(stage: &Stage, blob: &Blob) {
    let stored = async {
        while stage.blobs.size(&digest(blob)).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(stage::LIMIT, stored).await.expect("the blob is stored in time");
}

/// An archive of `image` as [`APP`], in two halves: the first has all but the last layer.
fn halves(image: &Image) -> (Bytes, Bytes) {
    let all_but_last = image.blobs[..image.blobs.len() - 1].iter().fold(Tar::new(), Tar::blob);
    let last = image.blobs.last().unwrap();
    let list = [listed(&image.root, &[("io.containerd.image.name", APP)])];
    let archive = all_but_last.blob(&image.root).blob(last).index(&list).finish();
    let path = format!("blobs/{}", last.digest.replace(':', "/"));
    let header = archive.windows(path.len()).position(|bytes| bytes == path.as_bytes()).unwrap();
    let middle = header + 512 + last.bytes.len() / 2;
    let archive = Bytes::from(archive);
    (archive.slice(..middle), archive.slice(middle..))
}

#[test]
fn t96_collection_spares_what_a_load_has_brought() {
    stage::on_both(async |stage| {
        let image = image(1);
        put_as(stage, OTHER, &small()).await;
        let (first, second) = halves(&image);
        let (sender, archive) = held();
        let options = LoadOptions::default();
        let load = stage.cache().image_load(archive, &options);
        let disturb = async {
            sender.unbounded_send(Ok(first)).unwrap();
            await_stored(stage, &image.root).await;
            for _ in 0..3 {
                let done = collect(stage, Duration::from_mins(1)).await;
                assert_eq!((done.deleted_blobs, done.young_blobs), (0, 3));
            }
            sender.unbounded_send(Ok(second)).unwrap();
            drop(sender);
        };
        let (loaded, ()) = futures::join!(load, disturb);
        assert_eq!(loaded.unwrap()[0].names, [APP]);
        collect(stage, NOW).await;
        assert!(is_complete(stage, APP).await && is_complete(stage, OTHER).await);
    });
}

/// Also who collects without any grace leaves alone what a load under way has written.
#[test]
fn t96_collection_without_grace_takes_nothing_from_a_load_under_way() {
    stage::on_both(async |stage| {
        let image = image(1);
        let (first, second) = halves(&image);
        let (sender, archive) = held();
        let options = LoadOptions::default();
        let load = stage.cache().image_load(archive, &options);
        let disturb = async {
            sender.unbounded_send(Ok(first.clone())).unwrap();
            await_stored(stage, &image.root).await;
            assert_eq!(collect(stage, NOW).await.deleted_blobs, 0);
            sender.unbounded_send(Ok(second.clone())).unwrap();
            drop(sender);
        };
        let (loaded, ()) = futures::join!(load, disturb);
        assert_eq!(loaded.unwrap()[0].names, [APP]);
        assert!(is_complete(stage, APP).await);
    });
}

fn small() -> Image {
    Image::build("linux/amd64").layer(Layer::random(500, 99)).finish()
}

#[test]
fn t98_slow_load_holds_nobody_up() {
    stage::on_both(async |stage| {
        let (image, other) = (image(1), small());
        put_as(stage, OTHER, &other).await;
        let (first, second) = halves(&image);
        let (sender, archive) = held();
        let options = LoadOptions::default();
        let load = stage.cache().image_load(archive, &options);
        let work = async {
            sender.unbounded_send(Ok(first)).unwrap();
            await_stored(stage, &image.root).await;
            assert_eq!(stage.target(OTHER).await, Some(digest(&other.root)));
            assert_eq!(stage.target(APP).await, None);
            assert_eq!(stage.names().await, [OTHER]);
            // Not even the name that the load is going to write.
            point(stage, APP, &descriptor(&other.root)).await.unwrap();
            assert_eq!(stage.target(APP).await, Some(digest(&other.root)));
            assert!(stage.cache().remove(OTHER).await.unwrap());
            put(stage, &other).await;
            sender.unbounded_send(Ok(second)).unwrap();
            drop(sender);
        };
        let (loaded, ()) = futures::join!(load, work);
        assert_eq!(loaded.unwrap()[0].names, [APP]);
        let target: Digest = digest(&image.root);
        assert_eq!(stage.target(APP).await, Some(target));
    });
}
