//! Other people's programs, as `tests/tools.sh` installs them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Begins a command that runs the tool `name`: the one below `target/tools`, else the one on `PATH`.
///
/// The first comes first because a distribution's own nats-server may be too old to be tested against.
pub fn command(name: &str) -> Command {
    let candidates = folders().map(|folder| folder.join(name));
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Command::new(path),
        None => Command::new(name),
    }
}

/// Returns a `PATH` that finds the same tools.
///
/// # Panics
/// Where a folder cannot be part of a `PATH`.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(folders().into_iter().chain(std::env::split_paths(&path)))
        .expect("the tools' folders have no colon in their names")
}

/// Runs a tool that must succeed; returns what it wrote to stdout.
///
/// # Panics
/// Where it cannot be started or fails.
pub fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot start {command:?} ({error}): tests/tools.sh installs the tools")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn folders() -> [PathBuf; 2] {
    let root = std::env::var_os("LARDER_TOOLS").map_or_else(beside_this_test, PathBuf::from);
    ["py/bin", "go-bin"].map(|folder| root.join(folder))
}

fn beside_this_test() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("a test lies in TARGET/PROFILE/deps");
    target.join("tools")
}
