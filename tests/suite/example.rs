//! The example of the documentation, run.

#[expect(dead_code, reason = "its `main` is for the command line")]
#[path = "../../services/cli/examples/build_tool.rs"]
mod build_tool;

use std::fs;
use std::path::PathBuf;

use larder_oci::{Platform, Reference};
use larder_provider::Pushed;
use larder_tests::{DockerRegistry, Image};

use super::vectors::archive::{Tar, listed};
use super::vectors::stage::{self, Stage, digest, set};

/// Where BuildKit writes an image's full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Publishes `built` from a file, in which it is called `app` itself, as a builder would have it.
async fn publish(stage: &Stage, base: &Reference, built: &Image, app: &Reference) -> Pushed {
    let folder = tempfile::tempdir().unwrap();
    let archive: PathBuf = folder.path().join("app.tar");
    let named = listed(&built.root, &[(CONTAINERD_NAME, &app.name())]);
    fs::write(&archive, Tar::new().image(built).index(&[named]).finish()).unwrap();
    build_tool::publish(stage.cache(), base, &archive, app).await.unwrap()
}

#[test]
fn build_tool_publishes_beside_what_other_machines_have_published() {
    let registry = DockerRegistry::start();
    let base = stage::image(&Platform::host().to_string(), 1);
    registry.push("base", "12", &base);
    let base: Reference = registry.reference("base:12").parse().unwrap();
    stage::on_both(async |stage| {
        let mode = if stage.root().is_some() { "embedded" } else { "distributed" };
        let app: Reference = registry.reference(&format!("{mode}/app:1")).parse().unwrap();
        let (amd64, arm64) = (stage::image("linux/amd64", 2), stage::image("linux/arm64", 3));
        let first = publish(stage, &base, &amd64, &app).await;
        assert_eq!((first.to.name(), first.merged_from), (app.name(), None));
        // As on another machine, whose cache does not have the name.
        assert!(stage.cache().remove(&app.name()).await.unwrap());
        let second = publish(stage, &base, &arm64, &app).await;
        assert_eq!(second.merged_from, Some(first.root.digest));
        let both = set("linux/amd64,linux/arm64");
        assert!(stage.cache().image_in_registry(&app, &both).await.unwrap());
        // The first again: the registry has it, and the cache gets to the same index.
        let again = publish(stage, &base, &amd64, &app).await;
        assert_eq!((again.skipped, &again.root), (true, &second.root));
        assert_eq!(stage.target(&app.name()).await, Some(second.root.digest));
        let part = format!("{}-{}", app.name(), Platform::host().suffix());
        assert_eq!(stage.target(&part).await, Some(digest(&amd64.root)));
    });
}
