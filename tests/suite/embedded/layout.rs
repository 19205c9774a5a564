//! The directory is an OCI image layout that other tools read and write, and so is what is exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_tests::{DockerRegistry, Format, Image, Larder, Layer, ScriptedRegistry};
use serde_json::Value;

use super::{LIMIT, docker_registry_with_debian, names, tool};

/// What skopeo reads of `reference` in the layout `store`: the manifest.
fn skopeo_reads(store: &Path, reference: &str) -> String {
    let copy = tempfile::tempdir().unwrap();
    let source = format!("oci:{}:{reference}", store.display());
    let target = format!("dir:{}", copy.path().display());
    tool("skopeo", &["copy", "--quiet", &source, &target]);
    fs::read_to_string(copy.path().join("manifest.json")).unwrap()
}

#[test]
fn skopeo_umoci_and_crane_read_the_store() {
    let registry = docker_registry_with_debian();
    let small = Image::small();
    registry.push("team/small", "1", &small);
    let larder = Larder::new();
    let (debian, single) = (registry.reference("debian:12"), registry.reference("team/small:1"));
    // A sparse index and a single image, side by side.
    larder.ok(&["pull", "--platform", "linux/amd64", &debian, &single]);
    let store = larder.store_path();
    let path = store.display().to_string();

    assert!(skopeo_reads(&store, &single).contains(&small.blob(1).digest));
    let copy = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", copy.path().display());
    tool(
        "skopeo",
        &["--override-arch", "amd64", "copy", "--quiet", &format!("oci:{path}:{debian}"), &target],
    );

    let listed = tool("umoci", &["ls", "--layout", &path]);
    assert_eq!(listed.lines().collect::<BTreeSet<_>>(), BTreeSet::from([debian.as_str(), &single]));
    let stat = tool("umoci", &["stat", "--json", "--image", &format!("{path}:{single}")]);
    assert!(stat.contains("larder-tests"), "{stat}");
    let bundle = copy.path().join("bundle");
    let image = format!("{path}:{single}");
    tool("umoci", &["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]);
    assert_eq!(fs::read(bundle.join("rootfs/etc/hostname")).unwrap(), b"larder\n");

    larder.ok(&["pull", "--platform", "all", &debian]);
    let all = registry.reference("copied/all");
    tool("crane", &["push", "--insecure", "--index", &path, &format!("{all}:1")]);
    let root = larder.run(&["--json", "inspect", &debian]).json()["descriptor"]["digest"].clone();
    let root = format!("{all}@{}", root.as_str().unwrap());
    tool("crane", &["validate", "--insecure", "--platform", "linux/amd64", "--remote", &root]);
    larder.ok(&["rm", &debian]);
    let one = registry.reference("copied/one:1");
    tool("crane", &["push", "--insecure", &path, &one]);
    assert_eq!(tool("crane", &["digest", "--insecure", &one]).trim(), small.root.digest);
    tool("crane", &["validate", "--insecure", "--remote", &one]);
}

/// Has `fill` write the store's directory first; `found` is the name that larder then knows it by.
fn is_adopted(fill: impl Fn(&DockerRegistry, &str), found: impl Fn(&Image) -> String) {
    let registry = DockerRegistry::start();
    let (first, second) = (Image::small(), Image::of_noise(2, 10_000));
    registry.push("team/first", "1", &first);
    registry.push("team/second", "1", &second);
    let larder = Larder::new();
    let path = larder.store_path().display().to_string();
    fill(&registry, &path);
    let found = found(&first);
    assert_eq!(names(&larder), BTreeSet::from([found.clone()]));
    let inspection = larder.run(&["--json", "inspect", &found]).expect_code(0).json();
    let root = inspection["descriptor"]["digest"].as_str().unwrap().to_owned();
    assert_eq!(inspection["sparse"], false);
    larder.ok(&["verify", "--all"]);
    let history = larder.run(&["--json", "history", &found]).expect_code(0).json();
    assert_eq!(history["origin"], "adopted");

    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("out.tar").display().to_string();
    larder.ok(&["export", &found, "--name", "out:1", "-o", &archive]);
    tool("skopeo", &["inspect", &format!("oci-archive:{archive}:out:1")]);

    // More beside it: both tools still see both.
    let second_name = registry.reference("team/second:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &second_name]);
    assert_eq!(names(&larder), BTreeSet::from([found.clone(), second_name.clone()]));
    assert!(skopeo_reads(&larder.store_path(), &second_name).contains(&second.blob(1).digest));
    if !found.starts_with("sha256:") {
        skopeo_reads(&larder.store_path(), &found);
        tool("umoci", &["stat", "--json", "--image", &format!("{path}:{found}")]);
    }
    assert!(larder.blob_path(&root).is_file());
    larder.ok(&["verify", "--all"]);
}

#[test]
fn directory_filled_by_skopeo_is_adopted() {
    let fill = |registry: &DockerRegistry, path: &str| {
        let source = format!("docker://{}", registry.reference("team/first:1"));
        let target = format!("oci:{path}:app:1");
        tool("skopeo", &["copy", "--quiet", "--src-tls-verify=false", &source, &target]);
    };
    is_adopted(fill, |_| "app:1".to_owned());
}

#[test]
fn directory_filled_by_umoci_is_adopted() {
    let fill = |_: &DockerRegistry, path: &str| {
        let image = format!("{path}:mine");
        tool("umoci", &["init", "--layout", path]);
        tool("umoci", &["new", "--image", &image]);
        let layer = tempfile::NamedTempFile::new().unwrap();
        let mut archive = tar::Builder::new(layer.reopen().unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, "etc/motd", &b"hi\n"[..]).unwrap();
        archive.finish().unwrap();
        tool("umoci", &["raw", "add-layer", "--image", &image, layer.path().to_str().unwrap()]);
        tool("umoci", &["gc", "--layout", path]);
    };
    is_adopted(fill, |_| "mine".to_owned());
}

#[test]
fn directory_filled_by_crane_is_adopted_with_or_without_a_name() {
    let fill = |registry: &DockerRegistry, path: &str| {
        tool("crane", &["pull", "--insecure", "--format=oci", &registry.reference("team/first:1"), path]);
    };
    is_adopted(fill, |first| first.root.digest.clone());
}

#[test]
fn what_other_tools_write_beside_larder_is_seen_by_the_next_command() {
    let registry = DockerRegistry::start();
    registry.push("team/small", "1", &Image::small());
    let larder = Larder::new();
    let pulled = registry.reference("team/small:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &pulled]);
    let store = larder.store_path().display().to_string();
    tool("umoci", &["tag", "--image", &format!("{store}:{pulled}"), "mine"]);
    assert_eq!(names(&larder), BTreeSet::from(["mine".to_owned(), pulled.clone()]));
    larder.ok(&["verify", "mine"]);
    tool("umoci", &["gc", "--layout", &store]);
    larder.ok(&["verify", "--all"]);
    larder.ok(&["rm", "mine"]);
    assert_eq!(tool("umoci", &["ls", "--layout", &store]).trim(), pulled);
}

#[test]
fn exports_are_read_by_others_and_hold_what_was_asked_for() {
    let registry = docker_registry_with_debian();
    let larder = Larder::new();
    let name = registry.reference("debian:12");
    larder.ok(&["pull", "--platform", "all", &name]);
    let out = tempfile::tempdir().unwrap();
    let at = |name: &str| out.path().join(name).display().to_string();

    // The whole index, byte for byte, as archive and as layout.
    larder.ok(&["export", &name, "-o", &at("all.tar")]);
    let root = larder.run(&["--json", "inspect", &name]).json()["descriptor"]["digest"].clone();
    let copy = |source: String, target: &str| {
        let target = format!("oci:{}:copy", at(target));
        tool("skopeo", &["copy", "--quiet", "--all", "--preserve-digests", &source, &target]);
        let index: Value = serde_json::from_slice(
            &fs::read(Path::new(&at(target.split(':').nth(1).unwrap())).join("index.json")).unwrap(),
        )
        .unwrap();
        index["manifests"][0]["digest"].clone()
    };
    assert_eq!(copy(format!("oci-archive:{}:{name}", at("all.tar")), "all-copy"), root);
    larder.ok(&["export", "--format", "layout", &name, "-o", &at("layout")]);
    assert_eq!(copy(format!("oci:{}:{name}", at("layout")), "layout-copy"), root);

    // One platform is a plain image, and goes beside what the layout holds.
    let single = ["export", "--format", "layout", "--platform", "linux/arm64", "--name", "arm"];
    larder.ok(&[&single[..], &[&name, "-o", &at("layout")]].concat());
    let stat = tool("umoci", &["stat", "--json", "--image", &format!("{}:arm", at("layout"))]);
    assert!(stat.contains("history"), "{stat}");
    assert_eq!(tool("umoci", &["ls", "--layout", &at("layout")]).lines().count(), 2);
    larder.ok(&["export", "--platform", "linux/arm64", "--name", "arm:1", &name, "-o", &at("arm.tar")]);
    let inspected = tool("skopeo", &["inspect", "--config", &format!("oci-archive:{}:arm:1", at("arm.tar"))]);
    assert!(inspected.contains("arm64"), "{inspected}");

    // Standard output, and what cannot be had.
    let piped = Command::new("tar").arg("-tf").arg(at("all.tar")).output().unwrap();
    let piped = String::from_utf8(piped.stdout).unwrap();
    assert!(piped.lines().any(|line| line.ends_with("index.json")), "{piped}");
    let refused = ["export", "--platform", "linux/riscv64", &name, "-o", &at("none.tar")];
    let _ = larder.run(&refused).expect_code(3);
    assert!(!Path::new(&at("none.tar")).exists(), "nothing is left of a refused export");
}

#[test]
fn sparse_export_holds_what_is_there_and_damaged_export_fails() {
    let amd64 = Image::build("linux/amd64").layer(Layer::random(200_000, 1)).finish();
    let arm64 = Image::build("linux/arm64").layer(Layer::random(1_000, 2)).finish();
    let index = Image::index(Format::Oci).image(&amd64).image(&arm64).finish();
    let registry = ScriptedRegistry::serving("team/app", "1", &index);
    let larder = Larder::new();
    let name = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &name]);
    let out = tempfile::tempdir().unwrap();
    let tar = out.path().join("out.tar").display().to_string();
    larder.ok(&["export", &name, "-o", &tar]);
    let source = format!("oci-archive:{tar}:{name}");
    tool("skopeo", &["--override-arch", "amd64", "inspect", &source]);

    let layer = larder.blob_path(&amd64.blob(1).digest);
    let mut bytes = fs::read(&layer).unwrap();
    bytes[150_000] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let other = out.path().join("other.tar");
    let _ = larder.run(&["export", &name, "-o", other.to_str().unwrap()]).expect_code(4);
    assert!(!other.exists(), "nothing is left of a damaged export");
    fs::remove_file(&layer).unwrap();
    let refused = larder.run(&["export", &name, "-o", other.to_str().unwrap()]).expect_code(1);
    assert!(refused.stderr.contains("pull it"), "{}", refused.stderr);
}

#[test]
fn layout_is_valid_at_every_moment() {
    let registry = ScriptedRegistry::start();
    let mut references = Vec::new();
    for number in 0..24 {
        let image = Image::build("linux/amd64").layer(Layer::random(20_000, number)).finish();
        let index = Image::index(Format::Oci).image(&image).finish();
        registry.put("team/app", &number.to_string(), &index);
        references.push(registry.reference(&format!("team/app:{number}")));
    }
    let larder = Larder::new();
    let (store, done) = (larder.store_path(), AtomicBool::new(false));
    let looks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::SeqCst) {
                looks += usize::from(assert_layout_is_valid(&store));
            }
            looks
        });
        // Two processes write at once, and names move and go.
        let pull = |half: &[String]| {
            let mut arguments = vec!["pull", "--platform", "linux/amd64"];
            arguments.extend(half.iter().map(String::as_str));
            larder.spawn(&arguments)
        };
        let mut pulls = [pull(&references[..12]), pull(&references[12..])];
        let succeeded = pulls.iter_mut().map(|pull| pull.wait(LIMIT).success()).collect::<Vec<_>>();
        let removed = larder.run(&["rm", &references[0], &references[13]]);
        done.store(true, Ordering::SeqCst);
        let looks = watcher.join();
        assert_eq!(succeeded, [true, true]);
        assert_eq!(removed.code, Some(0));
        looks.unwrap()
    });
    assert!(looks > 20, "the layout was seen {looks} times");
    assert_eq!(names(&larder).len(), 22);
}

/// Expects a marker, an index that parses, and every blob that it names; returns whether there was an index yet.
fn assert_layout_is_valid(store: &Path) -> bool {
    let Ok(json) = fs::read(store.join("index.json")) else {
        return false;
    };
    let marker: Value = serde_json::from_slice(&fs::read(store.join("oci-layout")).unwrap()).unwrap();
    assert_eq!(marker["imageLayoutVersion"], "1.0.0");
    let index: Value = serde_json::from_slice(&json).expect("index.json is whole");
    assert_eq!(index["schemaVersion"], 2);
    for entry in index["manifests"].as_array().expect("index.json lists manifests") {
        let digest = entry["digest"].as_str().unwrap().replace(':', "/");
        let bytes = fs::metadata(store.join("blobs").join(digest)).expect("what is named is there").len();
        assert_eq!(entry["size"], bytes);
    }
    true
}
