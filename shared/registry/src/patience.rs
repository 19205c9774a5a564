//! How often and how long we put up with failure and slowness.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::config::Config;
use crate::error::RegistryError;
use crate::traffic::Traffic;
use crate::upstream::{Endpoint, Upstream};

/// A host that does not exist, or on which nobody listens, is more often mistyped than about to appear.
const UNANSWERED_MAX: u32 = 2;

/// Waits before trying again: a bounded number, growing, with jitter, never shorter than the registry asks for.
pub(crate) struct Retries {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    wait_max: Duration,
    /// Times in a row that nobody was found listening, or no such host.
    unanswered: u32,
    traffic: Arc<Traffic>,
}

impl Retries {
    pub(crate) fn new(config: &Config, traffic: &Arc<Traffic>) -> Self {
        let wait_max = Duration::from_millis(config.retry_wait_ms_max);
        let builder = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(config.retry_wait_ms_min))
            .with_max_delay(wait_max)
            .with_max_times(config.retries_max as usize);
        Self { builder, waits: builder.build(), wait_max, unanswered: 0, traffic: Arc::clone(traffic) }
    }

    /// The same, waiting for no longer than `wait_max` at a time.
    pub(crate) fn at_most(mut self, wait_max: Duration) -> Self {
        self.wait_max = self.wait_max.min(wait_max);
        self
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// `error` itself, when trying again is no use or has been tried often enough.
    pub(crate) async fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if error.is_retryable() { self.pause(error).await } else { Err(error) }
    }

    /// [`Retries::after`] an error that a retry may mend even though it does not look like it.
    pub(crate) async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.unanswered = if error.is_unanswered() { self.unanswered + 1 } else { 0 };
        if self.unanswered > UNANSWERED_MAX {
            return Err(error);
        }
        let Some(wait) = self.wait(error.retry_after()) else {
            return Err(error);
        };
        self.traffic.retried();
        tracing::debug!(%error, ?wait, "trying the registry again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn wait(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let wait = self.waits.next()?;
        Some(asked.map_or(wait, |asked| wait.max(asked)).min(self.wait_max))
    }

    /// Starts counting anew.
    pub(crate) fn reset(&mut self) {
        self.waits = self.builder.build();
    }
}

/// Turns through the endpoints of an upstream: each mirror once, then the origin; then, after a wait, all over again.
pub(crate) struct Turns {
    pub(crate) upstream: Arc<Upstream>,
    turn: usize,
    pub(crate) retries: Retries,
}

impl Turns {
    pub(crate) fn new(upstream: Arc<Upstream>, retries: Retries) -> Self {
        let mut turns = Self { upstream, turn: 0, retries };
        turns.skip_resting();
        turns
    }

    /// Leaves out the mirrors this time round.
    pub(crate) fn skip_mirrors(&mut self) {
        self.turn = self.upstream.endpoints().len() - 1;
    }

    /// Whose turn it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.upstream.endpoints()[self.turn]
    }

    /// The position of [`Turns::endpoint`].
    pub(crate) fn turn(&self) -> usize {
        self.turn
    }

    /// Passes the turn on, because of `error`.
    ///
    /// # Errors
    /// `error` itself, when the origin's turn was the last, or the origin is to be left alone for longer than we wait.
    pub(crate) async fn failed(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let endpoint = self.endpoint();
        if endpoint.is_mirror() {
            tracing::debug!(mirror = endpoint.host(), %error, "passing over a mirror");
            self.turn += 1;
        } else {
            // It would still rest when we come back.
            if endpoint.rest().left().is_some_and(|left| left > self.retries.wait_max) {
                return Err(error);
            }
            self.retries.after(error).await?;
            self.turn = 0;
        }
        self.skip_resting();
        Ok(())
    }

    fn skip_resting(&mut self) {
        while self.endpoint().is_mirror() && self.endpoint().rest().left().is_some() {
            self.turn += 1;
        }
    }
}

/// Notices a transfer that trickles. Only the time that we wait for the network counts.
pub(crate) struct RateFloor {
    bytes_per_s: u64,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl RateFloor {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            bytes_per_s: config.rate_floor_bytes_per_s,
            window: Duration::from_secs(config.rate_floor_window_s),
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Takes note of a frame; returns whether the last full window stayed below the floor.
    pub(crate) fn is_below(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.window {
            return false;
        }
        let least = self.bytes_per_s.saturating_mul(self.waited.as_secs());
        let is_below = self.bytes < least;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_below
    }

    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }

    /// Starts measuring anew.
    pub(crate) fn reset(&mut self) {
        (self.waited, self.bytes) = (Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_stay_below_the_cap_and_end() {
        let config = Config { retries_max: 3, ..Config::default() };
        let mut retries = Retries::new(&config, &Arc::default());
        let millis = |wait: Option<Duration>| wait.unwrap().as_millis();
        assert!((200..=400).contains(&millis(retries.wait(None))));
        let asked = Some(Duration::from_secs(7));
        assert_eq!(millis(retries.wait(asked)), 7_000);
        let asked = Some(Duration::from_hours(24));
        assert_eq!(millis(retries.wait(asked)), 60_000);
        assert!(retries.wait(None).is_none());
        retries.reset();
        assert!(retries.wait(None).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_as_long_as_the_registry_asks() {
        let mut retries = Retries::new(&Config::default(), &Arc::default());
        let began = tokio::time::Instant::now();
        let limited = |retry_after| RegistryError::RateLimited {
            host: "r.example".to_owned(),
            retry_after,
            reason: crate::Reason::default(),
        };
        let seconds = |s| Some(Duration::from_secs(s));
        retries.after(limited(seconds(42))).await.unwrap();
        let passed = began.elapsed();
        assert!((42..43).contains(&passed.as_secs()), "{passed:?}");
    }

    #[test]
    fn a_trickle_is_below_the_floor_and_a_burst_is_not() {
        let mut floor = RateFloor::new(&Config::default());
        let second = Duration::from_secs(1);
        for _ in 0..29 {
            assert!(!floor.is_below(second, 1));
        }
        assert!(floor.is_below(second, 1));
        assert!(!floor.is_below(29 * second, 40_000));
        assert!(!floor.is_below(second, 0));
        assert!(floor.is_below(30 * second, 0));
    }
}
