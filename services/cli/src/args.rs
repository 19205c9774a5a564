//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use larder::{ContentListen, Role};
use larder_oci::{Platform, PlatformSet};

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
  docker save app | larder import -              what a build made
  larder push app --remote-name ghcr.io/org/app:2
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
        /// Also name each image of an index NAME-ARCH[VARIANT], as linuxkit does
        #[arg(long)]
        arch_names: bool,
        /// What to do with a name that was written here and is not what upstream has
        #[arg(long, value_enum, default_value = "merge")]
        local: Local,
    },
    /// Send images from the cache to a registry
    #[command(after_help = "\
Examples:
  larder push registry.example.org/app:1
  larder push app:1 --remote-name registry.example.org/app:1 --with-arch-tags
  larder push app:1 --remote-name registry.example.org/app:1 --mode merge   keep its other platforms")]
    Push {
        /// Names in the cache
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The name in the registry, for a single one [default: the same]
        #[arg(long, value_name = "REF")]
        remote_name: Option<String>,
        /// Also tag each image of an index TAG-ARCH[VARIANT]
        #[arg(long)]
        with_arch_tags: bool,
        /// What to do when the registry has something else under that name
        #[arg(long, value_enum, default_value = "if-absent")]
        mode: PushMode,
        /// With if-absent, leave what is there and succeed
        #[arg(long)]
        skip_if_exists: bool,
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
    /// Write the SPDX documents of an image's attestations, each followed by a newline
    Sbom {
        /// A name in the cache
        name: String,
        /// For which platform [default: this machine's]
        #[arg(long, value_name = "P")]
        platform: Option<Platform>,
    },
    /// Print an image's configuration, byte for byte
    Config {
        /// A name in the cache
        name: String,
        /// For which platform [default: this machine's]
        #[arg(long, value_name = "P")]
        platform: Option<Platform>,
    },
    /// Write an image out, every byte verified
    #[command(after_help = "\
Examples:
  larder export debian:12 -o debian.tar
  larder export --format docker debian:12 | docker load
  larder export --format filesystem debian:12 | tar -x -C ./root
  larder export --format layout --platform linux/arm64 debian:12 -o ./debian")]
    Export {
        /// A name in the cache
        name: String,
        /// What to write
        #[arg(long, value_enum, default_value = "oci")]
        format: Format,
        /// Only these platforms; a single one is written as a plain image [default: what the cache has, or this machine's for a
        /// format that holds one image]
        #[arg(long, value_name = "P,…|all")]
        platform: Option<PlatformSet>,
        /// The name it gets there [default: the same]
        #[arg(long = "name", value_name = "NAME")]
        as_name: Option<String>,
        /// The file (- for standard output), or the directory of a layout
        #[arg(long, short, value_name = "FILE|-", default_value = "-")]
        output: PathBuf,
    },
    /// Take images in from an archive: OCI layout or docker save, plain or compressed with gzip or zstd
    #[command(after_help = "\
Examples:
  larder import app.tar
  docker save app:1 | larder import -
  larder import --name registry.example.org/app:1 ./oci-layout-directory")]
    Import {
        /// A tar file, the directory of an OCI layout, or - for standard input
        #[arg(value_name = "FILE|DIR|-")]
        from: PathBuf,
        /// The name for its one image [default: the names in the archive]
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// Put images into an index, which is made if need be; an image for the same platform is replaced
    #[command(after_help = "\
Examples:
  larder index registry.example.org/app:1 app:1-amd64 app:1-arm64")]
    Index {
        /// The name of the index
        name: String,
        /// Names in the cache: images, or indexes whose images are taken
        #[arg(required = true, value_name = "REF")]
        references: Vec<String>,
    },
    /// Give what a name points to another name
    Tag {
        /// A name in the cache
        source: String,
        /// The name to give
        target: String,
    },
    /// Remove all names, or those that their registry has
    #[command(after_help = "\
Examples:
  larder clean --published-only && larder gc     keep what exists nowhere else")]
    Clean {
        /// Only names that their registry has with the same digest
        #[arg(long)]
        published_only: bool,
    },
    /// Delete content that no name reaches
    Gc {
        /// Count only
        #[arg(long)]
        dry_run: bool,
        /// Keep what was written or relied on within this time
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
        grace: Duration,
    },
    /// Show how much is stored, and how much of it no name reaches
    Du,
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
  larder serve                                    all roles in this process, a registry at 127.0.0.1:5050
  larder serve --listen 0.0.0.0:5050              for others, too: see docs/configuration.md for access and TLS
  larder --bus nats://nats:4222 --store s3://images serve fetcher
  larder serve --admin-listen 0.0.0.0:5052        /metrics, /healthz and /readyz for all")]
    Serve {
        /// Roles [default: all]
        #[arg(value_enum, value_name = "ROLE")]
        roles: Vec<Role>,
        /// Where the registry API (/v2/) is; port 0 picks a free one [default: http.listen, 127.0.0.1:5050]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        /// Where containerd's content service (gRPC) is: loopback or unix:///SOCKET [default: content.listen, 127.0.0.1:5051]
        #[arg(long, value_name = "ADDRESS")]
        content_listen: Option<ContentListen>,
        /// Where /metrics, /healthz and /readyz are; port 0 picks a free one
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5052")]
        admin_listen: SocketAddr,
    },
    /// Print a completion script
    #[command(after_help = "\
Examples:
  larder completions bash > ~/.local/share/bash-completion/completions/larder")]
    Completions {
        /// For which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
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
    /// Keep its images for other platforms
    Merge,
    /// Replace it
    Replace,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Local {
    /// Keep its images, and add those of upstream for other platforms
    Merge,
    /// Replace it
    Replace,
    /// Fail
    Fail,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// OCI archive (tar)
    Oci,
    /// As docker save and docker load have it (tar, one image)
    Docker,
    /// The root filesystem, all layers laid over each other (tar, one image)
    Filesystem,
    /// OCI layout (directory)
    Layout,
}

impl From<PushMode> for larder_provider::PushMode {
    fn from(mode: PushMode) -> Self {
        match mode {
            PushMode::IfAbsent => Self::IfAbsent,
            PushMode::Merge => Self::Merge,
            PushMode::Replace => Self::Replace,
        }
    }
}

impl From<Local> for larder_provider::OnLocal {
    fn from(local: Local) -> Self {
        match local {
            Local::Merge => Self::Merge,
            Local::Replace => Self::Replace,
            Local::Fail => Self::Fail,
        }
    }
}
