//! What each command does.

mod export;
mod import;
mod look;
mod names;
mod pull;
mod push;
mod rest;
mod serve;

use std::io::{self, Write};

use tokio::signal::unix::{SignalKind, signal};

use clap::CommandFactory;
use larder_provider::{PullOptions, PushOptions};

use crate::args::{Cli, Command};
use larder::{Config, Failure, Kind, Process};

use crate::progress;
use crate::screen::Screen;

pub(crate) async fn run(cli: Cli, config: Config) -> Result<(), Failure> {
    let screen = Screen { json: cli.json, quiet: cli.quiet };
    if let Command::Serve { roles, listen, content_listen, admin_listen } = cli.command {
        let mut config = config;
        config.http.listen = listen.unwrap_or(config.http.listen);
        config.content.listen = content_listen.unwrap_or(config.content.listen);
        return serve::serve(config, &roles, admin_listen).await;
    }
    if let Command::Completions { shell } = cli.command {
        return completions(shell);
    }
    let process = Process::for_command(&config).await?;
    let pulls = matches!(cli.command, Command::Pull { .. });
    let work = command(cli.command, screen, &process);
    let done = tokio::select! {
        done = work => done,
        () = told_to_end() => Err(Failure {
            message: if pulls {
                "interrupted; what is complete is kept, and the same command goes on from there".to_owned()
            } else {
                "interrupted".to_owned()
            },
            kind: Kind::Interrupted,
        }),
    };
    // Also when the command has failed.
    let finished = process.finish(&config).await;
    done.and(finished)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "larder", &mut script);
    io::stdout().write_all(&script).map_err(Failure::from)
}

async fn command(command: Command, screen: Screen, process: &Process) -> Result<(), Failure> {
    let facade = &process.facade;
    match command {
        Command::Pull { references, platform, always, arch_names, local } => {
            let options =
                PullOptions { always, arch_names, local: local.into(), watch: progress::watch(screen) };
            pull::pull(facade, screen, &references, platform, &options).await
        }
        Command::Push { names, remote_name, with_arch_tags, mode, skip_if_exists } => {
            let remote = remote_name.as_deref().map(pull::parse).transpose()?;
            let options =
                PushOptions { remote, mode: mode.into(), skip_if_exists, arch_tags: with_arch_tags };
            push::push(facade, screen, &names, &options).await
        }
        Command::Ls => look::ls(facade, screen).await,
        Command::Inspect { name, raw } => look::inspect(facade, screen, &name, raw).await,
        Command::History { name } => look::history(facade, screen, &name).await,
        Command::Cat { digest } => look::cat(facade, &digest).await,
        Command::Export { name, format, platform, as_name, output } => {
            let what = export::Wish { name, platform, as_name, output };
            export::export(facade, screen, format, what).await
        }
        Command::Sbom { name, platform } => look::sbom(facade, screen, &name, platform).await,
        Command::Config { name, platform } => look::config(facade, &name, platform).await,
        Command::Import { from, name } => import::import(facade, screen, &from, name.as_deref()).await,
        Command::Index { name, references } => names::index(facade, screen, &name, &references).await,
        Command::Tag { source, target } => names::tag(facade, screen, &source, &target).await,
        Command::Clean { published_only } => names::clean(facade, screen, published_only).await,
        Command::Gc { dry_run, grace } => rest::gc(facade, screen, grace, dry_run).await,
        Command::Du => rest::du(facade, screen).await,
        Command::Rm { names } => names::rm(facade, screen, &names).await,
        Command::Verify { names, all } => rest::verify(facade, screen, names, all).await,
        Command::Jobs { limit } => serve::jobs(process, screen, limit).await,
        Command::Serve { .. } | Command::Completions { .. } => unreachable!("done before"),
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
