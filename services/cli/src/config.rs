//! Where settings come from: flags over environment over file over defaults.

use std::path::PathBuf;

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Deserialize;

use crate::args::Cli;
use crate::failure::Failure;

/// All settings. Each crate owns its part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    pub(crate) store: String,
    pub(crate) bus: String,
    /// How long a service that was told to stop finishes what it has begun, in seconds.
    pub(crate) drain_s: u64,
    pub(crate) nats: larder_bus::Config,
    pub(crate) s3: crate::store::S3,
    pub(crate) registry: larder_registry::Config,
    pub(crate) facade: larder_facade::Config,
    pub(crate) fetcher: larder_fetcher::Config,
    pub(crate) verifier: larder_verifier::Config,
    pub(crate) indexer: larder_indexer::Config,
    pub(crate) pusher: larder_pusher::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: String::new(),
            bus: "mem:".to_owned(),
            drain_s: 25,
            nats: larder_bus::Config::default(),
            s3: crate::store::S3::default(),
            registry: larder_registry::Config::default(),
            facade: larder_facade::Config::default(),
            fetcher: larder_fetcher::Config::default(),
            verifier: larder_verifier::Config::default(),
            indexer: larder_indexer::Config::default(),
            pusher: larder_pusher::Config::default(),
        }
    }
}

pub(crate) fn load(cli: &Cli) -> Result<Config, Failure> {
    let mut figment = Figment::new();
    match &cli.config {
        Some(file) if !file.exists() => {
            return Err(Failure::usage(format!("configuration file {} does not exist", file.display())));
        }
        Some(file) => figment = figment.merge(Toml::file_exact(file)),
        None => {
            let personal =
                folder("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("larder/larder.toml"));
            for file in
                personal.into_iter().chain([PathBuf::from("larder.toml")]).filter(|file| file.exists())
            {
                figment = figment.merge(Toml::file_exact(file));
            }
        }
    }
    // These two belong to the command line.
    let environment = Env::prefixed("LARDER_").ignore(&["config", "log"]).split("__");
    figment = figment.merge(environment);
    for (key, value) in [("store", &cli.store), ("bus", &cli.bus)] {
        if let Some(value) = value {
            figment = figment.merge(Serialized::default(key, value));
        }
    }
    let mut config: Config =
        figment.extract().map_err(|error| Failure::usage(format!("configuration: {error}")))?;
    if config.store.is_empty() {
        let folder = folder("XDG_CACHE_HOME", ".cache").ok_or_else(|| {
            Failure::usage(
                "there is no home directory for the default store; give one with --store file:///DIR",
            )
        })?;
        config.store = format!("file://{}", folder.join("larder").display());
    }
    Ok(config)
}

/// A folder of the XDG base directory specification.
fn folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
        Some(PathBuf::from(home).join(below_home))
    })
}
