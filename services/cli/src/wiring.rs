//! Which actors run in this process, and what they work with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_blobs::Blobs;
use larder_bus::{Bus, BusError, Durability};
use larder_catalog::Catalog;
use larder_facade::Facade;
use larder_messages::{Reason, ReasonKind};
use larder_registry::Client;
use larder_runtime::{Runtime, metrics};

use crate::{Config, Failure, Kind, Role};

/// What a process is made of.
pub struct Process {
    /// Its bus and tasks.
    pub runtime: Runtime,
    /// The cache.
    pub facade: Facade,
    registry: Client,
}

impl Process {
    /// A process for one command: everything is in it when there is no farm, only the facade when there is one.
    ///
    /// # Errors
    /// A [`Failure`] that says which part cannot be started.
    pub async fn for_command(config: &Config) -> Result<Self, Failure> {
        let roles = if is_alone(config) { &Role::ALL[..] } else { &[Role::Facade] };
        Self::start(config, roles).await
    }

    /// A process with `roles`.
    ///
    /// # Errors
    /// As [`Process::for_command`].
    pub async fn start(config: &Config, roles: &[Role]) -> Result<Self, Failure> {
        let (blobs, catalog) = crate::store::open(&config.store, &config.s3).await?;
        let bus = larder_bus::open(&config.bus, &config.nats).await;
        let bus: Arc<dyn Bus> = bus.map_err(|error| bus_failure(&error))?;
        let registry = Client::new(config.registry.clone());
        let registry = registry.map_err(|error| Failure::usage(chain(&error)))?;
        let runtime = Runtime::new(bus);
        for role in roles {
            start_role(*role, &runtime, config, &blobs, &catalog, &registry);
        }
        let facade = Facade::new(runtime.voice().clone(), &config.facade, &config.content, blobs, catalog);
        Ok(Self { runtime, facade, registry })
    }

    /// Completes what was left for later, and lets go of a farm's bus once what was said last is on its way.
    ///
    /// # Errors
    /// A [`Failure`] when what other tools read of the names could not be brought up to date.
    pub async fn finish(&self, config: &Config) -> Result<(), Failure> {
        let finished = self.facade.finish().await;
        if !is_alone(config) {
            self.runtime.stop(Duration::ZERO).await;
        }
        Ok(finished?)
    }

    /// Brings the registry client's totals into the metrics.
    pub fn refresh(&self) -> impl Fn() + Clone + Send + Sync + use<> {
        let registry = self.registry.clone();
        move || {
            let traffic = registry.traffic();
            let requests = [
                ("manifest_get", &traffic.manifest_get),
                ("manifest_head", &traffic.manifest_head),
                ("blob_get", &traffic.blob_get),
                ("token", &traffic.token),
                ("push", &traffic.push),
                ("retry", &traffic.retries),
            ];
            for (kind, total) in requests {
                catch_up(
                    &metrics::UPSTREAM_REQUESTS.with_label_values(&[kind]),
                    total.load(Ordering::Relaxed),
                );
            }
            for (direction, total) in
                [("upstream_in", &traffic.bytes_in), ("upstream_out", &traffic.bytes_out)]
            {
                catch_up(&metrics::BYTES.with_label_values(&[direction]), total.load(Ordering::Relaxed));
            }
        }
    }
}

fn bus_failure(error: &BusError) -> Failure {
    let failure = Failure::failed("cannot open the bus", chain(error));
    match error {
        BusError::InvalidUrl { .. } | BusError::InvalidConfig { .. } => {
            Failure { kind: Kind::Usage, ..failure }
        }
        _ => failure,
    }
}

fn catch_up(counter: &prometheus::IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

/// Whether there is nobody else to do the work.
pub fn is_alone(config: &Config) -> bool {
    config.bus == "mem:"
}

fn start_role(
    role: Role,
    runtime: &Runtime,
    config: &Config,
    blobs: &Blobs,
    catalog: &Catalog,
    registry: &Client,
) {
    match role {
        // Clients call it; it hears nothing.
        Role::Facade => {}
        Role::Fetcher => larder_fetcher::start(runtime, &config.fetcher, blobs.clone(), registry.clone()),
        Role::Verifier => larder_verifier::start(runtime, &config.verifier, blobs.clone()),
        Role::Indexer => larder_indexer::start(runtime, &config.indexer, blobs.clone(), catalog.clone()),
        Role::Pusher => larder_pusher::start(runtime, &config.pusher, blobs.clone(), registry.clone()),
    }
}

/// Says loudly what a power failure of the bus costs.
pub async fn warn_of_lazy_sync(config: &Config) {
    if is_alone(config) {
        return;
    }
    match larder_bus::durability(&config.bus, &config.nats).await {
        Durability::SyncsAlways => {}
        Durability::SyncsLazily { interval } => tracing::warn!(
            ?interval,
            "nats-server does not sync always: a power failure loses acknowledged work, which clients will then have to \
             ask for again; set jetstream {{ sync_interval: always }}"
        ),
        Durability::Unknown { why } => tracing::warn!(
            why,
            "cannot tell whether nats-server syncs always; set jetstream {{ sync_interval: always }}, and nats.monitor_url to check it"
        ),
    }
}

/// The message of an error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    Reason::of(ReasonKind::Other, error).message
}
