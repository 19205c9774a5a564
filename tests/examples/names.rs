//! Times one operation on a store of many names, for `tests/bench/names.sh`.
//!
//! `names STORE COUNT find|write|presence` expects that the URL STORE has COUNT names as [`name`] gives them, the first thousand
//! for different images. It prints the median and the 99th percentile as one JSON object, in milliseconds.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use larder::Failure;
use larder_oci::{Descriptor, PlatformSet, Reference};
use larder_provider::{CacheProvider, WriteOptions};

const FINDS: usize = 2_000;
const WRITES: usize = 500;
const PRESENCE_CALLS: usize = 20;
const IMAGES_MAX: usize = 1_000;
/// Leads from name to name all over the store, and to each of a power of ten.
const STRIDE: usize = 7_919;

fn name(number: usize) -> String {
    format!("bench.example/team/app{number:06}:1")
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("names: {}", failure.message);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Failure::usage("usage: names STORE COUNT find|write|presence");
    let [store, count, operation] = arguments.as_slice() else {
        return Err(usage());
    };
    let count = count.parse().ok().filter(|&count| count > 0).ok_or_else(usage)?;
    let config = larder::load(None, Some(store), None)?;
    let mut times = larder::run(&config, async |cache| match operation.as_str() {
        "find" => find(cache, count).await,
        "write" => write(cache, count).await,
        "presence" => presence(cache, count).await,
        _ => Err(usage()),
    })?;
    times.sort_unstable();
    let percentile = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let line = serde_json::json!({ "p50": percentile(50), "p99": percentile(99) });
    writeln!(io::stdout(), "{line}").map_err(Failure::from)
}

async fn descriptor(cache: &dyn CacheProvider, number: usize) -> Result<Descriptor, Failure> {
    let found = cache.find_descriptor(&name(number)).await?;
    found.map(|found| found.descriptor).ok_or_else(|| Failure::failed(&name(number), "not in the store"))
}

async fn find(cache: &dyn CacheProvider, count: usize) -> Result<Vec<Duration>, Failure> {
    // The first pass warms up.
    for sample in 0..FINDS {
        descriptor(cache, sample * STRIDE % count).await?;
    }
    let mut times = Vec::with_capacity(FINDS);
    for sample in 0..FINDS {
        let name = name(sample * STRIDE % count);
        let begun = Instant::now();
        let found = cache.find_descriptor(&name).await?;
        times.push(begun.elapsed());
        assert!(found.is_some(), "{name} was found before");
    }
    Ok(times)
}

/// Moves names and gives new ones, by turns; a new one is removed before the next, so that their number stays.
async fn write(cache: &dyn CacheProvider, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut images = Vec::new();
    for number in 0..count.min(IMAGES_MAX) {
        images.push(descriptor(cache, number).await?);
    }
    let mut times = Vec::with_capacity(WRITES);
    for sample in 0..WRITES {
        let number = sample * STRIDE % count;
        let is_new = sample % 2 == 0;
        let target = if is_new { format!("{}-{sample}", name(number)) } else { name(number) };
        let reference: Reference =
            target.parse().map_err(|error: larder_oci::OciError| Failure::usage(error.to_string()))?;
        // Another one each time that the name's turn comes.
        let image = &images[(number + 1 + sample / count) % images.len()];
        let begun = Instant::now();
        cache.descriptor_write(&reference, image, &WriteOptions::default()).await?;
        times.push(begun.elapsed());
        if is_new {
            cache.remove(&target).await?;
        }
    }
    Ok(times)
}

/// Asks for a thousand images in one call.
async fn presence(cache: &dyn CacheProvider, count: usize) -> Result<Vec<Duration>, Failure> {
    let wanted: Vec<_> =
        (0..count.min(IMAGES_MAX)).map(|number| (name(number), PlatformSet::host())).collect();
    let mut times = Vec::with_capacity(PRESENCE_CALLS);
    // The first call warms up.
    for call in 0..=PRESENCE_CALLS {
        let begun = Instant::now();
        let found = cache.images_in_cache(&wanted).await?;
        let elapsed = begun.elapsed();
        if let Some((absent, _)) = wanted.iter().zip(&found).find(|(_, presence)| !presence.is_complete()) {
            return Err(Failure::failed(&absent.0, "not whole"));
        }
        if call > 0 {
            times.push(elapsed);
        }
    }
    Ok(times)
}
