//! The conformance suite of the OCI distribution specification.

use std::time::Duration;

use crate::process::Process;
use crate::tools;

const LIMIT: Duration = Duration::from_mins(4);
/// How the name of everything that is tested begins.
const NAME: &str = "OCI Conformance Test";
/// What the specification lets a registry refuse, and larder refuses: a manifest of which parts are missing.
const LEFT_OUT: &str = "Sparse Manifests";

/// What the suite found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many of its tests passed.
    pub passed: usize,
    /// The tests that did not, each with the suite's own words, and the parts of the specification that were left out.
    pub complaints: Vec<String>,
}

/// Runs the whole suite against the registry at `host` (`host:port`, plain HTTP), which must let anybody push and delete.
///
/// All that the specification leaves to a registry is expected of it too, and what is not released of it yet.
///
/// # Panics
/// Where the suite cannot be run.
pub fn check(host: &str) -> Verdict {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let mut command = tools::command("conformance");
    command.env_clear().current_dir(directory.path());
    command.envs([
        ("OCI_REGISTRY", host),
        ("OCI_TLS", "disabled"),
        ("OCI_VERSION", "dev"),
        ("OCI_RESULTS_DIR", "results"),
        ("OCI_LOG", "error"),
    ]);
    let mut process = Process::spawn("conformance", command, directory.path());
    let status = process.wait(LIMIT);
    let report = process.stdout();
    let verdict = read(&report);
    assert!(
        status.success() || !verdict.complaints.is_empty(),
        "the conformance suite says nothing\n{}",
        process.tail()
    );
    verdict
}

/// Reads the suite's report: a tree of tests, each with its outcome behind it and what was wrong below it; then tables of the
/// interfaces and the kinds of data, which show what was left out. A test that is skipped elsewhere found the registry doing
/// another thing that is allowed.
fn read(report: &str) -> Verdict {
    let mut verdict = Verdict::default();
    let mut complaint: Option<String> = None;
    let (tree, tables) = report.split_once("\nConfiguration:").unwrap_or((report, ""));
    for line in tree.lines() {
        match line.trim().strip_prefix(NAME).and_then(|rest| rest.rsplit_once(": ")) {
            Some((name, outcome)) => {
                // A test that has tests of its own says nothing itself.
                verdict.complaints.extend(complaint.take().filter(|text| text.contains('\n')));
                complaint = ["FAIL", "Error"].contains(&outcome).then(|| format!("{outcome} {name}"));
                verdict.passed += usize::from(outcome == "Pass");
            }
            None => {
                if let Some(complaint) = &mut complaint {
                    complaint.push('\n');
                    complaint.push_str(line);
                }
            }
        }
    }
    verdict.complaints.extend(complaint.filter(|text| text.contains('\n')));
    let outcomes = ["Skip", "FAIL", "Error", "Disabled", "Unknown"];
    let rows = tables.lines().skip_while(|line| !line.starts_with("API conformance"));
    let is_left_out = |row: &&str| outcomes.iter().any(|outcome| row.ends_with(outcome));
    let rows = rows.filter(is_left_out).filter(|row| !row.contains(LEFT_OUT));
    verdict.complaints.extend(rows.map(str::to_owned));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_or_was_left_out_is_told_with_its_reason() {
        let report = "Test results\n\
             OCI Conformance Test: FAIL\n  OCI Conformance Test/blobs: FAIL\n    OCI Conformance Test/blobs/get: FAIL\n     \
             - not there\nstatus: 404\n    OCI Conformance Test/blobs/head: Pass\n    OCI Conformance Test/blobs/part: Skip\n     - whole\n\
             \nConfiguration:\n  registry: r\nOCI Conformance Result: FAIL\n  Pass....: 1\n\
             API conformance:\n  Ping....:  Pass\n  Tag delete....:  Skip\n\
             Data conformance:\n  Sparse Manifests..:  Disabled\n";
        let verdict = read(report);
        assert_eq!(verdict.passed, 1);
        assert_eq!(
            verdict.complaints,
            ["FAIL /blobs/get\n     - not there\nstatus: 404", "  Tag delete....:  Skip"]
        );
    }
}
