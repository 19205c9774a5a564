//! What is pushed to a real registry, and what is left alone there.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use larder_tests::image::{Compression, IndexBuilder, sha256};
use larder_tests::larder::Finished;
use larder_tests::{
    DockerRegistry, Format, Image, Larder, Layer, NatsServer, ScriptedRegistry, Seaweed, client,
};
use serde_json::Value;

/// What is to be pushed, as it is called in the cache, and where it goes.
const REPOSITORY: &str = "team/app";

fn image(platform: &str, seed: u64) -> Image {
    Image::build(platform).layer(Layer::random(20_000, seed)).layer(Layer::random(10_000, seed + 1)).finish()
}

fn index<'a>(images: impl IntoIterator<Item = &'a Image>) -> Image {
    images.into_iter().fold(Image::index(Format::Oci), IndexBuilder::image).finish()
}

/// A cache, an empty registry to push to, and where the cache is filled from.
struct World {
    larder: Larder,
    registry: DockerRegistry,
    source: ScriptedRegistry,
}

impl World {
    fn new() -> Self {
        Self::with(Larder::new())
    }

    fn with(larder: Larder) -> Self {
        Self { larder, registry: DockerRegistry::start(), source: ScriptedRegistry::start() }
    }

    /// Has `image` in the cache for `platform`; returns its name there.
    fn cache(&self, image: &Image, platform: &str) -> String {
        self.source.put("local", &image.root.digest[7..20], image);
        let name = self.source.reference(&format!("local:{}", &image.root.digest[7..20]));
        self.larder.ok(&["pull", "--platform", platform, &name]);
        name
    }

    /// A world with `image` in its cache, all of it, and its name.
    fn caching(image: &Image) -> (Self, String) {
        let world = Self::new();
        let name = world.cache(image, "all");
        (world, name)
    }

    fn remote(&self) -> String {
        self.registry.reference(&format!("{REPOSITORY}:1"))
    }

    fn run(&self, name: &str, flags: &[&str]) -> Finished {
        let remote = self.remote();
        self.larder.run(&[&["--json", "push", name, "--remote-name", &remote], flags].concat())
    }

    fn push(&self, name: &str, flags: &[&str]) -> Value {
        let lines = self.run(name, flags).expect_code(0).json_lines();
        lines.into_iter().find(|line| line["event"] == "pushed").unwrap()
    }

    /// What the registry has under a tag or digest, if anything.
    fn there(&self, name: &str) -> Option<Vec<u8>> {
        let accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        let target = format!("/v2/{REPOSITORY}/manifests/{name}");
        let answer = client::request("GET", &self.registry.host(), &target, &[("Accept", accept)], &[]);
        let answer = answer.unwrap();
        (answer.status == 200).then_some(answer.body)
    }

    /// The digests of the children of what is under the tag.
    fn children(&self) -> Vec<String> {
        let index: Value = serde_json::from_slice(&self.there("1").unwrap()).unwrap();
        let digest = |child: &Value| child["digest"].as_str().unwrap().to_owned();
        index["manifests"].as_array().unwrap().iter().map(digest).collect()
    }

    /// How many requests that write anything the registry has had.
    fn writes(&self) -> usize {
        ["POST", "PUT", "PATCH"].iter().map(|method| self.registry.requests(method, "/v2/")).sum()
    }
}

fn digests<'a>(images: impl IntoIterator<Item = &'a Image>) -> Vec<String> {
    images.into_iter().map(|image| image.root.digest.clone()).collect()
}

#[test]
fn t82_push_if_absent_writes_nothing_when_it_exists() {
    let (ours, theirs) = (image("linux/amd64", 1), image("linux/amd64", 10));
    let (world, name) = World::caching(&ours);
    world.registry.push(REPOSITORY, "1", &theirs);
    let before = world.writes();
    let refused = world.run(&name, &[]).expect_code(1);
    for digest in [&ours.root.digest, &theirs.root.digest] {
        assert!(refused.stderr.contains(digest) || refused.stdout.contains(digest), "{refused:?}");
    }
    let skipped = world.push(&name, &["--skip-if-exists", "--with-arch-tags"]);
    assert_eq!((&skipped["skipped"], &skipped["root"]["digest"]), (&true.into(), &theirs.root.digest.into()));
    assert_eq!(world.writes(), before);
    world.push(&name, &["--mode", "replace"]);
    assert_eq!(world.there("1").unwrap(), ours.root.bytes);
}

#[test]
fn t83_pushing_the_same_again_writes_nothing() {
    let made = index(&[image("linux/amd64", 1), image("linux/arm64", 10)]);
    let (world, name) = World::caching(&made);
    let pushed = world.push(&name, &[]);
    assert_eq!(pushed["skipped"], false);
    assert_eq!(pushed["sent_blobs"], made.manifests.len() + made.blobs.len());
    assert_eq!(world.there("1").unwrap(), made.root.bytes);
    let before = world.writes();
    for mode in ["if-absent", "merge", "replace"] {
        let again = world.push(&name, &["--mode", mode]);
        assert_eq!((&again["skipped"], &again["sent_blobs"]), (&true.into(), &0.into()), "{mode}");
    }
    assert_eq!(world.writes(), before);
    // The registry serves it to others.
    let other = Larder::new();
    other.ok(&["pull", "--platform", "all", &world.remote()]);
    other.ok(&["verify", &world.remote()]);
}

#[test]
fn t84_arch_tags_are_pushed_even_if_the_index_is_unchanged() {
    let images = [image("linux/amd64", 1), image("linux/arm64/v8", 10)];
    let (world, name) = World::caching(&index(&images));
    world.push(&name, &[]);
    let tagged = world.push(&name, &["--with-arch-tags"]);
    assert_eq!((&tagged["skipped"], &tagged["tags"]), (&true.into(), &["1-amd64", "1-arm64"].into()));
    for (tag, image) in ["1-amd64", "1-arm64"].iter().zip(&images) {
        assert_eq!(world.there(tag).unwrap(), image.root.bytes, "{tag}");
    }
}

#[test]
fn t85_merge_keeps_what_only_the_registry_has_and_local_images_win() {
    let [v6, v7] = [image("linux/arm/v6", 1), image("linux/arm/v7", 10)];
    let (old, new) = (image("linux/amd64", 20), image("linux/amd64", 30));
    let theirs = Image::index(Format::Oci).image(&old).attestation(&old).image(&v6).attestation(&v6).finish();
    let (world, name) = World::caching(&index([&new, &v7]));
    world.registry.push(REPOSITORY, "1", &theirs);
    let merged = world.push(&name, &["--mode", "merge", "--with-arch-tags"]);
    assert_eq!(merged["merged_from"], theirs.root.digest);
    assert_eq!(merged["root"]["digest"], sha256(&world.there("1").unwrap()));
    let of_v6 = theirs.manifests[3].digest.clone();
    assert_eq!(world.children(), [digests([&new, &v6, &v7]), vec![of_v6]].concat());
    assert_eq!(merged["tags"], Value::from(["1-amd64", "1-armv7"].to_vec()));
    // All is there already now, so it stays as it is.
    let again = world.push(&name, &["--mode", "merge"]);
    assert_eq!((&again["skipped"], &again["root"]), (&true.into(), &merged["root"]));
    Larder::new().ok(&["pull", "--platform", "all", &world.remote()]);
}

#[test]
fn t86_pushed_bytes_are_the_local_ones_when_nothing_merges() {
    let (old, new) = (image("linux/amd64", 1), image("linux/amd64", 10));
    let ours = Image::index(Format::Oci).image(&new).attestation(&new).finish();
    let (world, name) = World::caching(&ours);
    for theirs in [None, Some(index([&old])), Some(old)] {
        if let Some(theirs) = theirs {
            world.registry.push(REPOSITORY, "1", &theirs);
        }
        let pushed = world.push(&name, &["--mode", "merge"]);
        assert_eq!((&pushed["merged_from"], &pushed["skipped"]), (&Value::Null, &false.into()));
        assert_eq!(world.there("1").unwrap(), ours.root.bytes);
    }
}

#[test]
fn t87_dangling_attestations_are_never_pushed() {
    let (here, plain, gone) = (image("linux/amd64", 1), image("linux/amd64", 10), image("linux/arm64", 20));
    let builder = Image::index(Format::Oci).image(&here).attestation(&here).attestation(&gone);
    // An image that names no platform has its attestation too.
    let builder = builder.descriptor(plain.root.descriptor()).attestation(&plain);
    let mut made = builder.finish();
    made.manifests.insert(0, plain.root.clone());
    made.blobs.extend(plain.blobs.clone());
    let attestations: Vec<String> = made.root.json()["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|child| child["annotations"].is_object())
        .map(|child| child["digest"].as_str().unwrap().to_owned())
        .collect();
    let (world, name) = World::caching(&made);
    let pushed = world.push(&name, &["--mode", "replace"]);
    let kept = [&here.root.digest, &attestations[0], &plain.root.digest, &attestations[2]];
    assert_eq!(world.children(), kept.map(Clone::clone));
    assert_eq!(pushed["root"]["digest"], sha256(&world.there("1").unwrap()));
    assert_eq!(world.there(&attestations[1]), None);
}

#[test]
fn t88_push_makes_no_local_names_and_variants_get_tags_of_their_own() {
    let images = [
        image("linux/arm/v6", 1),
        image("linux/arm/v7", 10),
        image("linux/arm64", 20),
        image("linux/386", 30),
    ];
    let builder = images.iter().fold(Image::index(Format::Oci), IndexBuilder::image);
    let (world, name) = World::caching(&builder.attestation(&images[0]).finish());
    let before = world.larder.ok(&["ls"]);
    let pushed = world.push(&name, &["--with-arch-tags"]);
    assert_eq!(pushed["tags"], Value::from(["1-armv6", "1-armv7", "1-arm64", "1-386"].to_vec()));
    assert_eq!(world.larder.ok(&["ls"]), before);
    let target = format!("/v2/{REPOSITORY}/tags/list");
    let tags: Value =
        serde_json::from_slice(&client::get(&world.registry.host(), &target).unwrap().body).unwrap();
    assert_eq!(tags["tags"].as_array().unwrap().len(), 5, "{tags}");
    let digest = format!("{}@{}", world.registry.reference(REPOSITORY), images[0].root.digest);
    let flags = ["push", &name, "--remote-name", &digest, "--with-arch-tags"];
    assert_ne!(world.larder.run(&flags).code, Some(0), "a digest has no tag to begin with");
}

#[test]
fn t89_child_that_is_only_in_the_registry_need_not_be_in_the_cache() {
    let images = [image("linux/amd64", 1), image("linux/arm64", 10)];
    let world = World::new();
    let name = world.cache(&index(&images), "linux/amd64");
    let before = world.writes();
    let refused = world.run(&name, &[]).expect_code(1);
    let told = refused.stderr + &refused.stdout;
    assert!(told.contains(&images[1].root.digest) && told.contains("--platform all"), "{told}");
    assert_eq!(world.writes(), before, "it is refused before anything is sent");
    world.registry.push(REPOSITORY, "other", &images[1]);
    let pushed = world.push(&name, &["--with-arch-tags"]);
    assert_eq!(pushed["tags"], Value::from(["1-amd64", "1-arm64"].to_vec()));
    assert_eq!(world.there("1-arm64").unwrap(), images[1].root.bytes);
}

#[test]
fn t90_existence_is_judged_at_the_registry_and_not_at_its_mirror() {
    let (ours, theirs) = (image("linux/amd64", 1), image("linux/amd64", 10));
    let mirror = DockerRegistry::start();
    mirror.push(REPOSITORY, "1", &theirs);
    let mut world = World::new();
    let hosts =
        format!("[registry.hosts.\"{}\"]\nmirrors = [\"http://{}\"]\n", world.registry.host(), mirror.host());
    world.larder = world.larder.config(&hosts);
    let name = world.cache(&ours, "all");
    let requests = || ["GET", "HEAD", "PUT", "POST"].map(|method| mirror.requests(method, REPOSITORY));
    let before = requests();
    assert_eq!(world.push(&name, &[])["skipped"], false);
    assert_eq!(world.there("1").unwrap(), ours.root.bytes);
    world.registry.push(REPOSITORY, "1", &theirs);
    let _ = world.run(&name, &[]).expect_code(1);
    world.push(&name, &["--mode", "merge"]);
    assert_eq!(requests(), before);
}

#[test]
fn blobs_are_mounted_from_where_the_cache_knows_them_to_be() {
    let made = image("linux/amd64", 1);
    let world = World::new();
    world.registry.push("team/base", "1", &made);
    let name = world.registry.reference("team/base:1");
    world.larder.ok(&["pull", "--platform", "all", &name]);
    let pushed = world.push(&name, &[]);
    assert_eq!(pushed["mounted_blobs"], made.blobs.len());
    assert_eq!(pushed["sent_blobs"], 1, "the manifest");
    assert_eq!(world.there("1").unwrap(), made.root.bytes);
}

#[test]
fn pieces_arrive_as_one_blob() {
    let made = Image::of_noise(2, 1_000_000);
    let world = World::with(Larder::new().config("[registry]\npush_chunk_bytes = 300000\n"));
    let name = world.cache(&made, "all");
    world.push(&name, &[]);
    assert_eq!(world.registry.requests("PATCH", "/blobs/uploads/"), 9, "four for each layer, and one");
    Larder::new().ok(&["pull", "--platform", "all", &world.remote()]);
}

/// Passes bytes on to `to`, and cuts the first connections in which more than `cut_after_bytes` went there.
fn cutting(to: &str, cut_after_bytes: usize, cuts: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (left, to) = (Arc::new(AtomicUsize::new(cuts)), to.to_owned());
    let remaining = Arc::clone(&left);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
            let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || {
                let _ = io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Both);
            });
            let left = Arc::clone(&left);
            thread::spawn(move || {
                let (mut passed, mut buffer) = (0, [0; 16 << 10]);
                while let Ok(bytes @ 1..) = client.read(&mut buffer) {
                    passed += bytes;
                    let take = |left: usize| left.checked_sub(1);
                    let is_over = passed > cut_after_bytes;
                    if is_over && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                        break;
                    }
                    if server.write_all(&buffer[..bytes]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Both);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (host, remaining)
}

#[test]
fn uploads_that_are_cut_arrive_all_the_same() {
    let made =
        Image::build("linux/amd64").layer(Layer::random(4_000_000, 1).compress(Compression::Plain)).finish();
    let (world, name) = World::caching(&made);
    let (proxy, left) = cutting(&world.registry.host(), 1_500_000, 2);
    let remote = format!("{proxy}/{REPOSITORY}:1");
    world.larder.ok(&["push", &name, "--remote-name", &remote]);
    assert_eq!(left.load(Ordering::SeqCst), 0);
    assert_eq!(world.there("1").unwrap(), made.root.bytes);
    Larder::new().ok(&["pull", "--platform", "all", &world.remote()]);
}

#[test]
fn farm_pushes_merges_and_tags() {
    let (nats, seaweed) = (NatsServer::start(), Seaweed::start());
    let larder = Larder::new().bus(&nats.url()).store(&seaweed.url()).envs(seaweed.environment());
    let world = World::with(larder);
    let roles = [&["facade", "fetcher", "verifier", "indexer"][..], &["pusher"], &["pusher"]];
    let _services = roles.map(|roles| world.larder.serve(roles));
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 10));
    world.registry.push(REPOSITORY, "1", &index([&arm64]));
    let name = world.cache(&index([&amd64]), "all");
    let _ = world.run(&name, &[]).expect_code(1);
    let merged = world.push(&name, &["--mode", "merge", "--with-arch-tags"]);
    assert_eq!(merged["tags"], Value::from(["1-amd64"].to_vec()));
    assert_eq!(world.children(), digests([&amd64, &arm64]));
    assert_eq!(world.there("1-amd64").unwrap(), amd64.root.bytes);
}
