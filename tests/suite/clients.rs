//! What `docs/clients.md` tells the users of other tools to write works as it stands there.

use std::collections::BTreeSet;
use std::process::Command;

use larder_tests::image::sha256;
use larder_tests::{Containerd, Desk, DockerRegistry, Format, Image, Larder, Layer, Service, client};
use serde_json::Value;
use toml::Table;

const PAGE: &str = include_str!("../../docs/clients.md");
/// Where larder listens, and what is pulled, on that page.
const LISTEN: &str = "127.0.0.1:5050";
const PULLED: &str = "/v2/docker.io/library/alpine/manifests/3.22";
/// Below what everything is pushed there.
const PUSHED: &str = "registry.example.org/team";

/// The fenced blocks of the page: what stands behind the language, a file or a tool, and the text.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let parts: Vec<&str> = PAGE.split("```").collect();
    let fenced = parts.iter().skip(1).step_by(2).map(|block| {
        let (head, text) = block.split_once('\n').expect("a block has lines");
        (head.split_once(' ').expect("a block says what it is").1, text)
    });
    fenced.collect()
}

fn block(name: &str) -> &'static str {
    let found = blocks().into_iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("docs/clients.md has no block {name}")).1
}

fn table(name: &str) -> Table {
    block(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// An upstream with one image for two platforms, a larder before it and a user of larder.
struct World {
    upstream: DockerRegistry,
    image: Image,
    /// The images of the index, of which the first is for this machine's kind in the tests.
    platforms: [Image; 2],
    larder: Larder,
    service: Service,
    desk: Desk,
}

impl World {
    /// A world in which docker.io and ghcr.io are the upstream.
    fn new() -> Self {
        let file = |name: &str, seed: u8| {
            Layer::files(&[
                (name, vec![seed; 5_000].as_slice()),
                ("etc/os-release", b"ID=alpine\n".as_slice()),
            ])
        };
        let build = |platform: &str, seed: u8| {
            Image::build(platform).layer(file("bin/one", seed)).layer(file("bin/two", seed + 1)).finish()
        };
        let platforms = [build("linux/amd64", 1), build("linux/arm64", 11)];
        let image = Image::index(Format::Oci).image(&platforms[0]).image(&platforms[1]).finish();
        let upstream = DockerRegistry::start();
        upstream.push("library/alpine", "3.22", &image);
        let mirrors = format!("mirrors = [\"http://{}\"]\n", upstream.host());
        let hosts = ["docker.io", "ghcr.io"].map(|host| format!("[registry.hosts.\"{host}\"]\n{mirrors}"));
        let larder = Larder::new().config(&format!("{}{}", block("larder.toml"), hosts.concat()));
        let service = larder.serve(&[]);
        Self { upstream, image, platforms, larder, service, desk: Desk::new() }
    }

    fn host(&self) -> String {
        self.service.address("listen")
    }

    /// A block of the page, with larder where it is in this world.
    fn documented(&self, name: &str) -> String {
        block(name).replace(LISTEN, &self.host())
    }

    fn install(&self, file: &str) {
        self.desk.write(file, &self.documented(file));
    }

    fn get(&self, target: &str) -> client::Response {
        let accept = [("Accept", "application/vnd.oci.image.index.v1+json")];
        client::request("GET", &self.host(), target, &accept, &[]).unwrap()
    }

    /// A client that asks for `target` gets the image.
    fn assert_serves(&self, target: &str) {
        let answer = self.get(target);
        assert_eq!((answer.status, sha256(&answer.body)), (200, self.image.root.digest.clone()), "{target}");
    }

    /// The user pulled these by larder alone, which asked upstream once for each blob.
    fn assert_fetched_once(&self, images: &[Image]) {
        for blob in images.iter().flat_map(|image| &image.blobs) {
            assert_eq!(self.upstream.requests("GET", &format!("/blobs/{}", blob.digest)), 1);
        }
    }

    /// What was pushed as `NAME:1` is served, and all that larder has is sound. Returns the manifest's bytes.
    fn pushed(&self, name: &str) -> Vec<u8> {
        let answer = self.get(&format!("/v2/{PUSHED}/{name}/manifests/1"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.larder.ok(&["verify", "--all"]);
        answer.body
    }
}

/// Runs the block of a tool that carries the whole index from upstream to larder under a name of its own.
fn carries_all(tool: &str, files: &[&str]) -> World {
    let world = World::new();
    for file in files {
        world.install(file);
    }
    world.desk.run(&world.documented(tool));
    world.assert_fetched_once(&world.platforms);
    assert_eq!(world.pushed(tool), world.image.root.bytes);
    world
}

#[test]
fn skopeo_goes_by_the_mirror_of_its_configuration() {
    carries_all("skopeo", &["/etc/containers/registries.conf.d/larder.conf"]);
}

#[test]
fn crane_names_larder_itself() {
    carries_all("crane", &[]);
}

#[test]
fn regctl_names_larder_itself() {
    carries_all("regctl", &[]);
}

#[test]
fn oras_attaches_what_larder_lists_as_referrers() {
    let world = carries_all("oras", &[]);
    let digest = &world.image.root.digest;
    let answer = world.get(&format!("/v2/{PUSHED}/oras/referrers/{digest}"));
    let listed: Value = serde_json::from_slice(&answer.body).unwrap();
    let referrers = listed["manifests"].as_array().unwrap();
    assert_eq!(referrers.len(), 1, "{listed}");
    assert_eq!(referrers[0]["artifactType"], "application/vnd.example.signature");
}

#[test]
fn buildah_goes_by_the_mirror_of_its_configuration() {
    let world = World::new();
    world.install("/etc/containers/registries.conf.d/larder.conf");
    world.desk.run(&world.documented("buildah"));
    world.assert_fetched_once(&world.platforms[..1]);
    // buildah packs layers anew, but leaves the configuration as it was.
    let manifest: Value = serde_json::from_slice(&world.pushed("buildah")).unwrap();
    let original = world.platforms[0].root.json();
    assert_eq!(manifest["config"]["digest"], original["config"]["digest"]);
}

#[test]
fn containerd_pulls_and_pushes() {
    let world = World::new();
    world.install("/etc/containerd/certs.d/docker.io/hosts.toml");
    let _containerd = Containerd::start(&world.desk, block("/etc/containerd/config.toml"));
    world.desk.run(&world.documented("ctr"));
    world.assert_fetched_once(&world.platforms);
    assert_eq!(world.pushed("ctr"), world.image.root.bytes);
}

#[test]
fn containerd_reaches_every_registry_by_one_file() {
    let world = World::new();
    world.install("/etc/containerd/certs.d/_default/hosts.toml");
    world.upstream.push("org/app", "1", &world.platforms[0]);
    let _containerd = Containerd::start(&world.desk, "version = 2\n");
    for name in ["docker.io/library/alpine:3.22", "ghcr.io/org/app:1"] {
        let script = format!("ctr images pull --hosts-dir /etc/containerd/certs.d {name}");
        world.desk.run(&script);
    }
    world.assert_fetched_once(&world.platforms[..1]);
    // The image of ghcr.io has its name although nobody but `?ns=` said so.
    let names = world.larder.ok(&["ls"]);
    assert!(names.contains("ghcr.io/org/app:1"), "{names}");
}

#[test]
fn runtimes_of_kubernetes_are_told_where_the_files_are() {
    for (file, version, plugin) in [
        ("/etc/containerd/config.toml", 2, "io.containerd.grpc.v1.cri"),
        ("/etc/containerd/conf.d/larder.toml", 3, "io.containerd.cri.v1.images"),
    ] {
        let table = table(file);
        assert_eq!(table["version"].as_integer(), Some(version));
        let path = table["plugins"][plugin]["registry"]["config_path"].as_str();
        assert_eq!(path, Some("/etc/containerd/certs.d"), "{file}");
    }
}

#[test]
fn buildkit_asks_with_the_name_of_the_registry() {
    let table = table("/etc/buildkit/buildkitd.toml");
    let registries = table["registry"].as_table().unwrap();
    for host in ["docker.io", "ghcr.io"] {
        assert_eq!(registries[host]["mirrors"][0].as_str(), Some(LISTEN));
    }
    assert_eq!(registries[LISTEN]["http"].as_bool(), Some(true));
    World::new().assert_serves("/v2/library/alpine/manifests/3.22?ns=docker.io");
}

#[test]
fn docker_asks_without_the_name_of_the_registry() {
    let settings: Value = serde_json::from_str(block("/etc/docker/daemon.json")).unwrap();
    assert_eq!(settings, serde_json::json!({ "registry-mirrors": [format!("http://{LISTEN}")] }));
    World::new().assert_serves("/v2/library/alpine/manifests/3.22");
}

#[test]
fn bazel_asks_where_its_downloader_is_sent() {
    let world = World::new();
    let rules = world.documented("bazel_downloader.cfg");
    let rule = |line: &str| {
        let words: Vec<String> = line.split(' ').map(|word| word.replace("\\.", ".")).collect();
        assert_eq!((words.len(), words[0].as_str()), (3, "rewrite"), "{line}");
        let from = words[1].strip_suffix("(.*)").unwrap().to_owned();
        (from, words[2].strip_suffix("$1").unwrap().to_owned())
    };
    let rules: Vec<(String, String)> = rules.lines().map(rule).collect();
    assert_eq!(rules[1].0, "ghcr.io/v2/");
    let rest = "index.docker.io/v2/library/alpine/manifests/3.22".strip_prefix(&rules[0].0).unwrap();
    let url = format!("{}{rest}", rules[0].1);
    world.assert_serves(url.strip_prefix(&format!("http://{}", world.host())).unwrap());
    // A token of the registry's own says nothing to larder.
    let token = [("Authorization", "Bearer of-docker-hub")];
    assert_eq!(client::request("GET", &world.host(), PULLED, &token, &[]).unwrap().status, 200);
    let flag = block(".bazelrc").trim();
    assert_eq!(flag, "common --experimental_downloader_config=bazel_downloader.cfg");
}

/// linuxkit cannot be had as a package; where `LINUXKIT` names one, it is tried too.
#[test]
fn linuxkit_asks_below_the_name_of_the_registry() {
    let world = World::new();
    let command = world.documented("linuxkit");
    let words: Vec<&str> = command.split_whitespace().collect();
    let mirror = format!("docker.io=http://{}/docker.io", world.host());
    assert_eq!(words[..4], ["linuxkit", "--mirror", &mirror, "cache"]);
    if let Some(linuxkit) = std::env::var_os("LINUXKIT") {
        let mut run = Command::new(linuxkit);
        run.args(&words[1..]).env("HOME", world.desk.work());
        larder_tests::tools::run(run);
        world.assert_fetched_once(&world.platforms[..1]);
    }
    world.assert_serves(PULLED);
}

#[test]
fn every_block_is_tried() {
    let tried = [
        ".bazelrc",
        "/etc/buildkit/buildkitd.toml",
        "/etc/containerd/certs.d/_default/hosts.toml",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
        "/etc/containerd/conf.d/larder.toml",
        "/etc/containerd/config.toml",
        "/etc/containers/registries.conf.d/larder.conf",
        "/etc/docker/daemon.json",
        "bazel_downloader.cfg",
        "buildah",
        "crane",
        "ctr",
        "larder.toml",
        "linuxkit",
        "oras",
        "regctl",
        "skopeo",
    ];
    let names: BTreeSet<&str> = blocks().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.into_iter().collect::<Vec<_>>(), tried);
}
