//! `serve` and `jobs`.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use larder_runtime::{admin, metrics};
use serde::Serialize;

use super::told_to_end;
use crate::screen::Screen;
use larder::Config;
use larder::Failure;
use larder::Role;
use larder::{Process, chain, is_alone, warn_of_lazy_sync};

#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    roles: &'a [Role],
    /// The registry API, as a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// The content service: `host:port`, or `unix://` and a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    admin: SocketAddr,
}

pub(crate) async fn serve(config: Config, roles: &[Role], admin_listen: SocketAddr) -> Result<(), Failure> {
    if !roles.is_empty() && is_alone(&config) {
        return Err(Failure::usage(
            "roles can be parted only over a bus that others reach: give --bus nats://HOST, or no roles",
        ));
    }
    let roles = if roles.is_empty() { &Role::ALL[..] } else { roles };
    metrics::announce();
    let process = Process::start(&config, roles).await?;
    if roles.contains(&Role::Fetcher) {
        process.serve_fills(&config).await?;
    }
    let doors = if roles.contains(&Role::Facade) { Some(process.open_doors(&config).await?) } else { None };
    let (listen, content) = doors.map(|doors| (doors.registry, doors.content)).unzip();
    // Last, so that nobody is told that it is ready before it is.
    let admin = admin::serve(&process.runtime, admin_listen, process.refresh()).await.map_err(|error| {
        Failure::failed(
            &format!("cannot listen on {admin_listen} (choose another with --admin-listen)"),
            error,
        )
    })?;
    warn_of_lazy_sync(&config).await;
    let ready = Ready { event: "ready", roles, listen, content, admin };
    let line = serde_json::to_string(&ready).map_err(|error| Failure::failed("cannot print", error))?;
    writeln!(io::stdout(), "{line}")?;
    io::stdout().flush()?;
    told_to_end().await;
    tracing::info!("stopping; a second signal ends it at once");
    tokio::select! {
        () = process.runtime.stop(Duration::from_secs(config.drain_s)) => {}
        () = told_to_end() => {}
    }
    Ok(())
}

pub(crate) async fn jobs(process: &Process, screen: Screen, limit: usize) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        event: &'static str,
        fact: &'a str,
        id: &'a str,
        attempts: u32,
        reason: &'a str,
    }
    let letters = process.runtime.voice().dead_letters(limit).await;
    for letter in letters.map_err(|error| Failure::failed("cannot read the dead letters", chain(&error)))? {
        let (fact, id) = (letter.queue.as_str(), letter.id.as_str());
        let line = Line { event: "dead", fact, id, attempts: letter.attempts, reason: &letter.reason };
        screen.result(&line, || format!("{fact}  {id}  {} attempts  {}", letter.attempts, letter.reason))?;
    }
    Ok(())
}
