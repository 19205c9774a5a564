//! A larder is a registry to another.

use larder_tests::image::{IndexBuilder, sha256};
use larder_tests::larder::Finished;
use larder_tests::{Format, Image, Larder, Layer, ScriptedRegistry, Service, client};
use serde_json::Value;

const REPOSITORY: &str = "team/app";
const OPEN: &str = "[facade]\nupstreams = []\n[access]\nanonymous = [\"pull\", \"push\"]\n";

fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform).layer(Layer::random(20_000, seed)).layer(Layer::random(10_000, seed + 1)).finish()
}

fn index<'a>(images: impl IntoIterator<Item = &'a Image>) -> Image {
    images.into_iter().fold(Image::index(Format::Oci), IndexBuilder::image).finish()
}

/// A larder that pushes, one that is pushed to, and where images come from.
struct World {
    pusher: Larder,
    source: ScriptedRegistry,
    service: Service,
    registry: Larder,
}

impl World {
    fn new() -> Self {
        Self::with(OPEN)
    }

    /// A world in which the larder that is pushed to has these settings.
    fn with(settings: &str) -> Self {
        let registry = Larder::new().config(settings);
        let service = registry.serve(&[]);
        Self { pusher: Larder::new(), source: ScriptedRegistry::start(), service, registry }
    }

    fn host(&self) -> String {
        self.service.address("listen")
    }

    fn remote(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Has `image` in the cache that pushes; returns its name there.
    fn cache(&self, image: &Image) -> String {
        let tag = &image.root.digest[7..20];
        self.source.put("local", tag, image);
        let name = self.source.reference(&format!("local:{tag}"));
        self.pusher.ok(&["pull", "--platform", "all", &name]);
        name
    }

    fn run(&self, name: &str, flags: &[&str]) -> Finished {
        let remote = self.remote("team/app:1");
        self.pusher.run(&[&["--json", "push", name, "--remote-name", &remote], flags].concat())
    }

    fn push(&self, name: &str, flags: &[&str]) -> Value {
        let lines = self.run(name, flags).expect_code(0).json_lines();
        lines.into_iter().find(|line| line["event"] == "pushed").unwrap()
    }

    /// What is served under a tag or digest.
    fn there(&self, name: &str) -> Vec<u8> {
        let answer = client::get(&self.host(), &format!("/v2/{REPOSITORY}/manifests/{name}")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.body
    }

    /// All that was pushed is whole, there and for whoever pulls it.
    fn assert_sound(&self) {
        self.registry.ok(&["verify", "--all"]);
        let other = Larder::new();
        other.ok(&["pull", "--platform", "all", &self.remote("team/app:1")]);
        other.ok(&["verify", "--all"]);
    }
}

#[test]
fn what_is_pushed_is_served_byte_for_byte_and_not_sent_again() {
    let world = World::new();
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 10));
    let made = Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish();
    let name = world.cache(&made);
    let pushed = world.push(&name, &[]);
    assert_eq!(pushed["skipped"], false);
    assert_eq!(pushed["sent_blobs"], made.manifests.len() + made.blobs.len());
    let tagged = world.push(&name, &["--with-arch-tags"]);
    assert_eq!((&tagged["skipped"], &tagged["tags"]), (&true.into(), &["1-amd64", "1-arm64"].into()));
    for (name, image) in [("1", &made), ("1-amd64", &amd64), ("1-arm64", &arm64)] {
        assert_eq!(world.there(name), image.root.bytes, "{name}");
    }
    for mode in ["if-absent", "merge", "replace"] {
        let again = world.push(&name, &["--mode", mode]);
        assert_eq!((&again["skipped"], &again["sent_blobs"]), (&true.into(), &0.into()), "{mode}");
    }
    world.assert_sound();
}

#[test]
fn another_image_is_refused_left_alone_or_put_in_the_place_of_the_first() {
    let world = World::new();
    let (first, second) = (image("linux/amd64", 1), image("linux/amd64", 10));
    world.push(&world.cache(&first), &[]);
    let name = world.cache(&second);
    let refused = world.run(&name, &[]).expect_code(1);
    assert!((refused.stdout + &refused.stderr).contains(&first.root.digest));
    let skipped = world.push(&name, &["--skip-if-exists"]);
    assert_eq!((&skipped["skipped"], &skipped["root"]["digest"]), (&true.into(), &first.root.digest.into()));
    assert_eq!(world.there("1"), first.root.bytes);
    world.push(&name, &["--mode", "replace"]);
    assert_eq!(world.there("1"), second.root.bytes);
    world.assert_sound();
}

#[test]
fn indexes_of_different_platforms_are_merged() {
    let world = World::new();
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 10));
    world.push(&world.cache(&index([&arm64])), &[]);
    let merged = world.push(&world.cache(&index([&amd64])), &["--mode", "merge"]);
    let there = world.there("1");
    assert_eq!(merged["root"]["digest"], sha256(&there));
    let there: Value = serde_json::from_slice(&there).unwrap();
    let children = there["manifests"].as_array().unwrap().iter().map(|child| &child["digest"]);
    assert_eq!(children.collect::<Vec<_>>(), [&amd64.root.digest, &arm64.root.digest]);
    world.assert_sound();
}

/// Pushes to one repository what another has by a cache that knows of the other; returns what the second push did.
fn push_again_elsewhere(mut world: World) -> Value {
    let made = image("linux/amd64", 1);
    let base = world.remote("team/base:1");
    world.pusher.ok(&["push", &world.cache(&made), "--remote-name", &base]);
    world.pusher = Larder::new();
    world.pusher.ok(&["pull", "--platform", "all", &base]);
    let pushed = world.push(&base, &[]);
    assert_eq!(pushed["sent_blobs"], 1, "the manifest");
    assert_eq!(world.there("1"), made.root.bytes);
    world.assert_sound();
    pushed
}

#[test]
fn blobs_are_mounted_where_repositories_are_kept_apart() {
    let rule = "[[access.rules]]\nwho = [\"*\"]\nrepositories = [\"docker.io/team\"]\nactions = [\"pull\", \"push\"]\n";
    let apart = format!("[facade]\nupstreams = []\n[access]\nanonymous = []\n{rule}");
    let mounted = push_again_elsewhere(World::with(&apart))["mounted_blobs"].clone();
    assert_eq!(mounted, 3);
}

#[test]
fn blobs_of_another_repository_are_there_already_for_whoever_may_pull_all() {
    assert_eq!(push_again_elsewhere(World::new())["mounted_blobs"], 0);
}
