//! A real image, made on the spot from Debian's packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::tools;

/// The tag of the index in the layout.
pub const TAG: &str = "12";

/// Returns an OCI layout with one index for linux/amd64 and linux/arm64 under the tag [`TAG`].
///
/// It is made by `tests/make-debian-image.sh` once and kept; readers must not change it.
///
/// # Panics
/// Where the script fails: it needs Debian's package tools and umoci.
pub fn layout() -> PathBuf {
    static LAYOUT: OnceLock<PathBuf> = OnceLock::new();
    LAYOUT
        .get_or_init(|| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("make-debian-image.sh");
            PathBuf::from(tools::run(Command::new(script)).trim_end())
        })
        .clone()
}

/// Copies the image to `reference` (`host:port/name:tag`) with all its platforms, by skopeo.
///
/// # Panics
/// Where skopeo fails.
pub fn push_to(reference: &str) {
    let mut skopeo = tools::command("skopeo");
    skopeo.args(["copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
    skopeo.arg(format!("oci:{}:{TAG}", layout().display()));
    skopeo.arg(format!("docker://{reference}"));
    tools::run(skopeo);
}
