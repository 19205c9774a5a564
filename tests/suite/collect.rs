//! Collections beside those who write.

use std::time::Duration;

use larder_tests::process::Process;
use larder_tests::{Image, Larder, ScriptedRegistry};

/// How many write at the same time.
const WRITERS: u64 = 6;
const ROUNDS: usize = 2;

#[test]
fn collection_without_grace_beside_imports_of_other_processes_loses_nothing() {
    let images: Vec<Image> = (0..WRITERS).map(|seed| Image::of_noise(seed, 20_000)).collect();
    let source = Larder::new();
    let archives: Vec<String> = (0..WRITERS)
        .map(|place| {
            let image = &images[usize::try_from(place).unwrap()];
            let registry = ScriptedRegistry::serving("team/app", "1", image);
            let name = registry.reference("team/app:1");
            source.ok(&["pull", "--platform", "linux/amd64", &name]);
            let path = source.home().join(format!("{place}.tar")).display().to_string();
            let as_name = format!("registry.example.org/app:{place}");
            source.ok(&["export", "--platform", "linux/amd64", "--name", &as_name, "-o", &path, &name]);
            path
        })
        .collect();
    for _ in 0..ROUNDS {
        let larder = Larder::new();
        let mut imports: Vec<Process> = archives.iter().map(|path| larder.spawn(&["import", path])).collect();
        while imports.iter_mut().any(Process::is_running) {
            larder.ok(&["gc", "--grace", "0s"]);
        }
        for import in &mut imports {
            let status = import.wait(Duration::from_secs(1));
            assert!(status.success(), "{}", import.tail());
        }
        larder.ok(&["gc", "--grace", "0s"]);
        assert_eq!(larder.ok(&["ls"]).lines().count(), archives.len());
        larder.ok(&["verify", "--all"]);
    }
}

#[test]
fn name_with_a_digest_is_given_to_nothing_else() {
    let image = Image::of_noise(9, 20_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let larder = Larder::new();
    let name = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &name]);
    let path = larder.home().join("image.tar").display().to_string();
    larder.ok(&["export", "-o", &path, &name]);
    let other = format!("registry.example.org/app@sha256:{}", "0".repeat(64));
    let refused = larder.run(&["import", "--name", &other, &path]).expect_code(2);
    assert!(refused.stderr.contains("cannot be named"), "{}", refused.stderr);
    for arguments in [vec!["tag", &name, &other], vec!["push", "--remote-name", &other, &name]] {
        let refused = larder.run(&arguments).expect_code(2);
        assert!(refused.stderr.contains("digest"), "{}", refused.stderr);
    }
    assert_eq!(larder.ok(&["ls"]).lines().count(), 1);
}
