//! The `larder` binary: commands, and what they print.

mod args;
mod commands;
mod progress;
mod screen;

use std::io::Write;

use args::{Cli, Command};
use clap::Parser;
use larder::Failure;
use screen::Screen;

fn main() {
    let cli = Cli::parse();
    let screen = Screen { json: cli.json, quiet: cli.quiet };
    let code = match larder::system().block_on(run(cli)) {
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
    let config = larder::load(cli.config.as_deref(), cli.store.as_deref(), cli.bus.as_deref())?;
    commands::run(cli, config).await
}
