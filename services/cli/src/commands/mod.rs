//! What each command does.

mod export;
mod look;
mod names;
mod pull;
mod serve;

use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Cli, Command, PushMode};
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::screen::Screen;
use crate::wiring::Process;

pub(crate) async fn run(cli: Cli, config: Config) -> Result<(), Failure> {
    let screen = Screen { json: cli.json, quiet: cli.quiet };
    if let Command::Serve { roles, admin_listen } = cli.command {
        return serve::serve(&config, &roles, admin_listen).await;
    }
    let process = Process::for_command(&config).await?;
    let work = command(cli.command, screen, &process);
    let done = tokio::select! {
        done = work => done,
        () = told_to_end() => Err(Failure {
            message: "interrupted; what is complete is kept, and the same command goes on from there".to_owned(),
            kind: Kind::Interrupted,
        }),
    };
    if !crate::wiring::is_alone(&config) {
        // What was said last is on its way.
        process.runtime.stop(std::time::Duration::ZERO).await;
    }
    done
}

async fn command(command: Command, screen: Screen, process: &Process) -> Result<(), Failure> {
    let facade = &process.facade;
    match command {
        Command::Pull { references, platform, always } => {
            pull::pull(facade, screen, &references, platform, always).await
        }
        Command::Push { name, remote_name, mode } => {
            let replace = mode == PushMode::Replace;
            pull::push(facade, screen, &name, remote_name.as_deref(), replace).await
        }
        Command::Ls => look::ls(facade, screen).await,
        Command::Inspect { name, raw } => look::inspect(facade, screen, &name, raw).await,
        Command::History { name } => look::history(facade, screen, &name).await,
        Command::Cat { digest } => look::cat(facade, &digest).await,
        Command::Export { name, format, platform, as_name, output } => {
            let what = export::Wish { name, platform, as_name, output };
            export::export(facade, screen, format, what).await
        }
        Command::Rm { names } => names::rm(facade, screen, &names).await,
        Command::Verify { names, all } => names::verify(facade, screen, names, all).await,
        Command::Jobs { limit } => serve::jobs(process, screen, limit).await,
        Command::Serve { .. } => unreachable!("served before"),
    }
}

/// Completes when a person or a supervisor wants the process to end.
pub(crate) async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut hang_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
}
