//! T97: many writers of names, in several processes.

use std::collections::BTreeMap;
use std::fs;

use futures::{FutureExt, StreamExt};
use larder_oci::Digest;
use larder_provider::{CacheProvider, WriteOptions};
use larder_tests::{Image, Larder, Layer};

use super::archive::{Tar, listed, put, reference};
use super::crash::alone_on;
use super::stage::{self, Stage, descriptor, digest};

/// Changes that each process and each handle makes on a directory, where all names meet in the same files: two thousand together.
const CHANGES_ON_DISK: usize = 500;
/// And on a farm, where only those meet that are of the same name.
const CHANGES_ON_FARM: usize = 100;
/// One change of so many is of a name that all of them write.
const SHARED_EVERY: usize = 10;
const SHARED: usize = 5;
/// What a handle does at a time.
const IN_FLIGHT: usize = 16;

/// The name that `writer` writes as its change of this number.
fn name(writer: &str, number: usize) -> String {
    if number.is_multiple_of(SHARED_EVERY) {
        return shared(number / SHARED_EVERY % SHARED);
    }
    format!("registry.example.org/{writer}/app{number}:1")
}

fn shared(number: usize) -> String {
    format!("registry.example.org/shared:{number}")
}

fn image(seed: u64) -> Image {
    Image::build("linux/amd64").layer(Layer::random(100, seed)).finish()
}

/// Whether a handle takes the name away again.
fn is_removed(number: usize) -> bool {
    number % SHARED_EVERY == 3
}

/// Writes names, and removes some of them.
async fn write(cache: &dyn CacheProvider, writer: &str, image: &Image, changes: usize) {
    let target = descriptor(&image.root);
    let changes = (0..changes).map(|number| {
        let (name, target) = (reference(&name(writer, number)), &target);
        async move {
            cache.descriptor_write(&name, target, &WriteOptions::default()).await.unwrap();
            if is_removed(number) {
                assert!(cache.remove(&name.name()).await.unwrap());
            }
        }
        .boxed_local()
    });
    futures::stream::iter(changes).buffer_unordered(IN_FLIGHT).collect::<Vec<_>>().await;
}

/// An archive that gives `image` all the names of `writer`.
fn archive(writer: &str, image: &Image, changes: usize) -> Vec<u8> {
    let names: Vec<String> = (0..changes).map(|number| name(writer, number)).collect();
    let entry = listed(&image.root, &[("io.containerd.image.name", &names.join(","))]);
    Tar::new().image(image).index(&[entry]).finish()
}

/// An installation of the binary that works on the bus and the store of `stage`.
fn on(stage: &Stage) -> Larder {
    let larder = alone_on(stage);
    if stage.root().is_some() { larder } else { larder.bus(&stage.config.bus) }
}

/// The four are two processes of the binary, which are the services' clients on a farm and work for themselves on a directory, and
/// two handles of this process with services of their own.
#[test]
fn t97_names_of_many_writers_in_several_processes_are_all_there() {
    stage::on_both(async |stage| {
        let changes = if stage.root().is_some() { CHANGES_ON_DISK } else { CHANGES_ON_FARM };
        let other = stage.another().await;
        let images: BTreeMap<&str, Image> =
            ["p", "q", "here", "there"].into_iter().zip((1..).map(image)).collect();
        let larder = on(stage);
        let mut imports: Vec<_> = ["p", "q"]
            .into_iter()
            .map(|writer| {
                let path = larder.home().join(format!("{writer}.tar"));
                fs::write(&path, archive(writer, &images[writer], changes)).unwrap();
                larder.spawn(&["import", path.to_str().unwrap()])
            })
            .collect();
        for writer in ["here", "there"] {
            put(stage, &images[writer]).await;
        }
        futures::join!(
            write(stage.cache(), "here", &images["here"], changes),
            write(&other.facade, "there", &images["there"], changes),
        );
        let ended =
            stage::blocking(move || imports.iter_mut().all(|import| import.wait(stage::LIMIT).success()));
        assert!(ended.await);

        let listed = stage.cache().list().await.unwrap();
        let found: BTreeMap<String, Digest> =
            listed.into_iter().map(|name| (name.name, name.descriptor.digest)).collect();
        let mut expected = BTreeMap::new();
        for (writer, image) in &images {
            let is_process = writer.len() == 1;
            let kept = (0..changes).filter(|number| {
                !number.is_multiple_of(SHARED_EVERY) && (is_process || !is_removed(*number))
            });
            expected.extend(kept.map(|number| (name(writer, number), digest(&image.root))));
        }
        for number in 0..SHARED {
            let history = stage.cache().history(&shared(number)).await.unwrap();
            let last = history.last().unwrap().descriptor.clone().unwrap();
            let sequence: Vec<u64> = history.iter().map(|change| change.seq).collect();
            assert_eq!(sequence, (1..=sequence.len() as u64).collect::<Vec<_>>(), "{}", shared(number));
            expected.insert(shared(number), last.digest);
        }
        let lost: Vec<_> =
            expected.iter().filter(|(name, digest)| found.get(*name) != Some(digest)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        assert_eq!(found.len(), expected.len());
        stage.end(&other).await;
    });
}
