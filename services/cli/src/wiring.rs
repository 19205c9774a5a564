//! Which actors run in this process, and what they work with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_bus::{Bus, BusError, Durability};
use larder_facade::door::DoorError;
use larder_facade::door::access::Access;
use larder_facade::{Distribution, Facade};
use larder_fetcher::Fills;
use larder_messages::{Reason, ReasonKind};
use larder_oci::Reference;
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
    /// What its fetcher is bringing in, if it has one.
    fills: Option<Fills>,
}

/// Where a facade is reached.
pub struct Doors {
    /// The URL of the registry API.
    pub registry: String,
    /// The address of containerd's content service.
    pub content: String,
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
        let mut fills = None;
        for role in roles {
            match role {
                // Clients call it; it hears nothing.
                Role::Facade => {}
                Role::Fetcher => {
                    let started =
                        larder_fetcher::start(&runtime, &config.fetcher, blobs.clone(), registry.clone());
                    fills = Some(started);
                }
                Role::Verifier => larder_verifier::start(&runtime, &config.verifier, blobs.clone()),
                Role::Indexer => {
                    larder_indexer::start(&runtime, &config.indexer, blobs.clone(), catalog.clone());
                }
                Role::Pusher => {
                    larder_pusher::start(&runtime, &config.pusher, blobs.clone(), registry.clone());
                }
            }
        }
        let facade = Facade::new(runtime.voice().clone(), &config.facade, &config.content, blobs, catalog);
        Ok(Self { runtime, facade, registry, fills })
    }

    /// Opens the doors of a facade: the registry API, and containerd's content service.
    ///
    /// # Errors
    /// A usage [`Failure`] for settings and files that are wrong, and one that says which address cannot be listened on.
    pub async fn open_doors(&self, config: &Config) -> Result<Doors, Failure> {
        let mut http = config.http.clone();
        http.tls = config.tls.clone();
        let access =
            Access::open(&config.access, http.is_loopback()).map_err(|error| door_failure(&error))?;
        let access = access.with_default_upstream(&config.facade.default_upstream);
        refuse_urls(config)?;
        let mut serving = config.facade.clone();
        // Whoever says how a registry is reached wants it asked.
        serving.upstreams.extend(config.registry.hosts.keys().cloned());
        let distribution = Arc::new(Distribution::start(&self.runtime, &self.facade, &serving, access));
        let answer = move |request, _| {
            let distribution = Arc::clone(&distribution);
            async move { distribution.answer(request).await }
        };
        let address = larder_facade::door::serve(&self.runtime, &http, answer).await;
        let address = address.map_err(|error| door_failure(&error))?;
        let scheme = if http.tls.certificate.is_some() { "https" } else { "http" };
        let listen = &config.content.listen;
        let content = larder_facade::grpc::serve(&self.runtime, listen, &self.facade).await;
        let content = content.map_err(|error| {
            Failure::failed(
                &format!("cannot listen on {listen} (choose another with --content-listen)"),
                error,
            )
        })?;
        Ok(Doors { registry: format!("{scheme}://{address}"), content })
    }

    /// Lets facades of other processes read what this one's fetcher is bringing in.
    ///
    /// # Errors
    /// A [`Failure`] that says which address cannot be listened on.
    pub async fn serve_fills(&self, config: &Config) -> Result<(), Failure> {
        let Some(fills) = &self.fills else { return Ok(()) };
        let served = fills.serve(&self.runtime).await;
        served.map(drop).map_err(|error| {
            let listen = config.fetcher.fills_listen;
            Failure::failed(
                &format!("cannot listen on {listen} (choose another by fetcher.fills_listen)"),
                error,
            )
        })
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
                ("blob_head", &traffic.blob_head),
                ("listing", &traffic.listing),
                ("token", &traffic.token),
                ("push", &traffic.push),
                ("retry", &traffic.retries),
                ("limited", &traffic.limited),
            ];
            for (kind, total) in requests {
                catch_up(
                    &metrics::UPSTREAM_REQUESTS.with_label_values(&[kind]),
                    total.load(Ordering::Relaxed),
                );
            }
            let resting = registry.resting();
            for (reason, limited) in [("limited", true), ("failing", false)] {
                let count = resting.iter().filter(|host| host.limited == limited).count();
                metrics::UPSTREAMS_RESTING
                    .with_label_values(&[reason])
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            for (direction, total) in
                [("upstream_in", &traffic.bytes_in), ("upstream_out", &traffic.bytes_out)]
            {
                catch_up(&metrics::BYTES.with_label_values(&[direction]), total.load(Ordering::Relaxed));
            }
        }
    }
}

/// Refuses upstreams that are no `host[:port]`, such as URLs: no request would ever mean them.
fn refuse_urls(config: &Config) -> Result<(), Failure> {
    let listed = config.facade.upstreams.iter().map(|host| ("facade.upstreams", host));
    let all = listed.chain([("facade.default_upstream", &config.facade.default_upstream)]);
    for (key, host) in all.filter(|(key, host)| *key != "facade.upstreams" || *host != "*") {
        let image = format!("{host}/a/b:x").parse::<Reference>();
        if !image.is_ok_and(|image| image.registry().eq_ignore_ascii_case(host)) {
            let message = format!("configuration: {key} has {host:?}, which is no registry's HOST[:PORT]");
            return Err(Failure::usage(message));
        }
    }
    Ok(())
}

fn door_failure(error: &DoorError) -> Failure {
    let failure = Failure::failed("cannot open the registry API (http, tls, access)", chain(error));
    match error {
        DoorError::Listen { .. } => failure,
        _ => Failure { kind: Kind::Usage, ..failure },
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
