//! Loads a registry over plain HTTP, for `tests/bench/serve.sh`.
//!
//! `load loop SECONDS CONNECTIONS HOST:PORT PATH…` asks for the paths in turn, on each connection the next as soon as the last
//! answer is complete, and discards what comes. `load herd CLIENTS IMAGE HOST:PORT…` has so many clients pull IMAGE
//! (`REPOSITORY:TAG`) at once, spread over the hosts, each on one connection: the manifest, then every blob. One client in
//! [`PROVING`] hashes what it receives. `load first IMAGE HOST:PORT` pulls once and times how long the first byte of each layer
//! takes. Each prints one JSON object.

mod connection;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write as _};
use std::thread;
use std::time::{Duration, Instant};

use connection::Connection;
use futures::future::join_all;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const THREADS: usize = 2;
/// Hashing costs more than receiving: were all to prove, the herd would measure itself. Odd, so that no host is left out.
const PROVING: usize = 19;
const HERD_LIMIT: Duration = Duration::from_mins(5);
const DOCUMENT_BYTES_MAX: usize = 4 << 20;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["loop", seconds, connections, host, paths @ ..] if !paths.is_empty() => {
            closed_loop(Duration::from_secs_f64(seconds.parse()?), connections.parse()?, host, paths)?
        }
        ["herd", clients, image, hosts @ ..] if !hosts.is_empty() => herd(clients.parse()?, image, hosts)?,
        ["first", image, host] => first(image, host)?,
        _ => return Err(
            "usage: load loop SECONDS CONNECTIONS HOST PATH… | herd CLIENTS IMAGE HOST… | first IMAGE HOST"
                .into(),
        ),
    };
    Ok(writeln!(io::stdout(), "{result}")?)
}

/// Runs `work` for each number below `count` at once on a few threads; returns what it gives, in no order.
fn at_once<T: Send>(count: usize, work: impl AsyncFn(usize) -> T + Sync) -> Outcome<Vec<T>> {
    let share = |first: usize| -> Outcome<Vec<T>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let numbers = (first..count).step_by(THREADS);
        Ok(runtime.block_on(join_all(numbers.map(|number| work(number)))))
    };
    thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || share(first))).collect();
        let mut results = Vec::with_capacity(count);
        for thread in threads {
            results.extend(thread.join().expect("a thread does not panic")?);
        }
        Ok(results)
    })
}

/// What one connection of a closed loop has seen.
#[derive(Default)]
struct Tally {
    bytes: u64,
    took_us: Vec<u64>,
}

fn closed_loop(time: Duration, connections: usize, host: &str, paths: &[&str]) -> Outcome<Value> {
    let begun = Instant::now();
    let tallies = at_once(connections, async |number| {
        let mut tally = Tally::default();
        let endless = repeat(host, paths.iter().cycle().skip(number % paths.len()), &mut tally);
        match tokio::time::timeout_at((begun + time).into(), endless).await {
            Ok(outcome) => outcome.map(|()| tally),
            Err(_) => Ok(tally),
        }
    })?;
    let (mut bytes, mut took_us) = (0, Vec::new());
    for tally in tallies {
        let mut tally = tally?;
        bytes += tally.bytes;
        took_us.append(&mut tally.took_us);
    }
    took_us.sort_unstable();
    let percentile = |percent: usize| match took_us.len() {
        0 => None,
        count => Some(took_us[(count - 1) * percent / 100]),
    };
    Ok(json!({
        "requests": took_us.len(),
        "bytes": bytes,
        "seconds": time.as_secs_f64(),
        "p50_us": percentile(50),
        "p99_us": percentile(99),
    }))
}

async fn repeat<'a>(host: &str, paths: impl Iterator<Item = &'a &'a str>, tally: &mut Tally) -> Outcome<()> {
    let mut connection = Connection::open(host).await?;
    for path in paths {
        let begun = Instant::now();
        let Tally { bytes, .. } = tally;
        connection.get(path, |piece| *bytes += piece.len() as u64).await?;
        tally.took_us.push(u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(())
}

fn herd(clients: usize, image: &str, hosts: &[&str]) -> Outcome<Value> {
    let begun = Instant::now();
    let pulls = at_once(clients, async |number| {
        let pull = pull(hosts[number % hosts.len()], image, number % PROVING == 0);
        let outcome = tokio::time::timeout(HERD_LIMIT, pull).await;
        outcome.unwrap_or_else(|late| Err(late.into())).map(|bytes| (bytes, begun.elapsed()))
    })?;
    let (mut bytes, mut took, mut failures) = (0, Vec::new(), BTreeMap::<String, usize>::new());
    for pull in pulls {
        match pull {
            Ok((received, time)) => {
                bytes += received;
                took.push(time);
            }
            Err(failure) => *failures.entry(failure.to_string()).or_default() += 1,
        }
    }
    took.sort_unstable();
    Ok(json!({
        "complete": took.len(),
        "bytes": bytes,
        "p50_s": took.get(took.len() / 2).map(Duration::as_secs_f64),
        "failures": failures,
    }))
}

/// Pulls one image for this machine; returns the bytes of its blobs.
async fn pull(host: &str, image: &str, proving: bool) -> Outcome<u64> {
    let mut connection = Connection::open(host).await?;
    let mut bytes = 0;
    for blob in blobs(&mut connection, image).await? {
        let mut received = 0;
        let mut hash = proving.then(Sha256::new);
        let take = |piece: &[u8]| {
            received += piece.len() as u64;
            if let Some(hash) = &mut hash {
                hash.update(piece);
            }
        };
        connection.get(&blob.path, take).await?;
        if received != blob.size {
            return Err(format!("{} has {received} bytes, not {}", blob.path, blob.size).into());
        }
        if hash.is_some_and(|hash| !blob.path.ends_with(&hex(&hash.finalize()))) {
            return Err(format!("{} has other bytes", blob.path).into());
        }
        bytes += received;
    }
    Ok(bytes)
}

fn first(image: &str, host: &str) -> Outcome<Value> {
    let times = at_once(1, async |_| -> Outcome<Vec<f64>> {
        let mut connection = Connection::open(host).await?;
        let mut times_ms = Vec::new();
        for blob in blobs(&mut connection, image).await? {
            let begun = Instant::now();
            let mut took = None;
            let take = |piece: &[u8]| {
                if !piece.is_empty() && took.is_none() {
                    took = Some(begun.elapsed());
                }
            };
            connection.get(&blob.path, take).await?;
            times_ms.extend(took.map(|took| took.as_secs_f64() * 1e3));
        }
        // The last one is the configuration.
        times_ms.pop();
        Ok(times_ms)
    })?;
    let times_ms = times.into_iter().collect::<Outcome<Vec<_>>>()?.concat();
    Ok(json!({ "first_ms": times_ms }))
}

/// A blob, by where to ask for it.
struct Blob {
    path: String,
    size: u64,
}

/// Returns the blobs of one image for this machine: its layers, then its configuration.
async fn blobs(connection: &mut Connection, image: &str) -> Outcome<Vec<Blob>> {
    let (repository, tag) = image.rsplit_once(':').ok_or("an image is REPOSITORY:TAG")?;
    let mut manifest = document(connection, repository, tag).await?;
    if let Some(platforms) = manifest["manifests"].as_array() {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let own = platforms.iter().find(|entry| entry["platform"]["architecture"] == architecture);
        let digest = own.and_then(|entry| entry["digest"].as_str()).ok_or("no such platform")?.to_owned();
        manifest = document(connection, repository, &digest).await?;
    }
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    let mut blobs = Vec::new();
    for entry in layers.iter().chain([&manifest["config"]]) {
        let (digest, size) = entry["digest"].as_str().zip(entry["size"].as_u64()).ok_or("no descriptor")?;
        blobs.push(Blob { path: format!("/v2/{repository}/blobs/{digest}"), size });
    }
    Ok(blobs)
}

async fn document(connection: &mut Connection, repository: &str, name: &str) -> Outcome<Value> {
    let mut bytes = Vec::new();
    let take = |piece: &[u8]| {
        if bytes.len() < DOCUMENT_BYTES_MAX {
            bytes.extend_from_slice(piece);
        }
    };
    connection.get(&format!("/v2/{repository}/manifests/{name}"), take).await?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|half| char::from_digit(half.into(), 16))
        .collect()
}
