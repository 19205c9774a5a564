//! SeaweedFS as an S3 server.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::client;
use crate::ports;
use crate::process::{Process, await_server};
use crate::tools;

const READY_LIMIT: Duration = Duration::from_mins(1);
const IDENTITIES: &str = r#"{"identities":[{"name":"larder","actions":["Admin","Read","Write","List","Tagging"],
"credentials":[{"accessKey":"larder","secretKey":"larder-secret"}]}]}"#;

/// A SeaweedFS of its own on loopback that speaks S3, with one bucket and everything in a directory of its own.
#[derive(Debug)]
pub struct Seaweed {
    process: Option<Process>,
    master: Pair,
    volume: Pair,
    filer: Pair,
    s3: Pair,
    directory: TempDir,
}

/// The HTTP and gRPC ports of one part.
#[derive(Debug)]
struct Pair {
    http: u16,
    grpc: u16,
}

impl Pair {
    fn free() -> Self {
        Self { http: ports::free(), grpc: ports::free() }
    }
}

impl Seaweed {
    /// The name of the bucket that exists from the start.
    pub const BUCKET: &'static str = "larder";
    /// The access key of the only user.
    pub const ACCESS_KEY: &'static str = "larder";
    /// The secret key of the only user.
    pub const SECRET_KEY: &'static str = "larder-secret";

    /// Starts a server and makes its bucket.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        fs::create_dir(directory.path().join("data")).expect("a directory can be made");
        fs::write(directory.path().join("s3.json"), IDENTITIES).expect("a file can be written");
        let mut server = Self {
            process: None,
            master: Pair::free(),
            volume: Pair::free(),
            filer: Pair::free(),
            s3: Pair::free(),
            directory,
        };
        server.restart();
        server.create_bucket(Self::BUCKET);
        server
    }

    /// Returns the S3 endpoint: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3.http)
    }

    /// Returns the store URL of the bucket: `s3://larder`.
    pub fn url(&self) -> String {
        format!("s3://{}", Self::BUCKET)
    }

    /// Returns the environment that S3 clients read their endpoint and credentials from.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT", self.endpoint()),
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", Self::SECRET_KEY.to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Makes one more bucket.
    pub fn create_bucket(&self, name: &str) {
        let answer = self.filer("POST", &format!("/buckets/{name}/"));
        assert_eq!(answer.status, 201, "cannot make bucket {name}: {}", answer.text());
    }

    /// Returns the names of what lies directly in `folder` of the bucket, behind the back of S3.
    pub fn list(&self, folder: &str) -> Vec<String> {
        let target = format!("/buckets/{}/{}/?limit=10000", Self::BUCKET, folder.trim_matches('/'));
        let address = format!("127.0.0.1:{}", self.filer.http);
        let headers = [("Accept", "application/json")];
        let answer = client::request("GET", &address, &target.replace("//", "/"), &headers, &[])
            .expect("the filer answers");
        let listing: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let entries = listing["Entries"].as_array().cloned().unwrap_or_default();
        let name = |entry: &serde_json::Value| {
            let path = Path::new(entry["FullPath"].as_str()?).file_name()?;
            Some(path.to_string_lossy().into_owned())
        };
        entries.iter().filter_map(name).collect()
    }

    /// Kills the server without warning.
    pub fn kill(&mut self) {
        self.process = None;
        // SeaweedFS leaves these where it likes, whatever its directory.
        for (name, ports) in self.parts() {
            let _ = fs::remove_file(format!("/tmp/seaweedfs-{name}-grpc-{}.sock", ports.grpc));
        }
    }

    /// Starts a killed server again, on the same ports and directory; a running one is killed first.
    pub fn restart(&mut self) {
        self.kill();
        let mut process = Process::spawn("weed", self.command(), self.directory.path());
        await_server(&mut process, READY_LIMIT, || {
            let endpoint = format!("127.0.0.1:{}", self.s3.http);
            let master = format!("127.0.0.1:{}", self.master.http);
            // Objects can be read and written only once the volumes have reported to the master.
            client::get(&endpoint, "/").is_ok_and(|answer| answer.status == 403)
                && client::get(&master, "/dir/assign").is_ok_and(|answer| answer.status == 200)
        });
        self.process = Some(process);
    }

    fn command(&self) -> Command {
        let mut command = tools::command("weed");
        command.arg("server").args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
        command.args(["-master.volumeSizeLimitMB=256", "-volume.max=64"]);
        command.args(["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        // A killed master that comes back waits for an election, though it stands alone.
        command.args(["-master.electionTimeout=1s", "-master.heartbeatInterval=100ms"]);
        let own = |name: &str| self.directory.path().join(name).display().to_string();
        command.arg(format!("-dir={}", own("data")));
        command.arg(format!("-s3.config={}", own("s3.json")));
        command.arg(format!("-filer.localSocket={}", own("filer.sock")));
        command.arg(format!("-s3.localSocket={}", own("s3.sock")));
        for (name, ports) in self.parts() {
            command.arg(format!("-{name}.port={}", ports.http));
            command.arg(format!("-{name}.port.grpc={}", ports.grpc));
        }
        command
    }

    fn parts(&self) -> [(&'static str, &Pair); 4] {
        [("master", &self.master), ("volume", &self.volume), ("filer", &self.filer), ("s3", &self.s3)]
    }

    fn filer(&self, method: &str, target: &str) -> client::Response {
        let address = format!("127.0.0.1:{}", self.filer.http);
        client::request(method, &address, target, &[], &[]).expect("the filer answers")
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        self.kill();
    }
}
