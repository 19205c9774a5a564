//! larder in a process of yours: configuration and wiring.
//!
//! [`run`] gives a program the cache that the `larder` binary uses, embedded or on a farm as the configuration says:
//!
//! ```no_run
//! use larder_provider::{CacheProvider, PullOptions};
//!
//! let config = larder::load(None, None, None)?;
//! larder::run(&config, async |cache| {
//!     let image = "debian:12".parse().expect("a constant reference");
//!     cache.image_pull(&image, &larder_oci::PlatformSet::host(), &PullOptions::default()).await?;
//!     Ok::<(), larder::Failure>(())
//! })?;
//! # Ok::<(), larder::Failure>(())
//! ```

mod config;
mod failure;
mod role;
mod store;
mod wiring;

pub use larder_facade::Facade;
pub use larder_facade::grpc::ContentListen;

pub use config::{Config, load};
pub use failure::{Failure, Kind};
pub use role::Role;
pub use store::{S3, Secret};
pub use wiring::{Process, chain, is_alone, warn_of_lazy_sync};

/// Starts what `config` asks for, has `work` done with the cache, and completes what was left for later: what other tools read of the
/// names is up to date when this returns.
///
/// # Errors
/// Those of `work`, and a [`Failure`] when the cache cannot be opened.
pub fn run<T, E: From<Failure>>(
    config: &Config,
    work: impl AsyncFnOnce(&Facade) -> Result<T, E>,
) -> Result<T, E> {
    system().block_on(async {
        let process = Process::for_command(config).await?;
        let done = work(&process.facade).await;
        process.finish(config).await?;
        done
    })
}

/// Where actors and transfers run.
pub fn system() -> actix_rt::SystemRunner {
    // First of all: whichever TLS client comes first would otherwise choose for all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    actix_rt::System::with_tokio_rt(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .enable_all()
            .worker_threads(receiving_threads())
            .build()
            .expect("the operating system starts threads")
    })
}

/// Half of the processors receive; the threads that hash and write need the other half.
fn receiving_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}
