//! Logs, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` (`warn`, `info`, `debug`, or a full filter as of `tracing-subscriber`), as JSON lines when `json`.
pub fn init(level: &str, json: bool) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    // A second call, as in tests, keeps the first one's choice.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}
