//! A nats-server with JetStream.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::client;
use crate::ports;
use crate::process::{Process, await_server};
use crate::tools;

const READY_LIMIT: Duration = Duration::from_secs(20);

/// A nats-server of its own on loopback, with JetStream on disk in a directory of its own.
#[derive(Debug)]
pub struct NatsServer {
    process: Option<Process>,
    port: u16,
    monitor: u16,
    directory: TempDir,
}

impl NatsServer {
    /// Starts a server that syncs every acknowledged write, as larder wants it.
    pub fn start() -> Self {
        Self::start_with("sync_interval: always")
    }

    /// Starts a server that syncs when it likes, as nats-server does by default.
    pub fn start_unsynced() -> Self {
        Self::start_with("")
    }

    /// Starts a server with `jetstream` added to the configuration's `jetstream` block.
    pub fn start_with(jetstream: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (port, monitor) = (ports::free(), ports::free());
        let configuration = format!(
            "host: 127.0.0.1\nport: {port}\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{\n  store_dir: \"{store}\"\n  {jetstream}\n}}\n",
            store = directory.path().join("jetstream").display(),
        );
        fs::write(directory.path().join("nats.conf"), configuration)
            .expect("the configuration can be written");
        let mut server = Self { process: None, port, monitor, directory };
        server.run();
        server
    }

    /// Returns the address to connect to: `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns the monitoring address: `http://127.0.0.1:PORT`.
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Returns the monitoring page at `target`, such as `/jsz?streams=true`.
    pub fn monitor(&self, target: &str) -> serde_json::Value {
        let response = client::get(&format!("127.0.0.1:{}", self.monitor), target)
            .expect("nats-server answers on its monitoring port");
        serde_json::from_slice(&response.body).expect("nats-server answers in JSON")
    }

    /// Kills the server without warning.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts a killed server again, on the same port and directory; a running one is killed first.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Starts a killed server again after its streams were lost.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(self.directory.path().join("jetstream"));
        self.run();
    }

    /// Returns the server's process, to pause it or to read what it said.
    ///
    /// # Panics
    /// Where the server was killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("nats-server runs")
    }

    fn run(&mut self) {
        let mut command = tools::command("nats-server");
        command.arg("-c").arg(self.directory.path().join("nats.conf"));
        let mut process = Process::spawn("nats-server", command, self.directory.path());
        let monitor = format!("127.0.0.1:{}", self.monitor);
        await_server(&mut process, READY_LIMIT, || {
            client::get(&monitor, "/healthz").is_ok_and(|answer| answer.status == 200)
        });
        self.process = Some(process);
    }
}
