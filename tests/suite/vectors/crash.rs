//! T34: a process that is killed at any point of a pull leaves the old name or the new one, and nothing that does not hold.

use larder_tests::process::{Process, wait_for};
use larder_tests::scripted::{blob_path, manifest_path};
use larder_tests::{Behaviour, Gate, Image, Larder, ScriptedRegistry, Seaweed};

use super::stage::{LIMIT, Stage, image, on_both};

struct World {
    registry: ScriptedRegistry,
    larder: Larder,
    reference: String,
}

impl World {
    /// A cache that has `image`.
    fn with(larder: Larder, image: &Image) -> Self {
        let registry = ScriptedRegistry::serving("team/app", "1", image);
        let reference = registry.reference("team/app:1");
        larder.ok(&["pull", "--platform", "linux/amd64", &reference]);
        Self { registry, larder, reference }
    }

    fn pull(&self) -> Process {
        self.larder.spawn(&["pull", "--always", "--platform", "linux/amd64", &self.reference])
    }

    /// What the name points to; all that is visible is proven first.
    fn target(&self) -> String {
        self.larder.ok(&["verify", "--all"]);
        let named = self.larder.run(&["--json", "inspect", &self.reference]).expect_code(0).json();
        named["descriptor"]["digest"].as_str().unwrap().to_owned()
    }

    /// Kills a pull while the answer to its request for `path` stands still in the middle.
    fn kill_during(&self, path: &str) {
        let gate = Gate::new();
        self.registry.script(path, [Behaviour::Hold { after_bytes: 100, gate: gate.clone() }]);
        let mut pull = self.pull();
        gate.await_reached(1, LIMIT);
        pull.kill();
        gate.open();
    }

    /// Kills a pull of `image` as soon as everything was sent, while it is being stored, judged and named.
    fn kill_at_the_end(&self, image: &Image) {
        let last = image.blob(2);
        let mut pull = self.pull();
        let sent = || (self.registry.bytes_sent(&last.digest) == last.bytes.len() as u64).then_some(());
        wait_for("the last byte", LIMIT, sent, || pull.tail());
        pull.kill();
    }
}

/// An installation of the binary that works alone on the store of `stage`.
pub(crate) fn alone_on(stage: &Stage) -> Larder {
    let larder = Larder::new().store(&stage.config.store);
    let Some(endpoint) = &stage.config.s3.endpoint else {
        return larder;
    };
    larder
        .env("LARDER_S3__ENDPOINT", endpoint)
        .env("LARDER_S3__REGION", "us-east-1")
        .env("LARDER_S3__ACCESS_KEY_ID", Seaweed::ACCESS_KEY)
        .env("LARDER_S3__SECRET_ACCESS_KEY", Seaweed::SECRET_KEY)
}

#[test]
fn t34_pull_killed_at_any_point_leaves_the_old_name_or_the_new_one() {
    // The services of the stage have nothing to do here, so that it does not matter that their thread is blocked.
    on_both(async |stage| {
        let (old, new) = (Image::of_noise(1, 100_000), Image::of_noise(1, 300_000));
        let world = World::with(alone_on(stage), &old);
        world.registry.put("team/app", "1", &new);
        // Each finds what the one before has left.
        let blobs = new.blobs.iter().map(|blob| blob_path("team/app", &blob.digest));
        let manifest = manifest_path("team/app", &new.root.digest);
        for path in std::iter::once(manifest).chain(blobs) {
            world.kill_during(&path);
            assert_eq!(world.target(), old.root.digest, "{path}");
            stage.visible().await;
        }
        let mut target = old.root.digest;
        for seed in 1..=3 {
            let newer = image("linux/amd64", seed);
            world.registry.put("team/app", "1", &newer);
            world.kill_at_the_end(&newer);
            let found = world.target();
            assert!(found == target || found == newer.root.digest, "{found}");
            target = found;
            // This proves each blob that is visible, what no name reaches too.
            assert!(stage.visible().await.contains(&target));
        }
        world.registry.put("team/app", "1", &new);
        assert!(world.pull().wait(LIMIT).success());
        assert_eq!(world.target(), new.root.digest);
        stage.visible().await;
    });
}
