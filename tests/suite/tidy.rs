//! The invariants of the source tree that no compiler checks. `docs/architecture.md` names the test behind each.

mod docs;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a Rust file, its tests included.
const FILE_LINES_MAX: usize = 600;

/// What may lie at the top, beside dotfiles and what a build makes.
const TOP_LEVEL: [&str; 11] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "deploy",
    "docs",
    "rustfmt.toml",
    "services",
    "shared",
];

/// Every crate by its folder, with its level: dependencies lead to lower levels only.
const LEVELS: [(&str, u32); 17] = [
    ("shared/oci", 0),
    ("shared/bus", 0),
    ("shared/containerd-api", 0),
    ("shared/messages", 1),
    ("shared/provider", 1),
    ("shared/blobs", 1),
    ("shared/catalog", 1),
    ("shared/registry", 1),
    ("shared/archive", 1),
    ("shared/runtime", 2),
    ("services/fetcher", 3),
    ("services/verifier", 3),
    ("services/indexer", 3),
    ("services/pusher", 3),
    ("services/facade", 3),
    ("services/cli", 4),
    ("tests", 5),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `folder` whose name ends in `suffix`, by its path from the top.
fn files(folder: &str, suffix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every Rust file of the product, without its tests.
fn product() -> Vec<(String, String)> {
    let all = files("shared", ".rs").into_iter().chain(files("services", ".rs"));
    let is_product = |path: &String| {
        let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/src/suite");
        !is_test && path != "shared/registry/src/scripted.rs"
    };
    let without_tests = |path: String| {
        let text = read(&path);
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        (path, text[..end].to_owned())
    };
    all.filter(is_product).map(without_tests).collect()
}

/// Asserts that `text` stands only in files of the product whose path begins with one of `places`, and in each of them.
fn assert_only_in(text: &str, places: &[&str]) {
    let mut found = BTreeSet::new();
    for (path, _) in product().iter().filter(|(_, source)| source.contains(text)) {
        let place = places.iter().find(|place| path.starts_with(**place));
        assert!(place.is_some(), "{path} says {text:?}, which belongs to {places:?} alone");
        found.extend(place);
    }
    assert_eq!(found, places.iter().collect(), "{text:?} is no longer said where this test expects it");
}

/// A crate as its manifest has it.
struct Manifest {
    name: String,
    folder: String,
    level: u32,
    /// The names of the crates it depends on, for its tests or its build too.
    needs: BTreeSet<String>,
}

fn manifests() -> Vec<Manifest> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let manifest = |package: &Value| {
        let path = PathBuf::from(package["manifest_path"].as_str().unwrap());
        let folder = path.parent().unwrap().strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let level = LEVELS.iter().find(|(known, _)| *known == folder);
        let (_, level) =
            level.unwrap_or_else(|| panic!("{folder} has no level: give it one in docs and here"));
        let needs = package["dependencies"].as_array().unwrap().iter();
        Manifest {
            name: package["name"].as_str().unwrap().to_owned(),
            folder,
            level: *level,
            needs: needs.map(|need| need["name"].as_str().unwrap().to_owned()).collect(),
        }
    };
    metadata["packages"].as_array().unwrap().iter().map(manifest).collect()
}

/// The folders of the crates that depend on `name`.
fn dependents(name: &str) -> BTreeSet<String> {
    manifests().into_iter().filter(|one| one.needs.contains(name)).map(|one| one.folder).collect()
}

fn assert_dependents(name: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&folder| folder.to_owned()).collect();
    assert_eq!(dependents(name), expected, "on {name}");
}

#[test]
fn dependencies_lead_to_lower_levels_only() {
    let all = manifests();
    for one in &all {
        for other in all.iter().filter(|other| one.needs.contains(&other.name)) {
            let (from, to) = (&one.name, &other.name);
            assert!(
                one.level > other.level,
                "{from} (level {}) needs {to} (level {})",
                one.level,
                other.level
            );
        }
    }
}

#[test]
fn services_never_import_services() {
    let all = manifests();
    let services: Vec<_> = all.iter().filter(|one| one.level == 3).collect();
    assert_eq!(services.len(), 5);
    for service in &services {
        let other = services.iter().find(|other| service.needs.contains(&other.name));
        assert!(other.is_none(), "{} imports {}", service.name, other.unwrap().name);
    }
}

#[test]
fn only_fetcher_and_pusher_speak_to_registries() {
    // The command line only wires the client up.
    assert_dependents("larder-registry", &["services/cli", "services/fetcher", "services/pusher"]);
    assert_dependents("oci-client", &["shared/registry"]);
    // A facade reads from fetchers what they are bringing in, and so do the tests of these.
    assert_dependents("reqwest", &["shared/registry", "services/facade", "services/fetcher"]);
}

#[test]
fn only_egress_makes_requests() {
    // Facades read from fetchers what these are bringing in, which no registry has a say in.
    let peers = "services/facade/src/distribution/fill.rs";
    assert_only_in("reqwest::Client", &["shared/registry/src/egress/", peers]);
    assert_only_in("request.send()", &["shared/registry/src/egress/"]);
    // Signing needs the type, and nothing in `auth` makes or sends one.
    assert_only_in("reqwest::RequestBuilder", &["shared/registry/src/auth.rs"]);
}

#[test]
fn only_the_indexer_writes_names() {
    assert_dependents("larder-catalog", &["services/cli", "services/facade", "services/indexer", "tests"]);
    assert_only_in("Origin::Pulled", &["services/indexer/"]);
    assert_only_in("catalog.remove(", &["services/indexer/"]);
    assert_only_in("catalog.set_if(", &["services/indexer/"]);
    assert_only_in("catalog.set(", &[]);
}

#[test]
fn actors_never_see_the_bus() {
    // The facade is no actor, and reads only the bus's errors; the fetcher's tests have a bus of their own.
    let places = ["services/cli", "services/facade", "services/fetcher", "shared/runtime", "tests"];
    assert_dependents("larder-bus", &places);
    assert_only_in("async_nats::", &["shared/bus/"]);
}

#[test]
fn bus_carries_no_meaning_and_no_bulk() {
    let bus = manifests().into_iter().find(|one| one.name == "larder-bus").unwrap();
    assert!(!bus.needs.iter().any(|need| need.starts_with("larder-")), "{:?}", bus.needs);
    assert!(read("shared/bus/src/bus.rs").contains("PAYLOAD_BYTES_MAX: usize = 64 * 1024"));
    assert_only_in("PAYLOAD_BYTES_MAX", &["shared/bus/"]);
}

#[test]
fn oci_does_no_io() {
    let oci = manifests().into_iter().find(|one| one.name == "larder-oci").unwrap();
    for io in ["tokio", "reqwest", "object_store", "tempfile"] {
        assert!(!oci.needs.contains(io), "larder-oci needs {io}");
    }
    for (path, source) in product().iter().filter(|(path, _)| path.starts_with("shared/oci/")) {
        for io in ["std::fs", "TcpStream", "ToSocketAddrs", "std::process"] {
            assert!(!source.contains(io), "{path} says {io}");
        }
    }
}

#[test]
fn tasks_start_where_somebody_joins_them() {
    assert_only_in("tokio::spawn(", &["shared/runtime/src/lib.rs"]);
    assert_only_in("Handle::try_current()", &["shared/blobs/src/objects.rs"]);
    assert_only_in("thread::spawn", &[]);
    // It would bypass the limit of a mailbox.
    assert_only_in(".do_send(", &[]);
}

#[test]
fn only_the_command_line_reads_the_environment() {
    // Where docker and podman keep credentials is no setting of ours.
    let places =
        ["services/cli/src/config.rs", "services/cli/src/store.rs", "shared/registry/src/credentials.rs"];
    assert_only_in("env::var", &places);
}

#[test]
fn crates_are_named_after_their_folders() {
    for one in manifests() {
        let folder = one.folder.rsplit('/').next().unwrap();
        assert_eq!(one.name, format!("larder-{folder}"));
        let manifest = read(&format!("{}/Cargo.toml", one.folder));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has lints of its own", one.name);
    }
}

#[test]
fn no_dependency_takes_any_version() {
    let manifests = manifests().into_iter().map(|one| format!("{}/Cargo.toml", one.folder));
    for path in manifests.chain(["Cargo.toml".to_owned()]) {
        assert!(!read(&path).contains("\"*\""), "{path} takes any version of something");
    }
}

#[test]
fn top_level_holds_what_the_design_names() {
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_known = TOP_LEVEL.contains(&name.as_str()) || name == "tests" || name == "target";
        assert!(is_known || name.starts_with('.'), "{name} does not belong at the top");
    }
}

#[test]
fn files_and_folders_say_what_they_know() {
    for folder in ["shared", "services", "tests"] {
        for path in files(folder, ".rs") {
            for word in path.trim_end_matches(".rs").split('/') {
                let says_nothing = ["utils", "util", "common", "helpers", "core", "types", "manager", "misc"];
                assert!(!says_nothing.contains(&word), "{path}: name what it knows instead of {word:?}");
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    for folder in ["shared", "services", "tests"] {
        for path in files(folder, ".rs") {
            let lines = read(&path).lines().count();
            assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines of at most {FILE_LINES_MAX}");
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    // Written in two parts, so that this file does not say them itself.
    let signs = [("to", "do!("), ("unimple", "mented!("), ("#[ig", "nore"), ("TO", "DO"), ("FIX", "ME")];
    for folder in ["shared", "services", "tests", "deploy", ".ci"] {
        for path in files(folder, "") {
            let text = String::from_utf8_lossy(&fs::read(root().join(&path)).unwrap()).into_owned();
            for (first, second) in signs {
                let sign = format!("{first}{second}");
                assert!(!text.contains(&sign), "{path} says {sign:?}");
            }
        }
    }
}
