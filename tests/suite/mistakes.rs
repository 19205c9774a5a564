//! What a person gets who makes a mistake, or whose store has gone bad.

use std::fs;

use larder_tests::{Image, Larder, ScriptedRegistry};

#[test]
fn damage_outweighs_a_name_that_is_not_there() {
    let image = Image::of_noise(1, 50_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let larder = Larder::new();
    let reference = registry.reference("team/app:1");
    larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
    let layer = image.blob(1);
    let mut bytes = layer.bytes.to_vec();
    bytes[7] ^= 1;
    fs::write(larder.blob_path(&layer.digest), &bytes).unwrap();
    for names in [["nope:1", &reference], [&reference, "nope:1"]] {
        let told = larder.run(&["verify", names[0], names[1]]).expect_code(4);
        assert!(
            told.stdout.contains("BAD") && told.stderr.contains("nope:1"),
            "{}{}",
            told.stdout,
            told.stderr
        );
    }
}

#[test]
fn quiet_means_no_progress_for_programs_too() {
    let image = Image::of_noise(2, 50_000);
    let registry = ScriptedRegistry::serving("team/app", "1", &image);
    let larder = Larder::new();
    let pulled = larder.ok(&[
        "--json",
        "--quiet",
        "pull",
        "--platform",
        "linux/amd64",
        &registry.reference("team/app:1"),
    ]);
    assert_eq!(pulled.lines().count(), 1, "{pulled}");
}

#[test]
fn setting_with_which_nothing_would_happen_is_refused() {
    let larder = Larder::new().env("LARDER_FETCHER__BLOBS_IN_FLIGHT_MAX", "0");
    let refused = larder.run(&["ls"]).expect_code(2);
    assert!(refused.stderr.contains("fetcher.blobs_in_flight_max"), "{}", refused.stderr);
}

#[test]
fn secret_of_digits_is_taken_and_never_shown() {
    let larder = Larder::new()
        .env("LARDER_S3__SECRET_ACCESS_KEY", "00123456789012345678")
        .env("LARDER_S3__ACCESS_KEY_ID", "12345")
        .env("LARDER_S3__ENDPOINT", "127.0.0.1:8333");
    larder.ok(&["ls"]);
    let refused = larder.run(&["--store", "s3://images", "ls"]).expect_code(2);
    assert!(refused.stderr.contains("s3.endpoint"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("123456789"), "{}", refused.stderr);
}
