//! Registries that are busy, slow, compressed, or change their mind.
//!
//! Each test is one pull, whose tries are bounded per request and spread by jitter. That hosts which fail or say so are left
//! alone for longer than that is for whoever stays: `larder_registry`'s `opens_after_failures_in_a_row_and_closes_when_one_request_succeeds`,
//! and the suite's `serve::tags` and `serve::farm`. `larder_registry`'s `waits_grow_stay_below_the_cap_and_end` and
//! `sleeps_as_long_as_the_registry_asks` cover what takes longer than a test may.

use std::fs;
use std::time::Duration;

use larder_tests::image::Layer;
use larder_tests::{Behaviour, Gate, Image};

use super::{METHODS, REPOSITORY, Scene, tagged};

#[test]
fn f19_storm_of_429_and_5xx_ends_after_a_bounded_number_of_tries() {
    for (code, says) in [(429, "limits the rate"), (500, "500"), (502, "502"), (503, "503"), (504, "504")] {
        for methods in [&[][..], METHODS[0], METHODS[1]] {
            let scene = Scene::small().retries(3);
            scene.always_of_manifest(methods, &[Behaviour::status(code)]);
            if methods.is_empty() {
                scene.registry.always(&scene.blob(2), [Behaviour::status(code)]);
            }
            let finished = scene.fails(1, &[says]);
            let requests = scene.registry.requests();
            assert_eq!(requests.iter().filter(|one| one.status == code).count(), 4, "{code}");
            assert!(finished.elapsed < Duration::from_secs(5));
        }
    }
}

#[test]
fn f19_short_storm_is_ridden_out() {
    let scene = Scene::small().retries(3);
    for code in [429, 500, 503] {
        for path in [tagged(), scene.pinned(), scene.blob(2)] {
            for method in ["HEAD", "GET"] {
                scene.registry.script_method(method, &path, [Behaviour::status(code)]);
            }
        }
    }
    scene.succeeds();
    let requests = scene.registry.requests();
    let stormy = |part: &str| {
        let of_part = requests.iter().filter(|one| one.request.path.contains(part));
        of_part.filter(|one| one.status >= 400).count()
    };
    assert_eq!(stormy(&scene.blob(2)), 3);
    assert_eq!((stormy(&tagged()), stormy(&scene.pinned())), (3, 3));
}

#[test]
fn f19_answer_that_is_no_use_to_repeat_is_final() {
    for (code, exit) in [(400, 1), (403, 1), (404, 3), (405, 1), (410, 1), (451, 1), (501, 1)] {
        let scene = Scene::small();
        let reason = r#"{"errors":[{"code":"DENIED","message":"not\u001b[31m today"}]}"#;
        let behaviour = Behaviour::Status { code, headers: Vec::new(), body: reason.into() };
        scene.always_of_manifest(METHODS[0], std::slice::from_ref(&behaviour));
        let finished = scene.fails_without_a_trace(exit, &[]);
        assert_final(&scene, code);
        if code == 403 {
            assert!(finished.stderr.contains("[31m today"), "{}", finished.stderr);
        }
        // Nor is it of a tag that is known, which is asked for in another way.
        let scene = Scene::small();
        scene.succeeds();
        scene.registry.clear_requests();
        scene.always_of_manifest(METHODS[0], &[behaviour]);
        let _ = scene.pull_with(&["--always"]).expect_code(exit);
        assert_final(&scene, code);
        assert!(!finished.stderr.contains('\u{1b}'), "a registry controls the terminal");
    }
}

/// Expects that a refusal was asked for once by each method, for only the answer to a GET has words; that there is nothing needs none.
#[track_caller]
fn assert_final(scene: &Scene, code: u16) {
    let asked = (scene.registry.count("HEAD", ""), scene.registry.count("GET", ""));
    assert_eq!(asked, (1, usize::from(code != 404)), "{code}");
    let requests = scene.registry.requests();
    assert!(requests.iter().all(|one| one.request.path == tagged()), "{code}");
}

#[test]
fn f19_error_page_without_end_is_not_read_to_its_end() {
    let scene = Scene::small();
    let page = vec![b'x'; 32 << 20];
    scene.always_of_manifest(
        METHODS[0],
        &[Behaviour::Status { code: 403, headers: Vec::new(), body: page.into() }],
    );
    let finished = scene.fails_without_a_trace(1, &["denies access"]);
    assert!(scene.registry.bytes_sent("") < 16 << 20);
    assert!(finished.stderr.len() < 2000);
}

#[test]
fn f20_blob_that_drips_is_given_up_and_resumed() {
    let quick = "rate_floor_window_s = 1\nrate_floor_bytes_per_s = 10000\n";
    let scene = Scene::of(Image::of_noise(1, 50_000)).config(quick);
    scene.registry.always(&scene.blob(1), [Behaviour::Drip { bytes_per_s: 400 }]);
    let finished = scene.fails(1, &["less than 10000 bytes per second"]);
    assert!(finished.elapsed < Duration::from_secs(15));
    scene.assert_hidden(1);
    scene.recovers();
}

#[test]
fn f20_silence_in_the_middle_is_a_cut() {
    let quick = "read_timeout_ms = 300\n";
    let scene = Scene::of(Image::of_noise(1, 50_000)).config(quick);
    scene.registry.script(&scene.blob(1), [Behaviour::Stall { after_bytes: 20_000 }]);
    scene.succeeds();
    assert_eq!(scene.ranges(1), [None, Some("bytes=20000-".to_owned())]);
    let scene = Scene::small().config(quick);
    scene.always_of_manifest(METHODS[0], &[Behaviour::Stall { after_bytes: 10 }]);
    scene.fails_without_a_trace(1, &["silent"]);
}

#[test]
fn f21_encoded_answers_are_neither_asked_for_nor_inflated() {
    let bomb = Behaviour::GzipBomb { inflated_bytes: 8 << 20 };
    for behaviour in
        [bomb, Behaviour::ContentEncoding, Behaviour::Header("Content-Encoding", "br".to_owned())]
    {
        for of_blob in [false, true] {
            let scene = Scene::small();
            if of_blob {
                scene.registry.always(&scene.blob(2), [behaviour.clone()]);
            } else {
                scene.always_of_manifest(METHODS[0], std::slice::from_ref(&behaviour));
            }
            let finished = scene.pull();
            // The declared length betrays the blob before its encoding does.
            assert!(matches!(finished.code, Some(1 | 4)), "{}", finished.stderr);
            let says = ["content encoding", "declared"];
            assert!(says.iter().any(|word| finished.stderr.contains(word)), "{}", finished.stderr);
            assert!(finished.rss_peak_bytes < 64 << 20);
            scene.assert_hidden(2);
            for exchange in scene.registry.requests() {
                assert_eq!(exchange.request.header("accept-encoding"), Some("identity"));
            }
        }
    }
}

#[test]
fn f22_pull_stays_with_what_the_tag_named_when_it_began() {
    let scene = Scene::small();
    let gate = Gate::new();
    scene.registry.script(&scene.blob(0), [Behaviour::Hold { after_bytes: 10, gate: gate.clone() }]);
    let later = Image::build("linux/amd64").layer(Layer::random(5000, 77)).finish();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            gate.await_reached(1, Duration::from_secs(20));
            scene.registry.put(REPOSITORY, "1", &later);
            gate.open();
        });
        scene.succeeds();
    });
    let requests = scene.registry.requests();
    let of_tag = requests.iter().filter(|one| one.request.path == tagged());
    assert_eq!(of_tag.count(), 1, "the tag was resolved twice");
    assert!(scene.larder.ok(&["ls"]).contains(&scene.image.root.digest));
    assert!(!scene.larder.blob_path(&later.root.digest).exists());
}

#[test]
fn f22_tag_that_moves_between_head_and_get_is_what_the_head_said() {
    let mut scene = Scene::small();
    scene.succeeds();
    let between = Image::build("linux/amd64").layer(Layer::random(5000, 75)).finish();
    let last = Image::build("linux/amd64").layer(Layer::random(5000, 76)).finish();
    for image in [&between, &last] {
        scene.registry.put(REPOSITORY, "1", image);
    }
    let early = Behaviour::LieDigestHeader(between.root.digest.clone());
    scene.registry.script_method("HEAD", &tagged(), [early]);
    let _ = scene.pull_with(&["--always"]).expect_code(0);
    scene.image = between;
    scene.assert_whole();
    assert!(scene.larder.ok(&["ls"]).contains(&scene.image.root.digest));
    assert!(!scene.larder.blob_path(&last.root.digest).exists());
    // The next one sees where it has moved to.
    let _ = scene.pull_with(&["--always"]).expect_code(0);
    scene.image = last;
    scene.assert_whole();
    assert!(scene.larder.ok(&["ls"]).contains(&scene.image.root.digest));
}

#[test]
fn f22_tag_that_moves_on_from_what_the_head_said_and_is_gone_is_what_the_get_said() {
    let mut scene = Scene::small();
    scene.succeeds();
    scene.registry.clear_requests();
    let between = Image::build("linux/amd64").layer(Layer::random(5000, 78)).finish();
    let last = Image::build("linux/amd64").layer(Layer::random(5000, 79)).finish();
    scene.registry.put(REPOSITORY, "1", &last);
    let lie = Behaviour::LieDigestHeader(between.root.digest.clone());
    scene.registry.script_method("HEAD", &tagged(), [lie]);
    let _ = scene.pull_with(&["--always"]).expect_code(0);
    assert_eq!(scene.registry.count("HEAD", &tagged()), 1);
    scene.image = last;
    scene.assert_whole();
    assert!(scene.larder.ok(&["ls"]).contains(&scene.image.root.digest));
    assert!(!scene.larder.blob_path(&between.root.digest).exists());
}

#[test]
fn f22_head_that_lies_about_a_cached_tag_changes_nothing_cached() {
    let scene = Scene::small();
    scene.succeeds();
    let before = scene.larder.ok(&["ls"]);
    let garbage = Behaviour::LieDigestHeader("sha256:../x".to_owned());
    for behaviour in [garbage, Behaviour::NoDigestHeader] {
        scene.registry.script_method("HEAD", &tagged(), [behaviour]);
        let _ = scene.pull_with(&["--always"]).expect_code(0);
        assert_eq!(scene.larder.ok(&["ls"]), before);
    }
    scene.registry.always_method("HEAD", &tagged(), [Behaviour::status(500)]);
    let _ = scene.pull_with(&["--always"]).expect_code(1);
    assert_eq!(scene.larder.ok(&["ls"]), before, "an upstream that is down took the name along");
    assert!(fs::exists(scene.larder.blob_path(&scene.image.root.digest)).unwrap());
}
