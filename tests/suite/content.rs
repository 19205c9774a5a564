//! containerd's content service, as containerd's own client sees it; the tests themselves are Go, in `tests/containerd`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use larder_tests::{Larder, Seaweed, Service, tools};

const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the Go tests against two processes on one store, of which `writable` may be written to.
fn run(writable: &Service, read_only: &Service, skipped: &str) {
    let there = Command::new("go").arg("version").output().is_ok_and(|output| output.status.success());
    assert!(there, "go is not here: containerd's client is written in it; install Go 1.25 or newer");
    let mut go = Command::new("go");
    go.args(["test", "-count=1", "-timeout=10m", "-skip", skipped, "./..."]);
    go.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("containerd"));
    if let Some(root) = std::env::var_os("LARDER_TOOLS") {
        // Where tests/tools.sh has Go keep the rest.
        let root = Path::new(&root);
        go.env("GOPATH", root.join("go")).env("GOCACHE", root.join("go-cache")).env("GOFLAGS", "-modcacherw");
    }
    go.env("LARDER_CONTENT", writable.address("content"));
    go.env("LARDER_CONTENT_READ_ONLY", read_only.address("content"));
    let told = tools::run(go);
    assert!(told.starts_with("ok"), "{told}");
}

#[test]
fn containerd_finds_its_own_store_in_a_directory() {
    let larder = Larder::new().env("LARDER_CONTENT__WRITABLE", "true");
    let other = Larder::new().store(&format!("file://{}", larder.store_path().display()));
    let (writable, read_only) = (larder.serve(&[]), other.serve(&[]));
    run(&writable, &read_only, "^$");
    assert!(writable.stop(STOP_LIMIT).success());
    // Nothing is left of what was written, and what was committed holds.
    other.ok(&["verify", "--all"]);
}

#[test]
fn containerd_finds_its_calls_answered_from_object_storage() {
    let seaweed = Seaweed::start();
    let on_objects = || Larder::new().store(&seaweed.url()).envs(seaweed.environment());
    let (larder, other) = (on_objects().env("LARDER_CONTENT__WRITABLE", "true"), on_objects());
    let (writable, read_only) = (larder.serve(&[]), other.serve(&[]));
    // That suite compares times to the nanosecond, and an object store has seconds.
    run(&writable, &read_only, "^TestContainerdsOwnSuite$");
}

#[test]
fn content_service_listens_where_this_machine_alone_reaches_it() {
    let larder = Larder::new();
    for address in ["0.0.0.0:0", "[::]:0", "unix://content.sock", "content"] {
        let refused = larder.run(&["serve", "--content-listen", address]).expect_code(2);
        assert!(
            refused.stderr.contains("loopback") || refused.stderr.contains("unix://"),
            "{}",
            refused.stderr
        );
    }
}
