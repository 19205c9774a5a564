//! Debian's docker-registry.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::client;
use crate::image::Image;
use crate::ports;
use crate::process::{Process, await_server};
use crate::tools;

const READY_LIMIT: Duration = Duration::from_secs(20);

/// A docker-registry of its own on loopback, plain HTTP, storing in a directory of its own.
#[derive(Debug)]
pub struct DockerRegistry {
    process: Option<Process>,
    port: u16,
    directory: TempDir,
}

impl DockerRegistry {
    /// Starts an empty registry.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a pull-through cache of the registry at `upstream` (`http://host:port`).
    pub fn start_proxy(upstream: &str) -> Self {
        Self::start_with(&format!("proxy:\n  remoteurl: {upstream}\n"))
    }

    /// Starts a registry with `extra` (YAML at the top level) added to its configuration.
    pub fn start_with(extra: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let port = ports::free();
        let configuration = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  delete:\n    enabled: true\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{extra}",
            directory.path().join("storage").display(),
        );
        fs::write(directory.path().join("registry.yml"), configuration)
            .expect("the configuration can be written");
        let mut registry = Self { process: None, port, directory };
        registry.restart();
        registry
    }

    /// Returns `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns `name` (such as `debian:12`) as a reference into this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Returns the directory in which the registry keeps what it was given.
    pub fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    /// Kills the registry without warning.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a killed registry again, on the same port and directory; a running one is killed first.
    pub fn restart(&mut self) {
        self.kill();
        let mut command = tools::command("docker-registry");
        command.arg("serve").arg(self.directory.path().join("registry.yml"));
        let mut process = Process::spawn("docker-registry", command, self.directory.path());
        await_server(&mut process, READY_LIMIT, || {
            client::get(&self.host(), "/v2/").is_ok_and(|answer| answer.status == 200)
        });
        self.process = Some(process);
    }

    /// Returns how often the access log shows `method` for a path that contains `part`.
    ///
    /// # Panics
    /// Where the registry was killed.
    pub fn requests(&self, method: &str, part: &str) -> usize {
        let process = self.process.as_ref().expect("docker-registry runs");
        let start = format!("\"{method} ");
        let logged = process.stdout();
        let hit = |line: &&str| {
            line.split_once(&start)
                .is_some_and(|(_, rest)| rest.split(' ').next().is_some_and(|path| path.contains(part)))
        };
        logged.lines().filter(hit).count()
    }

    /// Uploads `image` to `repository`, under `tag` and under its digests.
    ///
    /// # Panics
    /// Where the registry refuses a part of it.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in &image.blobs {
            self.push_blob(repository, &blob.digest, &blob.bytes);
        }
        for manifest in &image.manifests {
            self.push_manifest(repository, &manifest.digest, &manifest.media_type, &manifest.bytes);
        }
        self.push_manifest(repository, tag, &image.root.media_type, &image.root.bytes);
    }

    fn push_blob(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let answer = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], &[]);
        let location = answer.header("location").expect("an upload has a location");
        let target = location.strip_prefix(&format!("http://{}", self.host())).unwrap_or(location);
        let joint = if target.contains('?') { '&' } else { '?' };
        let octets = [("Content-Type", "application/octet-stream")];
        self.send("PUT", &format!("{target}{joint}digest={digest}"), &octets, bytes);
    }

    fn push_manifest(&self, repository: &str, name: &str, media_type: &str, bytes: &[u8]) {
        let headers = [("Content-Type", media_type)];
        self.send("PUT", &format!("/v2/{repository}/manifests/{name}"), &headers, bytes);
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> client::Response {
        let answer: io::Result<_> = client::request(method, &self.host(), target, headers, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
        assert!(answer.status < 300, "{method} {target}: {} {}", answer.status, answer.text());
        answer
    }
}
