//! A directory that linuxkit filled is used as it is and stays one that linuxkit reads; so does one that larder fills.
//!
//! `fixtures/linuxkit-cache` is what linuxkit wrote. What linuxkit reads is judged by the shape that it wrote there and
//! by skopeo; where `LINUXKIT` names a linuxkit, by that as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use larder_tests::image::sha256;
use larder_tests::{Format, Image, Larder, Layer, ScriptedRegistry, tools};
use serde_json::Value;

/// A package under the hash of its tree, with both platforms.
const PACKAGE: &str = "docker.io/example/agent:c2d6e5b1f0a94837261504f3e2d1c0b9a8978685";
/// The same index once more.
const RELEASE: &str = "docker.io/example/agent:v1.2";
/// One platform of the package, as it was built.
const BUILT: &str = "docker.io/example/agent:c2d6e5b1f0a94837261504f3e2d1c0b9a8978685-arm64";
const NAMES: [&str; 8] = [
    PACKAGE,
    "docker.io/example/agent:c2d6e5b1f0a94837261504f3e2d1c0b9a8978685-amd64",
    BUILT,
    RELEASE,
    "docker.io/library/base:3.1",
    "docker.io/library/base:3.1-amd64",
    "docker.io/library/base:3.1-arm64",
    "docker.io/library/tool:7",
];
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Whatever else an entry is, linuxkit passes over it.
const READ_BY_LINUXKIT: [&str; 4] = [
    OCI_INDEX,
    OCI_IMAGE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/linuxkit-cache")
}

/// Every file below `folder`, by its path from there.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn write(folder: &Path, files: BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// An installation whose store is a copy of what linuxkit wrote.
fn larder_on_recorded() -> Larder {
    let larder = Larder::new();
    write(&larder.store_path(), files(&recorded()));
    larder
}

fn owned(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The names that larder lists, with their digests.
fn listed(larder: &Larder) -> BTreeMap<String, String> {
    let lines = larder.run(&["--json", "ls"]).expect_code(0).json_lines();
    let pair = |line: &Value| (text(&line["name"]), text(&line["descriptor"]["digest"]));
    lines.iter().map(pair).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// A cache as linuxkit sees it.
struct Cache {
    path: PathBuf,
    /// The entries of `index.json` by name.
    entries: BTreeMap<String, Value>,
    /// The manifests that indexes name and that are not there.
    absent: BTreeSet<String>,
}

impl Cache {
    /// Reads the cache at `path`, and expects that linuxkit can.
    fn open(path: &Path) -> Self {
        let json = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(path.join(name)).unwrap()).expect("the file is JSON")
        };
        assert_eq!(json("oci-layout")["imageLayoutVersion"], "1.0.0");
        let index = json("index.json");
        assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&2.into(), &OCI_INDEX.into()));
        let mut cache = Self { path: path.to_owned(), entries: BTreeMap::new(), absent: BTreeSet::new() };
        for entry in index["manifests"].as_array().expect("index.json lists manifests") {
            let media_type = text(&entry["mediaType"]);
            assert!(READ_BY_LINUXKIT.contains(&media_type.as_str()), "{entry}");
            let name = text(&entry["annotations"]["org.opencontainers.image.ref.name"]);
            cache.expect_tree(entry);
            cache.expect_skopeo_reads(&name, entry);
            assert!(
                cache.entries.insert(name, entry.clone()).is_none(),
                "{entry} is a second one of its name"
            );
        }
        cache.expect_linuxkit_reads();
        cache
    }

    fn names(&self) -> BTreeSet<String> {
        self.entries.keys().cloned().collect()
    }

    fn digests(&self) -> BTreeMap<String, String> {
        self.entries.iter().map(|(name, entry)| (name.clone(), text(&entry["digest"]))).collect()
    }

    fn blob(&self, descriptor: &Value) -> Option<Vec<u8>> {
        let digest = text(&descriptor["digest"]);
        let bytes = fs::read(self.path.join("blobs").join(digest.replace(':', "/"))).ok()?;
        assert_eq!((descriptor["size"].as_u64(), sha256(&bytes)), (Some(bytes.len() as u64), digest));
        Some(bytes)
    }

    fn document(&self, descriptor: &Value) -> Value {
        let bytes = self.blob(descriptor).unwrap_or_else(|| panic!("{descriptor} is not there"));
        serde_json::from_slice(&bytes).expect("the blob is JSON")
    }

    /// Expects all that `root` leads to, but for whole platforms of an index.
    fn expect_tree(&mut self, root: &Value) {
        let document = self.document(root);
        for child in document["manifests"].as_array().into_iter().flatten() {
            if self.blob(child).is_some() {
                self.expect_tree(child);
            } else {
                self.absent.insert(text(&child["digest"]));
            }
        }
        let layers = document["layers"].as_array().into_iter().flatten();
        for blob in layers.chain(document.get("config")) {
            assert!(self.blob(blob).is_some(), "{blob} is not there");
        }
    }

    fn expect_skopeo_reads(&self, name: &str, entry: &Value) {
        // In a layout, skopeo knows no names but of OCI's own types.
        if entry["mediaType"] != OCI_INDEX && entry["mediaType"] != OCI_IMAGE {
            return;
        }
        let mut skopeo = tools::command("skopeo");
        skopeo.args(["inspect", "--raw", &format!("oci:{}:{name}", self.path.display())]);
        assert_eq!(sha256(tools::run(skopeo).as_bytes()), text(&entry["digest"]), "{name}");
    }

    /// The manifest of the first image of `entry` that is there.
    fn image(&self, entry: &Value) -> Value {
        let document = self.document(entry);
        let Some(children) = document["manifests"].as_array() else { return document };
        let is_there = |child: &&Value| self.blob(child).is_some() && child["platform"]["os"] != "unknown";
        self.document(children.iter().find(is_there).expect("one platform of an index is there"))
    }

    /// Has linuxkit list the names and read an image of each, where there is a linuxkit.
    fn expect_linuxkit_reads(&self) {
        let Some(linuxkit) = Linuxkit::named() else { return };
        assert_eq!(linuxkit.list(&self.path), self.digests());
        for (name, entry) in &self.entries {
            let image = self.image(entry);
            let config = self.document(&image["config"]);
            let platform = format!("{}/{}", text(&config["os"]), text(&config["architecture"]));
            let exported = linuxkit.export(&self.path, name, &platform);
            for blob in image["layers"].as_array().unwrap().iter().chain([&image["config"]]) {
                let path = PathBuf::from("blobs").join(text(&blob["digest"]).replace(':', "/"));
                assert!(exported.contains(&path), "linuxkit exports {name} without {blob}");
            }
        }
    }
}

/// The real one.
struct Linuxkit(OsString);

impl Linuxkit {
    /// The one that `LINUXKIT` names, if it does.
    fn named() -> Option<Self> {
        let path = std::env::var_os("LINUXKIT")?;
        assert!(Path::new(&path).is_file(), "LINUXKIT names {}, which is no file", path.display());
        Some(Self(path))
    }

    /// Runs `linuxkit cache` on the directory `cache`; returns what it writes to stdout and stderr.
    fn cache(&self, cache: &Path, arguments: &[&str]) -> String {
        let home = tempfile::tempdir().unwrap();
        let mut command = Command::new(&self.0);
        command.env_clear().env("HOME", home.path()).arg("--cache").arg(cache).arg("cache").args(arguments);
        let output = command.output().unwrap();
        let written = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{command:?}: {written}");
        written
    }

    fn list(&self, cache: &Path) -> BTreeMap<String, String> {
        let written = self.cache(cache, &["ls"]);
        let pair =
            |line: &str| line.split_once(' ').map(|(name, digest)| (name.into(), digest.trim().into()));
        // The first line is the heading.
        written.lines().skip(1).filter_map(pair).collect()
    }

    /// The paths in the archive that linuxkit makes of `name`.
    fn export(&self, cache: &Path, name: &str, platform: &str) -> BTreeSet<PathBuf> {
        let archive = tempfile::NamedTempFile::new().unwrap();
        let outfile = archive.path().to_str().unwrap();
        self.cache(cache, &["export", "--platform", platform, "--outfile", outfile, name]);
        let mut archive = tar::Archive::new(archive.as_file());
        let path = |entry: std::io::Result<tar::Entry<_>>| entry.unwrap().path().unwrap().into_owned();
        archive.entries().unwrap().map(path).collect()
    }
}

/// An image of two platforms and the attestation of one.
fn two_platforms() -> Image {
    let shared = Layer::files(&[("etc/motd", b"hello\n".as_slice())]);
    let image = |platform, seed| {
        Image::build(platform).layer(shared.clone()).layer(Layer::random(5_000, seed)).finish()
    };
    let (amd64, arm64) = (image("linux/amd64", 1), image("linux/arm64", 2));
    Image::index(Format::Oci).image(&amd64).attestation(&amd64).image(&arm64).finish()
}

fn single_of_docker() -> Image {
    Image::build("linux/amd64").format(Format::Docker).layer(Layer::random(5_000, 3)).finish()
}

#[test]
fn recorded_cache_is_whole_and_comes_out_the_same_when_recorded_again() {
    let copy = tempfile::tempdir().unwrap();
    write(copy.path(), files(&recorded()));
    let cache = Cache::open(copy.path());
    assert_eq!(cache.names(), owned(&NAMES));
    assert_eq!(cache.entries[PACKAGE]["digest"], cache.entries[RELEASE]["digest"]);
    assert!(cache.absent.is_empty(), "{:?}", cache.absent);
    if Linuxkit::named().is_some() {
        let again = tempfile::tempdir().unwrap();
        let script = recorded().with_file_name("make-linuxkit-cache.sh");
        let mut command = Command::new(script);
        command.arg(again.path().join("cache"));
        tools::run(command);
        assert_eq!(files(&again.path().join("cache")), files(&recorded()));
    }
}

#[test]
fn every_name_of_linuxkit_is_listed_inspected_verified_and_exported() {
    let larder = larder_on_recorded();
    let before = Cache::open(&larder.store_path());
    assert_eq!(listed(&larder), before.digests());
    for (name, entry) in &before.entries {
        let inspection = larder.run(&["--json", "inspect", name]).expect_code(0).json();
        assert_eq!((&inspection["name"], &inspection["sparse"]), (&name.as_str().into(), &false.into()));
        assert_eq!(inspection["descriptor"]["digest"], entry["digest"]);
    }
    let verified = larder.ok(&["verify", "--all"]);
    assert_eq!(verified.lines().filter(|line| line.starts_with("ok")).count(), NAMES.len(), "{verified}");

    let out = tempfile::tempdir().unwrap();
    for (number, (name, entry)) in before.entries.iter().enumerate() {
        let archive = out.path().join(format!("{number}.tar"));
        larder.ok(&["export", name, "-o", archive.to_str().unwrap()]);
        let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
        let index = archive.entries().unwrap().map(Result::unwrap);
        let index = index.into_iter().find(|entry| entry.path().unwrap() == Path::new("index.json"));
        let index: Value = serde_json::from_reader(index.unwrap()).unwrap();
        assert_eq!(index["manifests"][0]["digest"], entry["digest"], "{name}");
    }

    let after = Cache::open(&larder.store_path());
    assert_eq!(after.entries, before.entries, "to look changes nothing");
    let (written, now) = (files(&recorded()), files(&larder.store_path()));
    let lost = written.keys().find(|path| path.starts_with("blobs") && now.get(*path) != written.get(*path));
    assert_eq!(lost, None);
}

#[test]
fn removing_one_name_keeps_what_others_share_with_it() {
    let larder = larder_on_recorded();
    let before = Cache::open(&larder.store_path());
    larder.ok(&["rm", PACKAGE, BUILT]);
    let after = Cache::open(&larder.store_path());
    let mut left = before.entries;
    left.retain(|name, _| name != PACKAGE && name != BUILT);
    assert_eq!(after.entries, left);
    assert!(after.absent.is_empty(), "{:?}", after.absent);
    larder.ok(&["verify", "--all"]);
    larder.ok(&["verify", RELEASE]);
}

#[test]
fn pull_beside_the_images_of_linuxkit_keeps_them() {
    let registry = ScriptedRegistry::serving("team/app", "1", &two_platforms());
    let larder = larder_on_recorded();
    let before = Cache::open(&larder.store_path());
    let pulled = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "all", &pulled]);
    let mut after = Cache::open(&larder.store_path());
    assert_eq!(listed(&larder), after.digests());
    assert!(after.absent.is_empty(), "{:?}", after.absent);
    assert_eq!(after.entries.remove(&pulled).unwrap()["digest"], two_platforms().root.digest);
    assert_eq!(after.entries, before.entries);
    larder.ok(&["verify", "--all"]);
}

#[test]
fn what_linuxkit_pulled_is_not_pulled_again() {
    let registry = ScriptedRegistry::serving("team/app", "1", &two_platforms());
    let larder = Larder::new();
    let name = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "all", &name]);
    // Under its name and without what larder knows beside, it is as if linuxkit had pulled it.
    let plain = Larder::new();
    let mut layout = files(&larder.store_path());
    layout.retain(|path, _| ["blobs", "index.json", "oci-layout"].iter().any(|kept| path.starts_with(kept)));
    write(&plain.store_path(), layout);
    let asked = registry.requests().len();
    plain.ok(&["pull", "--platform", "all", &name]);
    assert_eq!(registry.requests().len(), asked);
    assert_eq!(Cache::open(&plain.store_path()).digests(), Cache::open(&larder.store_path()).digests());
}

#[test]
fn directory_that_larder_fills_is_read_and_written_by_linuxkit() {
    let registry = ScriptedRegistry::serving("team/all", "1", &two_platforms());
    registry.put("team/sparse", "1", &two_platforms());
    registry.put("team/single", "1", &single_of_docker());
    registry.put("team/late", "1", &Image::small());
    let larder = Larder::new();
    let [all, sparse, single, late] = ["all", "sparse", "single", "late"]
        .map(|repository| registry.reference(&format!("team/{repository}:1")));
    larder.ok(&["pull", "--platform", "linux/arm64", &sparse]);
    larder.ok(&["pull", "--platform", "linux/amd64", &single]);
    assert_eq!(Cache::open(&larder.store_path()).absent.len(), 2, "amd64 and what attests it");
    larder.ok(&["pull", "--platform", "all", &all]);
    let cache = Cache::open(&larder.store_path());
    assert_eq!(cache.names(), BTreeSet::from([all.clone(), sparse, single]));
    assert_eq!(cache.entries[&all]["digest"], two_platforms().root.digest);
    assert_eq!(listed(&larder), cache.digests());

    if let Some(linuxkit) = Linuxkit::named() {
        linuxkit.cache(&larder.store_path(), &["pull", &late]);
        let with_late = Cache::open(&larder.store_path());
        assert_eq!(with_late.entries[&late]["digest"], Image::small().root.digest);
        assert_eq!(with_late.entries.len(), cache.entries.len() + 1);
        assert_eq!(listed(&larder), with_late.digests());
    }
    larder.ok(&["verify", "--all"]);
}
