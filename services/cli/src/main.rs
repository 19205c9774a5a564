//! The `larder` binary: configuration, wiring, commands.

mod args;
mod commands;
mod config;
mod failure;
mod progress;
mod screen;
mod store;
mod wiring;

use std::io::Write;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use screen::Screen;

fn main() {
    // First of all: whichever TLS client comes first would otherwise choose for all.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = Cli::parse();
    let screen = Screen { json: cli.json, quiet: cli.quiet };
    let system = actix_rt::System::with_tokio_rt(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .enable_all()
            .worker_threads(receiving_threads())
            .build()
            .expect("the operating system starts threads")
    });
    let code = match system.block_on(run(cli)) {
        Ok(()) => 0,
        Err(failure) => {
            screen.failed(&failure);
            failure.code()
        }
    };
    let _ = std::io::stdout().flush();
    // Work in flight is safe to drop at any moment; waiting for it would only delay the prompt.
    std::process::exit(code)
}

/// Half of the processors receive; the threads that hash and write need the other half.
fn receiving_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let level = match (cli.verbose, &cli.command) {
        (0, Command::Serve { .. }) => "info",
        (0, _) => "warn",
        (1, _) => "info,larder=debug",
        _ => "debug",
    };
    let serving = matches!(cli.command, Command::Serve { .. });
    larder_runtime::telemetry::init(
        &cli.log.clone().unwrap_or_else(|| level.to_owned()),
        cli.json && serving,
    );
    let config = config::load(&cli)?;
    commands::run(cli, config).await
}
