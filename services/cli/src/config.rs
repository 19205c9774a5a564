//! Where settings come from: flags over environment over file over defaults.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Deserialize;

use crate::Failure;

/// All settings. Each crate owns its part.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where blobs and names are: `file:///DIR` or `s3://BUCKET[/PREFIX]`.
    pub store: String,
    /// What services talk over: `mem:` (all in this process) or `nats://HOST:PORT`.
    pub bus: String,
    /// How long a service that was told to stop finishes what it has begun, in seconds.
    pub drain_s: u64,
    /// How to reach NATS.
    pub nats: larder_bus::Config,
    /// How to reach an S3 service.
    pub s3: crate::store::S3,
    /// How to talk to registries.
    pub registry: larder_registry::Config,
    /// How patient the facade is.
    pub facade: larder_facade::Config,
    /// Where the registry API is, and how much a peer may ask of it.
    pub http: larder_facade::door::Config,
    /// With what it is encrypted.
    pub tls: larder_facade::door::TlsConfig,
    /// Who may do what there.
    pub access: larder_facade::door::access::AccessConfig,
    /// Where containerd's content service is, and what users of the content store may do.
    pub content: larder_facade::ContentConfig,
    /// How much a fetcher takes on.
    pub fetcher: larder_fetcher::Config,
    /// How much a verifier takes on.
    pub verifier: larder_verifier::Config,
    /// How much an indexer takes on.
    pub indexer: larder_indexer::Config,
    /// How much a pusher takes on.
    pub pusher: larder_pusher::Config,
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
            http: larder_facade::door::Config::default(),
            tls: larder_facade::door::TlsConfig::default(),
            access: larder_facade::door::access::AccessConfig::default(),
            content: larder_facade::ContentConfig::default(),
            fetcher: larder_fetcher::Config::default(),
            verifier: larder_verifier::Config::default(),
            indexer: larder_indexer::Config::default(),
            pusher: larder_pusher::Config::default(),
        }
    }
}

/// The first words of all settings.
const SETTINGS: [&str; 15] = [
    "store", "bus", "drain_s", "nats", "s3", "registry", "facade", "http", "tls", "access", "content",
    "fetcher", "verifier", "indexer", "pusher",
];

/// The settings below `s3` that are text.
const S3_TEXTS: [&str; 4] = ["endpoint", "region", "access_key_id", "secret_access_key"];

fn is_text(key: &str) -> bool {
    S3_TEXTS.iter().any(|text| key.eq_ignore_ascii_case(&format!("s3__{text}")))
}

fn is_setting(key: &str) -> bool {
    let first = key.split("__").next().unwrap_or(key).to_ascii_lowercase();
    SETTINGS.contains(&first.as_str())
}

/// Reads the settings: `store` and `bus` as given, over the environment (`LARDER_*`), over `file` (or else `larder.toml` here, then in
/// the XDG configuration directory), over the defaults.
///
/// # Errors
/// A usage [`Failure`] that says which setting is wrong, and where it comes from.
pub fn load(file: Option<&Path>, store: Option<&str>, bus: Option<&str>) -> Result<Config, Failure> {
    let mut figment = Figment::new();
    match file {
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
    // Kubernetes sets LARDER_PORT and its like for a Service of that name: only what is a setting by its first word is one. A
    // misspelt key below a known word is still an error.
    let environment =
        Env::prefixed("LARDER_").filter(|key| is_setting(key.as_str()) && !is_text(key.as_str()));
    figment = figment.merge(environment.split("__"));
    for key in S3_TEXTS {
        // Taken as they are: read as figment reads the rest, a key of digits alone would be a number, and shown in an error.
        if let Ok(text) = std::env::var(format!("LARDER_S3__{}", key.to_ascii_uppercase())) {
            figment = figment.merge(Serialized::default(&format!("s3.{key}"), text));
        }
    }
    for (key, value) in [("store", store), ("bus", bus)] {
        if let Some(value) = value {
            figment = figment.merge(Serialized::default(key, value));
        }
    }
    let mut config: Config =
        figment.extract().map_err(|error| Failure::usage(format!("configuration: {error}")))?;
    refuse_zero(&config)?;
    if config.store.is_empty() {
        let folder = folder("XDG_CACHE_HOME", ".cache").map(|folder| folder.join("larder"));
        let url = folder.and_then(|folder| url::Url::from_file_path(folder).ok());
        let url = url.ok_or_else(|| {
            Failure::usage(
                "there is no home directory for the default store; give one with --store file:///DIR",
            )
        })?;
        config.store = url.into();
    }
    Ok(config)
}

/// Refuses settings with which nothing would ever happen.
fn refuse_zero(config: &Config) -> Result<(), Failure> {
    let bounds = [
        ("fetcher.images_in_flight_max", config.fetcher.images_in_flight_max),
        ("fetcher.blobs_in_flight_max", config.fetcher.blobs_in_flight_max),
        ("verifier.images_in_flight_max", config.verifier.images_in_flight_max),
        ("verifier.audits_in_flight_max", config.verifier.audits_in_flight_max),
        ("indexer.names_in_flight_max", config.indexer.names_in_flight_max),
        ("pusher.images_in_flight_max", config.pusher.images_in_flight_max),
    ];
    match bounds.iter().find(|(_, bound)| *bound == 0) {
        Some((key, _)) => Err(Failure::usage(format!("configuration: {key} is 0; it must be at least 1"))),
        None => Ok(()),
    }
}

/// A folder of the XDG base directory specification.
fn folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
        Some(PathBuf::from(home).join(below_home))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_told_from_what_kubernetes_sets() {
        for key in ["STORE", "s3__endpoint", "REGISTRY__HOSTS", "DRAIN_S"] {
            assert!(is_setting(key), "{key}");
        }
        for key in ["PORT", "SERVICE_HOST", "PORT_5050_TCP", "CONFIG", "LOG", "BIN"] {
            assert!(!is_setting(key), "{key}");
        }
    }

    #[test]
    fn every_setting_is_known_by_its_first_word() {
        let known = format!("{:?}", Config::default());
        for word in SETTINGS {
            assert!(known.contains(&format!("{word}: ")), "{word} is no setting");
        }
        // One of them is within another: the door's encryption, which has settings of its own.
        assert_eq!(
            known.matches("Config {").count(),
            13,
            "a new part of the settings wants its word in SETTINGS"
        );
    }
}
