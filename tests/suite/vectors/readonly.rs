//! T99: a cache that can only be read.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use larder_tests::{Format, Image, Larder, Layer, ScriptedRegistry};
use rustix::process::geteuid;

/// A user to whom nothing belongs.
const NOBODY: u32 = 65_534;

/// Everything at and below `path`.
fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut place = 0;
    while place < found.len() {
        if found[place].is_dir() {
            let entries = fs::read_dir(&found[place]).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
        }
        place += 1;
    }
    found
}

/// A store that nobody may write as long as this lives.
struct Sealed<'a>(&'a Path);

impl<'a> Sealed<'a> {
    fn new(store: &'a Path) -> Self {
        for path in all_below(store) {
            let mode = if path.is_dir() { 0o555 } else { 0o444 };
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        Self(store)
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        for path in all_below(self.0) {
            // Else its directory cannot be removed.
            let _ = fs::set_permissions(path, Permissions::from_mode(0o755));
        }
    }
}

/// Runs the binary as a user who has no rights of the file's owner: to root, permissions mean nothing.
fn run(larder: &Larder, program: &Path, arguments: &[&str]) -> Output {
    let known = larder.command(arguments);
    let mut command = Command::new(program);
    command.args(known.get_args()).current_dir(larder.home()).env_clear();
    command.envs(known.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.output().unwrap()
}

/// What a reader may want of a cache.
fn reads(name: &str, config: &str) -> Vec<Vec<String>> {
    let lines = [
        "ls".to_owned(),
        format!("inspect {name}"),
        format!("inspect --raw {name}"),
        format!("history {name}"),
        format!("cat {config}"),
        format!("config --platform linux/amd64 {name}"),
        format!("sbom --platform linux/amd64 {name}"),
        format!("verify {name}"),
        "verify --all".to_owned(),
        format!("--quiet pull --platform all {name}"),
        format!("export --platform linux/amd64 {name}"),
        format!("export --format docker --platform linux/amd64 {name}"),
        format!("export --format filesystem --platform linux/amd64 {name}"),
        "gc --dry-run".to_owned(),
        "du".to_owned(),
    ];
    lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

/// Of a store of objects, credentials say who may read it.
#[test]
fn t99_every_way_to_read_works_on_a_directory_that_cannot_be_written() {
    let image = Image::build("linux/amd64").layer(Layer::random(1_000, 1)).finish();
    let index = Image::index(Format::Oci).image(&image).attestation(&image).finish();
    let registry = ScriptedRegistry::serving("team/app", "1", &index);
    let larder = Larder::new();
    let name = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "all", &name]);
    registry.clear_requests();

    let root = larder.home().parent().unwrap().to_owned();
    let program = root.join("larder");
    fs::copy(larder_tests::larder::binary(), &program).unwrap();
    for path in [&root, &larder.home(), &program] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let store = larder.store_path();
    let reads = reads(&name, &image.blob(0).digest);
    let lines = reads.iter().map(|arguments| arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let known: Vec<_> = lines.map(|arguments| (larder.ok(&arguments), arguments)).collect();
    let before = all_below(&store);
    let sealed = Sealed::new(&store);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let refused = run(&larder, &program, &["tag", &name, "registry.example.org/other:1"]);
    assert!(!refused.status.success(), "the directory can be written: {}", text(&refused.stdout));
    for (known, arguments) in known {
        let read = run(&larder, &program, &arguments);
        assert!(read.status.success(), "larder {}: {}", arguments.join(" "), text(&read.stderr));
        assert!(text(&read.stdout) == known, "larder {}", arguments.join(" "));
    }
    assert!(registry.requests().is_empty());
    drop(sealed);
    assert_eq!(all_below(&store), before);
}
