//! Whether the server keeps what it acknowledged when the power fails.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::MEMORY_URL;
use crate::config::Config;
use crate::nats::Address;

/// How long the monitoring port may take; nobody waits for a warning.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// How much of its answer is read.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// The monitoring port that servers use unless told otherwise.
const MONITOR_PORT: u16 = 8222;

/// Tells what a power failure costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    /// What the server acknowledged is on its disk.
    SyncsAlways,
    /// What the server acknowledged reaches its disk later; the default of nats-server.
    SyncsLazily {
        /// How much later, at most.
        interval: Duration,
    },
    /// Nobody could be asked.
    Unknown {
        /// What stood in the way.
        why: String,
    },
}

/// Asks the monitoring port of the server behind `url` whether it syncs each message to disk before it acknowledges it. Takes half a second
/// at most.
pub async fn durability(url: &str, config: &Config) -> Durability {
    if url == MEMORY_URL {
        return Durability::Unknown { why: "a memory bus keeps nothing".to_owned() };
    }
    let asked = async {
        let monitor = monitor(url, config)?;
        let answer = timeout(ANSWER_TIMEOUT, ask(&monitor)).await;
        let answer = answer.map_err(|_| format!("{monitor} did not answer in time"))?;
        let answer = answer.map_err(|error| format!("{monitor} did not answer: {error}"))?;
        read(&answer).ok_or_else(|| format!("{monitor} is no nats-server with JetStream"))
    };
    asked.await.unwrap_or_else(|why| Durability::Unknown { why })
}

/// The part of the answer that counts.
#[derive(Deserialize)]
struct Report {
    config: Settings,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    sync_always: bool,
    /// In nanoseconds.
    sync_interval: u64,
}

/// Finds the monitoring address: the configured one, else the usual port of the first server.
fn monitor(url: &str, config: &Config) -> Result<Url, String> {
    let text = config.monitor_url.clone().map_or_else(|| usual_monitor(url), Ok)?;
    let monitor = Url::parse(&text).map_err(|error| format!("monitoring address is no url: {error}"))?;
    if monitor.scheme() == "http" { Ok(monitor) } else { Err("monitor_url is not http://".to_owned()) }
}

fn usual_monitor(url: &str) -> Result<String, String> {
    let address = Address::parse(url).map_err(|error| error.to_string())?;
    let host = address.first_host();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok(format!("http://{host}:{MONITOR_PORT}"))
}

/// Speaks as much HTTP as one small document needs.
async fn ask(monitor: &Url) -> std::io::Result<Vec<u8>> {
    let host = monitor.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream =
        TcpStream::connect((host, monitor.port_or_known_default().unwrap_or(MONITOR_PORT))).await?;
    let path = format!("{}/jsz", monitor.path().trim_end_matches('/'));
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", monitor.authority());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

fn read(answer: &[u8]) -> Option<Durability> {
    let end_of_head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let Report { config } = serde_json::from_slice(&answer[end_of_head + 4..]).ok()?;
    if config.sync_always {
        return Some(Durability::SyncsAlways);
    }
    Some(Durability::SyncsLazily { interval: Duration::from_nanos(config.sync_interval) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn told(document: &'static str) -> Durability {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let monitor_url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let config = Config { monitor_url, ..Config::default() };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /jsz HTTP/1.0\r\n"));
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{document}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(durability("nats://nowhere.invalid", &config), serve).0
    }

    #[tokio::test]
    async fn tells_a_server_that_syncs_from_one_that_does_not() {
        let always = r#"{"config": {"sync_interval": 120000000000, "sync_always": true}}"#;
        assert_eq!(told(always).await, Durability::SyncsAlways);
        let lazily = r#"{"config": {"sync_interval": 120000000000}}"#;
        assert_eq!(told(lazily).await, Durability::SyncsLazily { interval: Duration::from_mins(2) });
    }

    #[tokio::test]
    async fn knows_nothing_of_a_server_without_jetstream_and_of_memory() {
        assert!(matches!(told(r#"{"disabled": true}"#).await, Durability::Unknown { .. }));
        assert!(matches!(durability(MEMORY_URL, &Config::default()).await, Durability::Unknown { .. }));
    }
}
