//! What tags point to, how long that counts, and what is served when upstream is away.

use std::time::{Duration, Instant};

use larder_catalog::{Origin, Record};
use larder_messages::{ImageWanted, now_ms};
use larder_oci::{Descriptor, OnLocal, PlatformSet, Reference};
use larder_provider::{ProviderError, PullOptions};
use moka::Expiry;
use moka::future::Cache;

use super::place::Place;
use super::reply::{Code, Refusal};
use crate::error::catalog_error;
use crate::{Config, Facade};

/// Tags that are remembered; beyond, those asked for least are forgotten.
const TAGS_MAX: u64 = 65_536;
/// How long a tag is remembered without looking into the catalog. Other processes' changes are heard of; this is for those that are
/// not heard of.
const REMEMBERED: Duration = Duration::from_secs(1);
/// How long a client waits for upstream when there is nothing else to give it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// From here, without a word to upstream.
    Hit,
    /// From here, after upstream said that it is still so.
    Revalidated,
    /// From here, although upstream could not be asked.
    Stale,
    /// From upstream.
    Miss,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Miss => "miss",
        }
    }
}

/// What a tag points to.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) root: Descriptor,
    pub(super) outcome: Outcome,
    /// Seconds since it came to point there, as far as is known here; given when upstream could not be asked.
    pub(super) age_s: Option<u64>,
}

/// What upstream said of a tag.
#[derive(Clone)]
enum Check {
    Found(Descriptor),
    Absent,
    Failed(ProviderError),
}

struct Lifetimes {
    fresh: Duration,
    negative: Duration,
}

impl Expiry<String, Check> for Lifetimes {
    fn expire_after_create(&self, _: &String, check: &Check, _: Instant) -> Option<Duration> {
        Some(match check {
            Check::Found(_) => self.fresh,
            Check::Absent | Check::Failed(_) => self.negative,
        })
    }

    /// What takes the place of an expired entry that is not swept out yet counts as an update, whose lifetime begins anew as well.
    fn expire_after_update(
        &self,
        name: &String,
        check: &Check,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(name, check, now)
    }
}

#[derive(Clone)]
pub(super) struct Tags {
    facade: Facade,
    records: Cache<String, Record>,
    checks: Cache<String, Check>,
    fresh: Duration,
    stale_after: Duration,
}

impl Tags {
    pub(super) fn new(facade: &Facade, config: &Config) -> Self {
        let fresh = Duration::from_secs(config.fresh_s);
        let lifetimes = Lifetimes { fresh, negative: Duration::from_secs(config.negative_s) };
        Self {
            facade: facade.clone(),
            records: Cache::builder().max_capacity(TAGS_MAX).time_to_live(REMEMBERED).build(),
            checks: Cache::builder().max_capacity(TAGS_MAX).expire_after(lifetimes).build(),
            fresh,
            stale_after: Duration::from_secs(config.stale_after_s),
        }
    }

    /// Forgets `name`: it has changed.
    pub(super) async fn forget(&self, name: &str) {
        self.records.invalidate(name).await;
        self.checks.invalidate(name).await;
    }

    /// What the tag `reference` of `place` points to.
    pub(super) async fn resolve(&self, place: &Place, reference: &Reference) -> Result<Resolved, Refusal> {
        let name = reference.name();
        let record = self.record(&name).await?;
        let Some((record, root)) = record.and_then(|record| Some((record.clone(), record.descriptor?)))
        else {
            return self.resolve_unknown(place, reference, name).await;
        };
        let hit = |root| Resolved { root, outcome: Outcome::Hit, age_s: None };
        if record.origin == Origin::Written || !place.has_upstream || self.is_fresh(&record) {
            return Ok(hit(root));
        }
        let check = self.check(reference, name, Some(&root)).await;
        match check.value {
            // What was learnt from upstream a while ago may have been overtaken here since.
            Check::Found(_) if !check.is_new => Ok(hit(root)),
            Check::Found(theirs) if theirs.digest == root.digest => {
                Ok(Resolved { root: theirs, outcome: Outcome::Revalidated, age_s: None })
            }
            Check::Found(theirs) => Ok(Resolved { root: theirs, outcome: Outcome::Miss, age_s: None }),
            Check::Absent | Check::Failed(_) => {
                let age_s = Some(now_ms().saturating_sub(record.at_ms) / 1_000);
                Ok(Resolved { root, outcome: Outcome::Stale, age_s })
            }
        }
    }

    async fn resolve_unknown(
        &self,
        place: &Place,
        reference: &Reference,
        name: String,
    ) -> Result<Resolved, Refusal> {
        let unknown = || Refusal::new(Code::ManifestUnknown, format!("{reference} is not here"));
        if !place.has_upstream {
            return Err(unknown());
        }
        match self.check(reference, name, None).await.value {
            Check::Found(root) => Ok(Resolved { root, outcome: Outcome::Miss, age_s: None }),
            Check::Absent => Err(unknown()),
            Check::Failed(error) => Err(Refusal::of(&error, Code::ManifestUnknown)),
        }
    }

    fn is_fresh(&self, record: &Record) -> bool {
        u128::from(now_ms().saturating_sub(record.at_ms)) < self.fresh.as_millis()
    }

    async fn record(&self, name: &str) -> Result<Option<Record>, Refusal> {
        if let Some(record) = self.records.get(name).await {
            return Ok(Some(record));
        }
        let found = self.facade.catalog.resolve(name).await;
        let found = found.map_err(|error| Refusal::of(&catalog_error(&error), Code::NameInvalid))?;
        // What is pushed through one facade must be seen at once through all others, whether they have heard of it yet or not.
        if let Some(record) = found.as_ref().filter(|record| record.origin != Origin::Written) {
            self.records.insert(name.to_owned(), record.clone()).await;
        }
        Ok(found)
    }

    /// Asks upstream, once for all who want to know at the same time.
    async fn check(&self, reference: &Reference, name: String, known: Option<&Descriptor>) -> Checked {
        let entry = self.checks.entry(name.clone()).or_insert_with(self.ask(reference, known)).await;
        if entry.is_fresh() {
            self.records.invalidate(&name).await;
        }
        Checked { is_new: entry.is_fresh(), value: entry.into_value() }
    }

    async fn ask(&self, reference: &Reference, known: Option<&Descriptor>) -> Check {
        let wanted = ImageWanted {
            reference: reference.clone(),
            platforms: PlatformSet::All,
            known: known.cloned(),
            revalidate: true,
            shallow: true,
            local: OnLocal::Fail,
        };
        let options = PullOptions::default();
        let patience = if known.is_some() { self.stale_after } else { PATIENCE };
        match tokio::time::timeout(patience, self.facade.want(&wanted, &options)).await {
            Ok(Ok(pulled)) => Check::Found(pulled.root().clone()),
            Ok(Err(error)) if error.is_not_found() => Check::Absent,
            Ok(Err(error)) => {
                tracing::warn!(%reference, %error, "upstream cannot tell what a tag points to");
                Check::Failed(error)
            }
            Err(_) => Check::Failed(ProviderError::TimedOut(patience)),
        }
    }
}

struct Checked {
    value: Check,
    is_new: bool,
}
