//! Other people's clients of registries, each with nothing of the user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, await_server};
use crate::tools;

const RUN_LIMIT: Duration = Duration::from_mins(2);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// What stands for the machine's own configuration at a desk: a folder of the machine and its like here.
const FOLDERS: [(&str, &str); 2] =
    [("/etc/containers", "home/.config/containers"), ("/etc/containerd", "etc/containerd")];

/// A home and a working directory, in which a user's files lie and his commands run.
#[derive(Debug)]
pub struct Desk {
    directory: TempDir,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// Makes an empty one.
    pub fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().expect("a temporary directory can be made") };
        for folder in ["home", "run", "work"] {
            fs::create_dir(desk.path().join(folder)).expect("a directory can be made");
        }
        // The file system here need not be one that layers can be stacked on.
        let own = |name: &str| desk.path().join(name).display().to_string();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            own("storage"),
            own("run/storage")
        );
        fs::write(desk.path().join("storage.conf"), storage).expect("a file can be written");
        desk
    }

    /// Writes `text` where it has the effect here that it has on a machine at `path`; a relative path is one of the working directory.
    pub fn write(&self, path: &str, text: &str) {
        let place = self.work().join(self.here(path));
        fs::create_dir_all(place.parent().expect("a file lies in a folder"))
            .expect("a directory can be made");
        fs::write(place, self.here(text)).expect("a file can be written");
    }

    /// Returns the working directory.
    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    /// Runs `script` by `sh` to its end; returns what it wrote to stdout.
    ///
    /// # Panics
    /// Where a command of it fails, or it takes longer than two minutes.
    pub fn run(&self, script: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-eu", "-c", &self.here(script)]).current_dir(self.work());
        self.equip(&mut shell);
        let mut process = Process::spawn("script", shell, self.path());
        let status = process.wait(RUN_LIMIT);
        assert!(status.success(), "{script}\n{status}\n{}", process.tail());
        process.stdout()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("run/containerd.sock")
    }

    /// The same text with the folders of this desk for those of the machine.
    fn here(&self, text: &str) -> String {
        let replace = |text: String, (theirs, ours): (&str, &str)| {
            text.replace(theirs, &self.path().join(ours).display().to_string())
        };
        FOLDERS.into_iter().fold(text.to_owned(), replace)
    }

    fn equip(&self, command: &mut Command) {
        command.env_clear().env("PATH", tools::search_path());
        let places = [
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("TMPDIR", "run"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
            ("CONTAINERD_ADDRESS", "run/containerd.sock"),
        ];
        command.envs(places.map(|(name, place)| (name, self.path().join(place))));
        // What needs no privileges where there is a choice.
        command.envs([("BUILDAH_ISOLATION", "chroot"), ("CONTAINERD_SNAPSHOTTER", "native")]);
    }
}

/// A containerd of its own, which `ctr` at the same desk talks to.
#[derive(Debug)]
pub struct Containerd {
    _process: Process,
}

impl Containerd {
    /// Starts one with `settings`, a configuration file that names no places.
    pub fn start(desk: &Desk, settings: &str) -> Self {
        let own = |name: &str| desk.path().join(name).display().to_string();
        let settings = format!(
            "root = \"{}\"\nstate = \"{}\"\n{}\n[grpc]\naddress = \"{}\"\n",
            own("containerd"),
            own("run/containerd"),
            desk.here(settings),
            desk.socket().display()
        );
        let file = desk.path().join("containerd.toml");
        fs::write(&file, settings).expect("a file can be written");
        let mut command = tools::command("containerd");
        desk.equip(&mut command);
        command.arg("--config").arg(file);
        let mut process = Process::spawn("containerd", command, desk.path());
        await_server(&mut process, READY_LIMIT, || {
            let mut version = tools::command("ctr");
            desk.equip(&mut version);
            version.args(["version"]).output().is_ok_and(|output| output.status.success())
        });
        Self { _process: process }
    }
}
