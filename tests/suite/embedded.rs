//! The main job in one process, on a directory.

mod layout;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use larder_tests::process::{Process, wait_for};
use larder_tests::scripted::blob_path;
use larder_tests::{Behaviour, DockerRegistry, Gate, Image, Larder, Layer, ScriptedRegistry, debian, tools};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

fn docker_registry_with_debian() -> DockerRegistry {
    let registry = DockerRegistry::start();
    debian::push_to(&registry.reference("debian:12"));
    registry
}

fn tool(name: &str, arguments: &[&str]) -> String {
    let mut command = tools::command(name);
    command.args(arguments);
    tools::run(command)
}

fn names(larder: &Larder) -> BTreeSet<String> {
    let listed = larder.run(&["--json", "ls"]).expect_code(0).json_lines();
    listed.iter().map(|name| name["name"].as_str().unwrap().to_owned()).collect()
}

/// The files below `ingest/`: what is on its way.
fn on_the_way(larder: &Larder) -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(larder.store_path().join("ingest")) else {
        return Vec::new();
    };
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().map_or(0, |file| file.len()))
    };
    entries.map(file).collect()
}

#[test]
fn real_image_goes_through_every_command_without_configuration() {
    let registry = docker_registry_with_debian();
    let larder = Larder::new();
    let name = registry.reference("debian:12");
    let run = |arguments: &[&str]| {
        let mut command = larder.command(arguments);
        command.env_remove("LARDER_STORE");
        tools::run(command)
    };
    run(&["pull", &name]);
    let store = larder.home().join(".cache/larder");
    assert!(store.join("oci-layout").is_file());
    assert_eq!(run(&["ls"]).split_whitespace().next(), Some(name.as_str()));

    let inspection: Value = serde_json::from_str(&run(&["--json", "inspect", &name])).unwrap();
    assert_eq!((&inspection["name"], &inspection["sparse"]), (&name.as_str().into(), &true.into()));
    let parts = inspection["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    let present = parts.iter().find(|part| part["present"] == true).unwrap();
    let config = present["blobs"][0]["digest"].as_str().unwrap();
    let config: Value = serde_json::from_str(&run(&["cat", config])).unwrap();
    assert_eq!(config["os"], "linux");
    assert!(run(&["inspect", &name]).contains("present"));

    let history: Value = serde_json::from_str(&run(&["--json", "history", &name])).unwrap();
    assert_eq!((&history["seq"], &history["origin"]), (&1.into(), &"pulled".into()));
    assert!(run(&["verify", &name]).starts_with("ok"));

    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("debian.tar").display().to_string();
    run(&["export", &name, "--name", "debian:12", "-o", &archive]);
    let bundle = out.path().join("bundle");
    let copied = out.path().join("copied").display().to_string();
    tool(
        "skopeo",
        &["copy", "--quiet", &format!("oci-archive:{archive}:debian:12"), &format!("oci:{copied}:12")],
    );
    tool("umoci", &["unpack", "--rootless", "--image", &format!("{copied}:12"), bundle.to_str().unwrap()]);
    assert!(bundle.join("rootfs/bin/bash").is_file());

    run(&["rm", &name]);
    assert_eq!(run(&["ls"]), "");
    assert_eq!(run(&["--json", "history", &name]).lines().count(), 2);
    let index: Value = serde_json::from_slice(&fs::read(store.join("index.json")).unwrap()).unwrap();
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(0));
}

#[test]
fn what_is_not_there_is_not_found() {
    let larder = Larder::new();
    let absent = format!("sha256:{}", "0".repeat(64));
    for arguments in [
        &["inspect", "debian:12"][..],
        &["history", "debian:12"],
        &["rm", "debian:12"],
        &["verify", "debian:12"],
        &["export", "debian:12"],
        &["cat", &absent],
        &["inspect", &format!("debian@{absent}")],
    ] {
        let refused = larder.run(arguments).expect_code(3);
        assert_eq!(refused.stdout, "", "{arguments:?}");
        assert!(refused.stderr.starts_with("larder: "), "{}", refused.stderr);
    }
    let _ = larder.run(&["cat", "sha256:no"]).expect_code(2);
    let _ = larder.run(&["inspect", "No/Reference"]).expect_code(2);
}

#[test]
fn processes_that_share_a_directory_share_every_fetch() {
    let registry = ScriptedRegistry::start();
    let base = Layer::random(300_000, 1);
    let images: Vec<Image> = (0..6)
        .map(|seed| {
            let own = Layer::random(50_000, 10 + seed);
            Image::build("linux/amd64").layer(base.clone()).layer(own).finish()
        })
        .collect();
    for (number, image) in images.iter().enumerate() {
        registry.put(&format!("team/app{number}"), "1", image);
    }
    // All of them are there before the shared layer is.
    let gate = Gate::new();
    let shared = images[0].blob(1).digest.clone();
    for number in 0..images.len() {
        let hold = Behaviour::Hold { after_bytes: 1_000, gate: gate.clone() };
        registry.always(&blob_path(&format!("team/app{number}"), &shared), [hold]);
    }
    let larder = Larder::new();
    let references: Vec<String> =
        (0..images.len()).map(|number| registry.reference(&format!("team/app{number}:1"))).collect();
    // Each image by two processes.
    let mut pulls: Vec<Process> = references
        .iter()
        .chain(&references)
        .map(|reference| larder.spawn(&["pull", "--platform", "linux/amd64", reference]))
        .collect();
    gate.await_reached(1, LIMIT);
    let own_layers =
        || images.iter().all(|image| larder.blob_path(&image.blob(2).digest).is_file()).then_some(());
    wait_for("the layers that are not held", LIMIT, own_layers, String::new);
    gate.open();
    for pull in &mut pulls {
        assert!(pull.wait(LIMIT).success(), "{}", pull.tail());
    }
    for blob in images.iter().flat_map(|image| &image.blobs) {
        assert_eq!(registry.count("GET", &blob.digest), 1, "{} is fetched once", blob.digest);
    }
    assert_eq!(names(&larder), references.into_iter().collect());
    assert_eq!(on_the_way(&larder), []);
    larder.assert_store_is_sound();
    larder.ok(&["verify", "--all"]);
}

/// A pull that stands in the middle of a layer: `stop` ends it, a second one goes on from there.
fn resumes_after(stop: impl Fn(&mut Process)) {
    const HELD_BYTES: u64 = 300_000;
    let image = Image::of_noise(2, 1_000_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let held = &image.blob(2).digest;
    let gate = Gate::new();
    let hold = Behaviour::Hold { after_bytes: HELD_BYTES, gate: gate.clone() };
    registry.script(&blob_path("team/app", held), [hold]);
    let larder = Larder::new();
    let reference = registry.reference("team/app:1");
    let mut first = larder.spawn(&["--json", "pull", "--platform", "linux/amd64", &reference]);
    gate.await_reached(1, LIMIT);
    let partial = || on_the_way(&larder).into_iter().find(|(_, bytes)| *bytes == HELD_BYTES);
    let (partial, _) = wait_for("what was received", LIMIT, partial, || format!("{:?}", on_the_way(&larder)));
    assert_eq!(partial.replacen('-', ":", 1), *held);
    let other = || larder.blob_path(&image.blob(1).digest).is_file().then_some(());
    wait_for("the other layer", LIMIT, other, String::new);
    stop(&mut first);
    assert_eq!(names(&larder), BTreeSet::new(), "no name before all is there");
    assert!(!larder.visible_blobs().contains(held));

    registry.clear_requests();
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    let requests = registry.requests();
    let blobs: Vec<_> = requests.iter().filter(|one| one.request.path.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 1, "what was stored is not fetched again");
    assert_eq!(blobs[0].request.header("range"), Some("bytes=300000-"));
    assert_eq!(blobs[0].status, 206);
    assert_eq!(on_the_way(&larder), []);
    larder.assert_store_is_sound();
    larder.ok(&["verify", "--all"]);
}

#[test]
fn pull_resumes_where_a_killed_one_stopped() {
    resumes_after(Process::kill);
}

#[test]
fn pull_resumes_where_an_interrupted_one_stopped() {
    resumes_after(|pull| {
        pull.interrupt();
        assert_eq!(pull.wait(Duration::from_secs(5)).code(), Some(130));
        let last = pull.stdout().lines().last().unwrap().to_owned();
        let last: Value = serde_json::from_str(&last).unwrap();
        assert_eq!((&last["event"], &last["kind"]), (&"failed".into(), &"interrupted".into()));
        assert!(pull.stderr().contains("interrupted"), "{}", pull.stderr());
    });
}

#[test]
fn verify_finds_damage_and_pull_repairs_what_is_visible_of_it() {
    let image = Image::of_noise(3, 100_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let larder = Larder::new();
    let reference = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    let (flipped, missing, short) = (image.blob(1), image.blob(2), image.blob(3));
    let mut bytes = flipped.bytes.to_vec();
    bytes[50_000] ^= 0x10;
    fs::write(larder.blob_path(&flipped.digest), &bytes).unwrap();
    fs::remove_file(larder.blob_path(&missing.digest)).unwrap();
    fs::write(larder.blob_path(&short.digest), &short.bytes[..99]).unwrap();

    let verdict = larder.run(&["--json", "verify", &reference]).expect_code(4);
    let lines = verdict.json_lines();
    let problems = lines[0]["problems"].as_array().unwrap();
    let about = |digest: &str| {
        let of = |problem: &&Value| problem.as_str().unwrap().contains(digest);
        problems.iter().filter(of).map(|problem| problem.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(about(&flipped.digest)[0].contains("corrupt"), "{problems:?}");
    assert!(about(&missing.digest)[0].contains("missing"), "{problems:?}");
    assert!(about(&short.digest)[0].contains("size"), "{problems:?}");
    assert_eq!(lines.last().unwrap()["kind"], "integrity");
    let text = larder.run(&["verify", "--all"]).expect_code(4);
    assert!(text.stdout.starts_with("BAD"), "{}", text.stdout);
    // A reader is not given the flipped byte as if it were good.
    let read = larder.run(&["cat", &flipped.digest]).expect_code(4);
    assert!(read.stdout.len() < bytes.len());

    registry.clear_requests();
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    let mut fetched: Vec<_> = registry.requests().iter().map(|one| one.request.path.clone()).collect();
    fetched.sort();
    let mut expected = [missing, short].map(|blob| blob_path("team/app", &blob.digest));
    expected.sort();
    assert_eq!(fetched, expected);
    fs::remove_file(larder.blob_path(&flipped.digest)).unwrap();
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    larder.ok(&["verify", "--all"]);
}

#[test]
fn many_references_are_pulled_and_each_failure_is_told() {
    let registry = ScriptedRegistry::serving("team/app", "1", &Image::small());
    let larder = Larder::new();
    let (good, bad) = (registry.reference("team/app:1"), registry.reference("team/none:1"));
    let run = larder.run(&["--json", "pull", "--platform", "linux/amd64", &bad, &good]).expect_code(3);
    let events: Vec<_> = run.json_lines().iter().map(|line| line["event"].clone()).collect();
    assert!(events.contains(&"pulled".into()) && events.contains(&"failed".into()), "{}", run.stdout);
    assert_eq!(names(&larder), BTreeSet::from([good]));
}

#[test]
fn progress_is_json_lines_bars_or_nothing() {
    let image = Image::of_noise(2, 400_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    for layer in &image.blobs[1..] {
        let drip = Behaviour::Drip { bytes_per_s: 800_000 };
        registry.always(&blob_path("team/app", &layer.digest), [drip]);
    }
    let reference = registry.reference("team/app:1");
    let pull = |first: &str| [first, "pull", "--platform", "linux/amd64", &reference].map(str::to_owned);

    let lines = Larder::new().run(&pull("--json").each_ref().map(String::as_str)).expect_code(0);
    assert_eq!(lines.stderr, "");
    let lines = lines.json_lines();
    let (last, progress) = lines.split_last().unwrap();
    assert_eq!((&last["event"], &last["outcome"]), (&"pulled".into(), &"pulled".into()));
    assert_eq!(last["reference"], reference.as_str());
    assert_eq!((&last["blobs"], &last["bytes"]), (&4.into(), &image.size_bytes().into()));
    assert_eq!((&last["fetched_blobs"], &last["fetched_bytes"]), (&4.into(), &image.size_bytes().into()));
    for blob in &image.blobs {
        let of = |line: &&Value| line["event"] == "progress" && line["digest"] == blob.digest.as_str();
        let of_blob: Vec<&Value> = progress.iter().filter(of).collect();
        let received: Vec<_> = of_blob.iter().map(|line| line["received_bytes"].as_u64().unwrap()).collect();
        assert!(received.is_sorted(), "{received:?}");
        assert_eq!(received.last().copied(), Some(blob.bytes.len() as u64));
        assert_eq!(of_blob.last().unwrap()["stored"], true);
        assert!(of_blob.iter().all(|line| line["size"] == blob.bytes.len()));
        if blob.bytes.len() > 100_000 {
            assert!(received.len() > 3, "half a second of progress: {received:?}");
        }
    }

    let quiet = Larder::new().run(&pull("--quiet").each_ref().map(String::as_str)).expect_code(0);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, format!("{reference}  {}\n", image.root.digest), "only the result");

    let larder = Larder::new();
    let on_terminal = larder.command(&[]);
    let mut script = Command::new("script");
    script
        .env_clear()
        .current_dir(larder.home())
        .env("TERM", "xterm")
        .env("PATH", std::env::var("PATH").unwrap());
    script.envs(on_terminal.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let shown =
        format!("{} pull --platform linux/amd64 {reference}", larder_tests::larder::binary().display());
    script.args(["-qec", &shown, "/dev/null"]);
    let shown = tools::run(script);
    assert!(shown.contains("total"), "{shown}");
    assert!(shown.contains(&image.blob(1).digest[7..19]), "{shown}");
}
