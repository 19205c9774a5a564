//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use larder_oci::PlatformSet;

/// A hash-verified cache of OCI images, in one directory or on a farm.
#[derive(Parser)]
#[command(
    name = "larder",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  larder pull debian:12                          into the cache, for this machine's platform
  larder pull --platform all ghcr.io/org/app:1   for every platform it has
  larder ls
  larder export debian:12 -o debian.tar          as an OCI archive
  skopeo copy oci:$HOME/.cache/larder:docker.io/library/debian:12 dir:/tmp/debian
                                                 the cache is an OCI image layout

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 integrity (a digest, size or manifest did not hold)."
)]
pub(crate) struct Cli {
    /// Configuration file [default: ./larder.toml, then larder/larder.toml in the XDG config directory]
    #[arg(long, global = true, env = "LARDER_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where blobs and names are: file:///DIR or s3://BUCKET[/PREFIX] [default: larder in the XDG cache directory]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// What services talk over: mem: (all in this process) or nats://HOST:PORT [default: mem:]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) bus: Option<String>,
    /// Print one JSON object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print no progress and no summary
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Log more (twice: everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log filter, as of tracing-subscriber, for example larder=debug
    #[arg(long, global = true, env = "LARDER_LOG", value_name = "FILTER", hide = true)]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Bring images into the cache
    #[command(after_help = "\
Examples:
  larder pull alpine
  larder pull --platform linux/arm64,linux/amd64 alpine debian:12
  larder pull --always registry.example.org/app:main   ask upstream whether the tag has moved")]
    Pull {
        /// References, for example debian:12 or ghcr.io/org/app@sha256:…
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
        /// Platforms, or all [default: this machine's]
        #[arg(long, value_name = "P,…|all")]
        platform: Option<PlatformSet>,
        /// Ask upstream whether a cached name still points to the same
        #[arg(long)]
        always: bool,
    },
    /// Send an image from the cache to a registry, byte for byte
    Push {
        /// The name in the cache
        name: String,
        /// The name in the registry [default: the same]
        #[arg(long, value_name = "REF")]
        remote_name: Option<String>,
        /// What to do when the registry has something else under that name
        #[arg(long, value_enum, default_value = "if-absent")]
        mode: PushMode,
    },
    /// List the names in the cache
    Ls,
    /// Show what a name points to: platforms, layers, what is there
    Inspect {
        /// A name in the cache
        name: String,
        /// Print the manifest or index itself, byte for byte
        #[arg(long)]
        raw: bool,
    },
    /// Show every change of a name
    History {
        /// A name in the cache, or one that was
        name: String,
    },
    /// Write a blob to standard output, verified
    Cat {
        /// Its digest, sha256:… or sha512:…
        digest: String,
    },
    /// Write an image out, every byte verified
    #[command(after_help = "\
Examples:
  larder export debian:12 -o debian.tar
  larder export debian:12 | docker load
  larder export --format layout --platform linux/arm64 debian:12 -o ./debian")]
    Export {
        /// A name in the cache
        name: String,
        /// A tar stream of an OCI layout, or an OCI layout in a directory
        #[arg(long, value_enum, default_value = "oci")]
        format: Format,
        /// Only these platforms; a single one is written as a plain image [default: what the cache has]
        #[arg(long, value_name = "P,…|all")]
        platform: Option<PlatformSet>,
        /// The name it gets there [default: the same]
        #[arg(long = "name", value_name = "NAME")]
        as_name: Option<String>,
        /// The file (- for standard output), or the directory of a layout
        #[arg(long, short, value_name = "FILE|-", default_value = "-")]
        output: PathBuf,
    },
    /// Remove names; their content stays until it is collected
    Rm {
        /// Names in the cache
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Re-hash what names point to, at rest
    Verify {
        /// Names in the cache
        #[arg(value_name = "REF", required_unless_present = "all")]
        names: Vec<String>,
        /// All names
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Run services until told to stop
    #[command(after_help = "\
Examples:
  larder serve                                    all roles in this process
  larder --bus nats://nats:4222 --store s3://images serve fetcher
  larder serve --admin-listen 0.0.0.0:5052        /metrics, /healthz and /readyz for all")]
    Serve {
        /// Roles [default: all]
        #[arg(value_enum, value_name = "ROLE")]
        roles: Vec<Role>,
        /// Where /metrics, /healthz and /readyz are; port 0 picks a free one
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5052")]
        admin_listen: SocketAddr,
    },
    /// Show work that nobody could finish
    Jobs {
        /// How many entries at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PushMode {
    /// Fail
    IfAbsent,
    /// Replace it
    Replace,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// OCI archive (tar)
    Oci,
    /// OCI layout (directory)
    Layout,
}

/// What a process does on a farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Answers clients
    Facade,
    /// Reads from upstream registries
    Fetcher,
    /// Judges images
    Verifier,
    /// Writes names
    Indexer,
    /// Writes to upstream registries
    Pusher,
}

impl Role {
    pub(crate) const ALL: [Self; 5] =
        [Self::Facade, Self::Fetcher, Self::Verifier, Self::Indexer, Self::Pusher];
}
