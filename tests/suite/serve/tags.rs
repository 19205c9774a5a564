//! What a tag points to: how long that counts, what is served while upstream is away, and what ends it.

use std::thread;

use larder_tests::client::Response;
use larder_tests::image::{Layer, sha256};
use larder_tests::process::wait_for;
use larder_tests::scripted::{ANY_PATH, blob_path, manifest_path};
use larder_tests::{Behaviour, Image, ScriptedRegistry};

use super::{LIMIT, OPEN, REPOSITORY, World, assert_refused, assert_whole, blob_at, tagged};

/// Upstream is asked each time.
const NEVER_FRESH: &str = "fresh_s = 0\nnegative_s = 0\nstale_after_s = 5\n";
/// Upstream is asked again while the test waits.
const SOON_OLD: &str = "fresh_s = 1\nnegative_s = 1\nstale_after_s = 5\n";

fn another(seed: u64) -> Image {
    Image::build("linux/amd64").layer(Layer::random(1000, seed)).finish()
}

/// Gets the tag until `is_enough` says so of an answer.
fn get_until(world: &World, what: &str, is_enough: impl Fn(&Response) -> bool) -> Response {
    let probe = || Some(world.get(&tagged())).filter(&is_enough);
    wait_for(what, LIMIT, probe, || world.get(&tagged()).text())
}

#[track_caller]
fn assert_stale(answer: &Response, image: &Image) {
    assert_whole(answer, &image.root);
    let age = answer.header("age").expect("an old answer tells its age");
    assert!(age.parse::<u64>().unwrap() < LIMIT.as_secs(), "{age}");
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("110 ")));
    assert_eq!(answer.header("larder-outcome"), Some("stale"));
}

#[test]
fn tag_costs_one_head_and_one_get_while_it_is_fresh_whoever_asks() {
    let world = World::start();
    let image = Image::small();
    world.put("1", &image);
    let host = world.host();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_whole(&super::get(&host, &tagged(), &[]), &image.root));
        }
    });
    world.put("1", &another(5));
    for method in ["GET", "HEAD"] {
        let answer = world.send(method, &tagged(), &[], &[]);
        assert_eq!(answer.header("docker-content-digest"), Some(image.root.digest.as_str()));
        assert_eq!(answer.header("larder-outcome"), Some("hit"));
    }
    let counts = ["HEAD", "GET"].map(|method| world.registry.count(method, ""));
    assert_eq!(counts, [1, 1], "{:?}", world.registry.requests());
}

#[test]
fn tag_that_has_not_moved_costs_one_head_when_it_is_no_longer_fresh() {
    let world = World::with(SOON_OLD, OPEN);
    let image = Image::small();
    world.put("1", &image);
    assert_eq!(world.get(&tagged()).header("larder-outcome"), Some("miss"));
    let again = get_until(&world, "the tag to be looked up again", |answer| {
        answer.header("larder-outcome") == Some("revalidated")
    });
    assert_whole(&again, &image.root);
    assert_eq!(again.header("warning"), None);
    for _ in 0..20 {
        assert_whole(&world.get(&tagged()), &image.root);
    }
    // It may have grown old again meanwhile.
    let heads = world.registry.count("HEAD", "");
    assert!((2..=5).contains(&heads), "{heads}");
    assert_eq!(world.registry.count("GET", ""), 1);
}

#[test]
fn tag_that_moved_is_served_moved_when_it_is_no_longer_fresh() {
    let world = World::with(SOON_OLD, OPEN);
    let (first, second) = (Image::small(), another(6));
    world.put("1", &first);
    assert_whole(&world.get(&tagged()), &first.root);
    world.put("1", &second);
    let moved = get_until(&world, "the tag to move", |answer| answer.body != first.root.bytes);
    assert_whole(&moved, &second.root);
    assert_whole(&world.get(&tagged()), &second.root);
    assert_eq!(world.registry.count("GET", ""), 2);
    // What it pointed to is still there by its digest, without a word to upstream.
    assert_whole(&world.get(&manifest_path(REPOSITORY, &first.root.digest)), &first.root);
    assert_eq!(world.registry.count("GET", ""), 2);
}

#[test]
fn name_that_was_pushed_is_never_overwritten_by_upstream() {
    let world = World::with(NEVER_FRESH, OPEN);
    let (theirs, ours) = (Image::small(), another(7));
    world.put("1", &theirs);
    assert_whole(&world.get(&tagged()), &theirs.root);
    world.push(REPOSITORY, "1", &ours, &[]);
    let asked = world.registry.requests().len();
    for _ in 0..3 {
        assert_whole(&world.get(&tagged()), &ours.root);
    }
    assert_eq!(world.registry.requests().len(), asked, "upstream was asked for a pushed name");
}

#[test]
fn tag_is_served_stale_while_upstream_is_away_and_fresh_when_it_is_back() {
    let world = World::with(SOON_OLD, OPEN);
    let image = Image::small();
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    for behaviour in [Behaviour::status(500), Behaviour::status(503), Behaviour::Close] {
        world.registry.always_method("HEAD", &tagged(), [behaviour.clone()]);
        world.registry.always(&tagged(), [behaviour]);
        let stale = get_until(&world, "a stale answer", |answer| answer.header("warning").is_some());
        assert_stale(&stale, &image);
        let head = world.send("HEAD", &tagged(), &[], &[]);
        assert_eq!((head.status, head.header("warning").is_some()), (200, true));
        world.registry.clear_scripts();
        let back = get_until(&world, "upstream to be believed", |answer| answer.header("warning").is_none());
        assert_whole(&back, &image.root);
        assert_eq!(back.header("age"), None);
    }
}

#[test]
fn f23_everything_that_is_stored_is_served_without_upstream() {
    let world = World::with(NEVER_FRESH, OPEN);
    let image = Image::small();
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    for position in 0..3 {
        assert_whole(&world.get(&blob_at(&image, position)), image.blob(position));
    }
    let World { service, larder, registry } = world;
    let host = service.address("listen");
    drop(registry);
    assert_stale(&super::get(&host, &tagged(), &[]), &image);
    let by_digest = super::get(&host, &manifest_path(REPOSITORY, &image.root.digest), &[]);
    assert_whole(&by_digest, &image.root);
    assert_eq!(by_digest.header("warning"), None, "what a digest names is never stale");
    assert_whole(&super::get(&host, &blob_at(&image, 2), &[]), image.blob(2));
    // And after a restart, when nothing is remembered.
    drop(service);
    let service = larder.serve(&[]);
    assert_stale(&super::get(&service.address("listen"), &tagged(), &[]), &image);
}

#[test]
fn what_was_never_seen_is_a_bad_gateway_and_not_absent_while_upstream_is_away() {
    let digest = sha256(b"never seen");
    let targets = [tagged(), manifest_path(REPOSITORY, &digest), blob_path(REPOSITORY, &digest)];
    for (behaviour, expected) in
        [(Behaviour::status(500), 502), (Behaviour::Close, 502), (Behaviour::status(401), 403)]
    {
        let world = World::with(NEVER_FRESH, "");
        world.put("1", &Image::small());
        for method in ["GET", "HEAD"] {
            world.registry.always_method(method, ANY_PATH, [behaviour.clone()]);
        }
        for (method, target) in targets.iter().flat_map(|target| [("GET", target), ("HEAD", target)]) {
            let answer = world.send(method, target, &[], &[]);
            assert_eq!(answer.status, expected, "{method} {target}: {}", answer.text());
        }
        // Who fails too often is left alone.
        assert!(expected == 403 || world.registry.requests().len() <= 6, "{:?}", world.registry.requests());
    }
    let World { service, larder: _larder, registry } = World::with(NEVER_FRESH, "");
    drop(registry);
    for target in targets {
        let answer = super::get(&service.address("listen"), &target, &[]);
        assert_eq!(answer.status, 502, "{target}: {}", answer.text());
    }
}

#[test]
fn who_may_push_is_told_by_head_that_nothing_is_here_while_upstream_is_away() {
    let world = World::with(NEVER_FRESH, OPEN);
    for method in ["GET", "HEAD"] {
        world.registry.always_method(method, ANY_PATH, [Behaviour::status(503)]);
    }
    let image = Image::small();
    for target in [tagged(), blob_at(&image, 1)] {
        let head = world.send("HEAD", &target, &[], &[]);
        assert_eq!((head.status, head.header("warning").is_some()), (404, true), "{target}");
        assert_eq!(world.get(&target).status, 502, "{target}");
    }
    world.push(REPOSITORY, "1", &image, &[]);
    assert_whole(&world.get(&tagged()), &image.root);
}

#[test]
fn upstream_that_falls_silent_is_a_bad_gateway_and_asked_again() {
    let world = World::at(ScriptedRegistry::start(), |larder, host| {
        let facade = super::settings(host, NEVER_FRESH, OPEN);
        larder.config(&facade.replace("[facade]", "read_timeout_ms = 300\n[facade]"))
    });
    let image = Image::small();
    world.put("1", &image);
    for _ in 0..2 {
        let stall = Behaviour::Stall { after_bytes: 10 };
        world.registry.script(&manifest_path(REPOSITORY, &image.root.digest), [stall]);
    }
    assert!(matches!(world.get(&tagged()).status, 502 | 504));
    assert_whole(&world.get(&tagged()), &image.root);
}

#[test]
fn f01_manifest_that_is_not_its_digest_is_a_bad_gateway_and_stored_nowhere() {
    let world = World::with(NEVER_FRESH, OPEN);
    let (image, other) = (Image::small(), another(8));
    world.put("1", &image);
    let by_digest = manifest_path(REPOSITORY, &image.root.digest);
    let lie = Behaviour::LieDigestHeader(image.root.digest.clone());
    world.registry.always(&by_digest, [Behaviour::Body(other.root.bytes.clone()), lie]);
    for target in [&by_digest, &tagged()] {
        assert_refused(&world.get(target), 502, "UNKNOWN");
    }
    assert!(world.larder.visible_blobs().is_empty());
    world.registry.clear_scripts();
    for target in [&by_digest, &tagged()] {
        assert_whole(&world.get(target), &image.root);
    }
}

#[test]
fn that_upstream_does_not_have_something_is_remembered_for_a_while_and_no_longer() {
    let world = World::with(SOON_OLD, OPEN);
    let image = Image::small();
    let targets = [tagged(), manifest_path(REPOSITORY, &image.root.digest), blob_at(&image, 1)];
    for (target, code) in targets.iter().zip(["MANIFEST_UNKNOWN", "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"]) {
        assert_refused(&world.get(target), 404, code);
    }
    world.put("1", &image);
    for target in &targets {
        wait_for("what is there now", LIMIT, || (world.get(target).status == 200).then_some(()), String::new);
    }
    let patient = World::with("negative_s = 3600\n", OPEN);
    for target in &targets {
        assert_eq!(patient.get(target).status, 404);
    }
    let asked = patient.registry.requests().len();
    patient.put("1", &image);
    for (target, method) in targets.iter().flat_map(|target| [(target, "GET"), (target, "HEAD")]) {
        assert_eq!(patient.send(method, target, &[], &[]).status, 404);
    }
    assert_eq!(patient.registry.requests().len(), asked);
    // What comes another way is not hidden by that.
    patient.push(REPOSITORY, "1", &image, &[]);
    for target in &targets {
        assert_eq!(patient.get(target).status, 200, "{target}");
    }
}

#[test]
fn tag_that_is_deleted_is_asked_for_upstream_again() {
    let world = World::start();
    let image = Image::small();
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    assert_eq!(world.send("DELETE", &tagged(), &[], &[]).status, 202);
    assert_whole(&world.get(&tagged()), &image.root);
    assert_eq!(world.registry.count("HEAD", &tagged()), 2);
    assert_eq!(world.registry.count("GET", ""), 1, "the manifest was here still");
    let by_digest = manifest_path(REPOSITORY, &image.root.digest);
    assert_eq!(world.send("DELETE", &by_digest, &[], &[]).status, 202);
    assert!(!world.is_stored(&image.root.digest));
    assert_whole(&world.get(&by_digest), &image.root);
    assert_eq!(world.registry.count("GET", ""), 2);
    world.registry.remove(REPOSITORY, "1");
    assert_refused(&world.get(&tagged()), 404, "MANIFEST_UNKNOWN");
}

#[test]
fn name_that_was_pushed_and_deleted_is_gone_at_once() {
    let world = World::start();
    let image = Image::small();
    world.push(REPOSITORY, "mine", &image, &[]);
    let (mine, by_digest) =
        (manifest_path(REPOSITORY, "mine"), manifest_path(REPOSITORY, &image.root.digest));
    assert_eq!(world.get(&mine).status, 200);
    assert_refused(&world.send("DELETE", &blob_at(&image, 1), &[], &[]), 405, "UNSUPPORTED");
    assert_eq!(world.send("DELETE", &by_digest, &[], &[]).status, 202);
    for target in [&mine, &by_digest] {
        assert_refused(&world.get(target), 404, "MANIFEST_UNKNOWN");
        assert_refused(&world.send("DELETE", target, &[], &[]), 404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(world.send("DELETE", &blob_at(&image, 1), &[], &[]).status, 202);
    assert_refused(&world.get(&blob_at(&image, 1)), 404, "BLOB_UNKNOWN");
}

#[test]
fn f19_upstream_that_limits_the_rate_is_left_alone_for_as_long_as_it_says() {
    let world = World::with(NEVER_FRESH, OPEN);
    let image = Image::small();
    world.put("1", &image);
    assert_whole(&world.get(&tagged()), &image.root);
    world.registry.clear_requests();
    for method in ["GET", "HEAD"] {
        let busy = Behaviour::retry_after(429, 3600);
        world.registry.always_method(method, ANY_PATH, [busy]);
    }
    for _ in 0..5 {
        assert_stale(&world.get(&tagged()), &image);
    }
    let other = world.get(&manifest_path(REPOSITORY, "2"));
    assert_refused(&other, 429, "TOOMANYREQUESTS");
    assert!(other.header("retry-after").is_some());
    assert_eq!(world.registry.requests().len(), 1, "{:?}", world.registry.requests());
}
