//! The binary under test.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::client;
use crate::process::{Process, wait_for};

const RUN_LIMIT: Duration = Duration::from_mins(3);
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Returns the path of the binary: `LARDER_BIN`, or the `larder` that was built beside this test.
///
/// # Panics
/// Where there is none.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("LARDER_BIN").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.ancestors().nth(2).expect("a test lies in PROFILE/deps");
        profile.join("larder")
    });
    assert!(path.is_file(), "no larder at {}: build it, or name it in LARDER_BIN", path.display());
    path
}

/// An installation of larder: a home, a store and settings of its own, with nothing of the user's.
#[derive(Debug)]
pub struct Larder {
    directory: TempDir,
    store: Option<String>,
    environment: Vec<(String, String)>,
    limit: Duration,
    runs: Cell<usize>,
}

impl Default for Larder {
    fn default() -> Self {
        Self::new()
    }
}

impl Larder {
    /// Makes an installation with an empty `file://` store in a new directory.
    pub fn new() -> Self {
        Self::in_directory(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Does as [`Larder::new`] below `parent`, such as `/dev/shm`.
    pub fn below(parent: &Path) -> Self {
        Self::in_directory(tempfile::tempdir_in(parent).expect("a temporary directory can be made"))
    }

    fn in_directory(directory: TempDir) -> Self {
        fs::create_dir(directory.path().join("home")).expect("a directory can be made");
        Self { directory, store: None, environment: Vec::new(), limit: RUN_LIMIT, runs: Cell::new(0) }
    }

    /// Uses the store at `url` instead of the directory.
    #[must_use]
    pub fn store(mut self, url: &str) -> Self {
        self.store = Some(url.to_owned());
        self
    }

    /// Uses the bus at `url` instead of memory.
    #[must_use]
    pub fn bus(self, url: &str) -> Self {
        self.env("LARDER_BUS", url)
    }

    /// Sets an environment variable for every run.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets several.
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Lets a run take so long before it is killed and the test fails.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Writes `toml` to the configuration file that every run reads.
    #[must_use]
    pub fn config(self, toml: &str) -> Self {
        let folder = self.home().join(".config/larder");
        fs::create_dir_all(&folder).expect("a directory can be made");
        fs::write(folder.join("larder.toml"), toml).expect("a file can be written");
        self
    }

    /// Writes `json` to `~/.docker/config.json`.
    #[must_use]
    pub fn docker_config(self, json: &Value) -> Self {
        let folder = self.home().join(".docker");
        fs::create_dir_all(&folder).expect("a directory can be made");
        fs::write(folder.join("config.json"), json.to_string()).expect("a file can be written");
        self
    }

    /// Stores user and password for `host` as `docker login` would.
    #[must_use]
    pub fn login(self, host: &str, user: &str, password: &str) -> Self {
        let auth = crate::scripted::base64(format!("{user}:{password}").as_bytes());
        self.docker_config(&serde_json::json!({ "auths": { host: { "auth": auth } } }))
    }

    /// Returns the home directory.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// Returns the directory of the `file://` store, which need not exist yet.
    pub fn store_path(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Returns the path of a file in the store: `blobs/sha256/HEX`.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.store_path().join("blobs").join(digest.replace(':', "/"))
    }

    /// Returns the digests of all blobs that are visible in the `file://` store, sorted.
    pub fn visible_blobs(&self) -> Vec<String> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let Ok(entries) = fs::read_dir(self.store_path().join("blobs").join(algorithm)) else {
                continue;
            };
            for entry in entries {
                let name = entry.expect("a directory can be read").file_name();
                digests.push(format!("{algorithm}:{}", name.to_string_lossy()));
            }
        }
        digests.sort();
        digests
    }

    /// Checks that every visible sha256 blob holds what its name says.
    ///
    /// # Panics
    /// Where one does not.
    pub fn assert_store_is_sound(&self) {
        for digest in self.visible_blobs() {
            let bytes = fs::read(self.blob_path(&digest)).expect("a visible blob can be read");
            if digest.starts_with("sha256:") {
                assert_eq!(crate::image::sha256(&bytes), digest, "a visible blob is corrupt");
            }
        }
    }

    /// Returns a command with this installation's environment and store, for a test that needs more.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        let home = self.home();
        command.current_dir(&home).env_clear().env("HOME", &home);
        // Credential helpers are found by PATH.
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let store = self.store.clone().unwrap_or_else(|| format!("file://{}", self.store_path().display()));
        command.env("LARDER_STORE", store);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments);
        command
    }

    /// Starts a run and leaves it to itself.
    pub fn spawn(&self, arguments: &[&str]) -> Process {
        let run = self.runs.replace(self.runs.get() + 1);
        Process::spawn(&format!("larder-{run}"), self.command(arguments), self.directory.path())
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// Where it takes longer than the limit.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let started = Instant::now();
        let mut process = self.spawn(arguments);
        let status = process.wait(self.limit);
        Finished {
            arguments: arguments.join(" "),
            code: status.code(),
            stdout: process.stdout(),
            stderr: process.stderr(),
            elapsed: started.elapsed(),
            rss_peak_bytes: process.rss_peak_bytes(),
        }
    }

    /// Runs to the end and expects exit code 0; returns what was written to stdout.
    ///
    /// # Panics
    /// Where the code is another.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_code(0).stdout
    }

    /// Starts `larder serve ROLE…` on free ports and waits until it is ready; no role is all of them.
    ///
    /// The ready line has its addresses: of a facade `listen` and `content`, and `admin` of all.
    pub fn serve(&self, roles: &[&str]) -> Service {
        let mut arguments = vec!["serve"];
        arguments.extend(roles);
        for door in ["--listen", "--content-listen", "--admin-listen"] {
            arguments.extend([door, "127.0.0.1:0"]);
        }
        Service::await_ready(self.spawn(&arguments))
    }
}

/// A run that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    arguments: String,
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What was written to stdout.
    pub stdout: String,
    /// What was written to stderr.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
    /// The largest resident set, in bytes; sampled every few milliseconds.
    pub rss_peak_bytes: u64,
}

impl Finished {
    /// Expects this exit code.
    ///
    /// # Panics
    /// Where it is another; shows all that was written.
    #[must_use]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "larder {}\n--- stdout ---\n{}\n--- stderr ---\n{}",
            self.arguments,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Returns stdout as JSON.
    ///
    /// # Panics
    /// Where it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("larder {}: {error} in {}", self.arguments, self.stdout))
    }

    /// Returns stdout as one JSON value a line.
    ///
    /// # Panics
    /// Where a line is none.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("larder {}: {error} in {line}", self.arguments))
        };
        self.stdout.lines().map(parse).collect()
    }
}

/// A `larder serve` that is ready; killed when dropped.
#[derive(Debug)]
pub struct Service {
    process: Process,
    ready: Value,
}

impl Service {
    fn await_ready(mut process: Process) -> Self {
        let running = Cell::new(true);
        let ready = wait_for(
            "the ready line of larder serve",
            READY_LIMIT,
            || {
                running.set(running.get() && process.is_running());
                assert!(running.get(), "larder serve ended at once\n{}", process.tail());
                let written = process.stdout();
                let (line, _) = written.split_once('\n')?;
                Some(serde_json::from_str(line).expect("the ready line is JSON"))
            },
            String::new,
        );
        Self { process, ready }
    }

    /// Returns the ready line.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Returns the address under `key` of the ready line, such as `admin` or `listen`, as `host:port`.
    ///
    /// # Panics
    /// Where there is none.
    pub fn address(&self, key: &str) -> String {
        let address = self.ready[key].as_str();
        let address = address.unwrap_or_else(|| panic!("no {key} in {}", self.ready));
        address.trim_start_matches("http://").trim_end_matches('/').to_owned()
    }

    /// Returns the page `target` of the admin address.
    ///
    /// # Panics
    /// Where the service does not answer.
    pub fn admin(&self, target: &str) -> client::Response {
        let answer = client::get(&self.address("admin"), target);
        answer.unwrap_or_else(|error| panic!("{target}: {error}\n{}", self.process.tail()))
    }

    /// Returns `/metrics`.
    pub fn metrics(&self) -> String {
        self.admin("/metrics").text()
    }

    /// Returns the sum of all series of the metric `name` whose labels contain `labels` (such as `result="hit"`).
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        sum_of_series(&self.metrics(), name, labels)
    }

    /// Returns the process, to kill it, to pause it or to read what it said.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Asks the service to end and waits for it.
    ///
    /// # Panics
    /// Where it still runs after `limit`.
    pub fn stop(mut self, limit: Duration) -> ExitStatus {
        self.process.terminate();
        self.process.wait(limit)
    }

    /// Kills the service without warning.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

fn sum_of_series(metrics: &str, name: &str, labels: &str) -> f64 {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
        (found == name && found_labels.contains(labels)).then(|| value.parse::<f64>().ok())?
    };
    metrics.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_the_sum_of_the_series_that_match() {
        let metrics = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"2\"} 4\nab{x=\"1\"} 5\nc 6\n";
        let check = |name, labels, expected: f64| {
            assert!((sum_of_series(metrics, name, labels) - expected).abs() < 1e-9);
        };
        check("a", "", 7.0);
        check("a", "x=\"1\"", 3.0);
        check("c", "", 6.0);
        check("d", "", 0.0);
    }
}
