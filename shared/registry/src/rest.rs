//! Hosts that are left alone, because they ask for it or fail too often in a row; and who else is to know.
//!
//! **Invariant:** of a host whose rest has ended, one request at a time finds out whether it is well again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::error::RegistryError;

/// Failures in a row after which a host is left alone.
const FAILURES_MAX: u32 = 5;
/// The first rest of a host that fails; each one in a row is twice as long.
const REST_MIN: Duration = Duration::from_secs(10);
const REST_MAX: Duration = Duration::from_mins(2);
/// No host is left alone for longer, whatever it or anybody else says.
const LIMIT_MAX: Duration = Duration::from_mins(10);
/// What ends sooner is over before others know of it.
const NEWS_MIN: Duration = Duration::from_secs(1);
/// How much news a slow listener may miss none of.
const NEWS_IN_FLIGHT_MAX: usize = 64;
/// Beyond as many hosts, those that are well and not in use are forgotten.
const HOSTS_MAX: usize = 1024;

/// A host that is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resting {
    /// Its `host[:port]`, as references or mirrors name it.
    pub host: String,
    /// For how much longer.
    pub left: Duration,
    /// Whether it said so, or failed too often in a row.
    pub limited: bool,
}

/// Hears which hosts come to rest.
#[derive(Debug)]
pub struct Rests(broadcast::Receiver<Resting>);

impl Rests {
    /// The next host that has come to rest by what this process has seen of it; `None` once the client is gone.
    pub async fn next(&mut self) -> Option<Resting> {
        loop {
            match self.0.recv().await {
                Ok(resting) => return Some(resting),
                // What was missed is old: whoever asks such a host will be told again.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// All hosts that a client has to do with.
pub(crate) struct Hosts {
    /// The shortest rest of a host that wants one and does not say how long.
    limit_min: Duration,
    known: Mutex<HashMap<String, Arc<Host>>>,
    news: broadcast::Sender<Resting>,
}

impl Hosts {
    pub(crate) fn new(limit_min: Duration) -> Self {
        Self { limit_min, known: Mutex::default(), news: broadcast::Sender::new(NEWS_IN_FLIGHT_MAX) }
    }

    /// The host of this name; all who ask it share one.
    pub(crate) fn named(&self, name: &str) -> Arc<Host> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = known.get(name) {
            return Arc::clone(host);
        }
        if known.len() >= HOSTS_MAX {
            known.retain(|_, host| Arc::strong_count(host) > 1 || host.left().is_some());
        }
        if known.len() >= HOSTS_MAX {
            known.retain(|_, host| Arc::strong_count(host) > 1);
        }
        let host = Arc::new(Host {
            name: name.to_owned(),
            limit_min: self.limit_min,
            state: watch::Sender::new(State::default()),
            news: self.news.clone(),
        });
        known.insert(name.to_owned(), Arc::clone(&host));
        host
    }

    pub(crate) fn listen(&self) -> Rests {
        Rests(self.news.subscribe())
    }

    /// Those that rest now.
    pub(crate) fn resting(&self) -> Vec<Resting> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(|host| host.left().map(|_| host.resting())).collect()
    }
}

/// One host, and whether it rests.
pub(crate) struct Host {
    name: String,
    limit_min: Duration,
    state: watch::Sender<State>,
    news: broadcast::Sender<Resting>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Failures in a row, each of a request that began after the one before had failed.
    failures: u32,
    /// Rests in a row.
    rests: u32,
    /// When it was last seen to fail or to ask for a rest; what was asked before says nothing new.
    known_at: Option<Instant>,
    /// When its rest ends. It is taken for well again only when a request after that has shown it.
    until: Option<Instant>,
    /// Whether it asked for its rest.
    limited: bool,
    /// Whether a request is finding out.
    is_probed: bool,
}

/// What a request has shown of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answers.
    Well,
    /// It failed; this counts as so many failures.
    Failed { weight: u32 },
    /// It wants fewer requests, and perhaps says for how long none.
    Limited { asked: Option<Duration> },
    /// Nothing: the request went wrong on our side, or was given up.
    Unknown,
}

impl Health {
    /// It failed, and another can do its work.
    pub(crate) const REPLACEABLE: Self = Self::Failed { weight: FAILURES_MAX };
}

impl Host {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How much longer it rests; `None` when it may be asked now.
    pub(crate) fn left(&self) -> Option<Duration> {
        let (state, now) = (*self.state.borrow(), Instant::now());
        match state.until? {
            until if now < until => Some(until - now),
            _ if state.is_probed => Some(NEWS_MIN),
            _ => None,
        }
    }

    fn resting(&self) -> Resting {
        let left = self.left().unwrap_or_default();
        Resting { host: self.name.clone(), left, limited: self.state.borrow().limited }
    }

    /// Leave to ask it. While it rests, waits for that up to `patience`.
    ///
    /// # Errors
    /// [`RegistryError::RateLimited`] or [`RegistryError::Resting`] when it rests for longer.
    pub(crate) async fn leave(self: &Arc<Self>, patience: Duration) -> Result<Leave, RegistryError> {
        let mut changes = self.state.subscribe();
        let deadline = Instant::now() + patience;
        loop {
            changes.mark_unchanged();
            let wake = match self.try_leave() {
                Ok(leave) => return Ok(leave),
                // Whoever is finding out will tell.
                Err(until) => until.unwrap_or(deadline),
            };
            if wake > deadline || Instant::now() >= deadline {
                return Err(self.resting().into());
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Leave to ask it now, or else when its rest ends; `None` when somebody is finding out whether it is well.
    fn try_leave(self: &Arc<Self>) -> Result<Leave, Option<Instant>> {
        let begun = Instant::now();
        let mut answer = Ok(false);
        self.state.send_if_modified(|state| {
            answer = match state.until {
                None => Ok(false),
                Some(until) if begun < until => Err(Some(until)),
                Some(_) if state.is_probed => Err(None),
                Some(_) => Ok(true),
            };
            state.is_probed |= answer == Ok(true);
            false
        });
        answer.map(|is_probe| Leave { host: Arc::clone(self), begun, is_probe })
    }

    /// Leaves it alone for `left`, at most ten minutes, as others have learnt.
    pub(crate) fn impose(&self, left: Duration, limited: bool) {
        let now = Instant::now();
        self.state.send_modify(|state| state.rest(now, left.min(LIMIT_MAX), limited));
    }

    fn learn(&self, begun: Instant, health: Health) {
        let now = Instant::now();
        let mut is_news = false;
        self.state.send_if_modified(|state| {
            let is_old = state.known_at.is_some_and(|known_at| begun < known_at);
            match health {
                Health::Well if is_old || state.known_at.is_none() => return false,
                Health::Well => *state = State::default(),
                Health::Failed { .. } if is_old => return false,
                Health::Failed { weight } => {
                    state.failures = state.failures.saturating_add(weight);
                    state.known_at = Some(now);
                    if state.failures >= FAILURES_MAX {
                        let rest = (REST_MIN * (1 << state.rests.min(8))).min(REST_MAX);
                        state.rest(now, rest, false);
                        state.rests = state.rests.saturating_add(1);
                        is_news = true;
                    }
                }
                Health::Limited { asked } => {
                    if is_old && state.limited && asked.is_none() {
                        return false;
                    }
                    let rest = asked.unwrap_or(self.limit_min * (1 << state.rests.min(8))).min(LIMIT_MAX);
                    let before = state.until;
                    state.rest(now, rest, true);
                    state.rests = state.rests.saturating_add(1);
                    let until = now + rest;
                    is_news = rest >= NEWS_MIN && before.is_none_or(|before| before + NEWS_MIN <= until);
                }
                Health::Unknown => return false,
            }
            true
        });
        if is_news {
            let resting = self.resting();
            tracing::warn!(host = resting.host, left = ?resting.left, limited = resting.limited, "leaving a registry alone");
            // Nobody needs to listen.
            let _ = self.news.send(resting);
        }
    }

    fn end_probe(&self) {
        self.state.send_modify(|state| state.is_probed = false);
    }
}

impl State {
    fn rest(&mut self, now: Instant, left: Duration, limited: bool) {
        let until = now + left;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
        self.known_at = Some(now);
        self.limited = limited;
    }
}

impl From<Resting> for RegistryError {
    fn from(Resting { host, left, limited }: Resting) -> Self {
        if limited {
            Self::RateLimited { host, retry_after: Some(left), reason: crate::Reason::default() }
        } else {
            Self::Resting { host, left }
        }
    }
}

/// Leave to ask a host once. Dropped without [`Leave::learned`] it has shown nothing.
pub(crate) struct Leave {
    host: Arc<Host>,
    begun: Instant,
    is_probe: bool,
}

impl Leave {
    /// Takes note of what the request has shown.
    pub(crate) fn learned(self, health: Health) {
        self.host.learn(self.begun, health);
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if self.is_probe {
            self.host.end_probe();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const FAILED: Health = Health::Failed { weight: 1 };
    const NO_PATIENCE: Duration = Duration::ZERO;

    fn hosts() -> Hosts {
        Hosts::new(Duration::from_millis(200))
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    async fn ask(host: &Arc<Host>, health: Health) {
        host.leave(NO_PATIENCE).await.unwrap().learned(health);
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_and_closes_when_one_request_succeeds() {
        let hosts = hosts();
        let (host, mut rests) = (hosts.named("r.example"), hosts.listen());
        for _ in 0..4 {
            ask(&host, FAILED).await;
        }
        ask(&host, Health::Well).await;
        for _ in 0..5 {
            assert_eq!(host.left(), None);
            ask(&host, FAILED).await;
        }
        assert!(host.leave(seconds(9)).now_or_never().is_some_and(|left| left.is_err()));
        assert_eq!(rests.next().await.unwrap().left, seconds(10));
        for rest in [20, 40, 80, 120, 120] {
            let probe = host.leave(seconds(120)).await.unwrap();
            assert!(host.leave(NO_PATIENCE).await.is_err(), "one at a time");
            probe.learned(FAILED);
            assert_eq!(host.left(), Some(seconds(rest)));
        }
        let probe = host.leave(seconds(120)).await.unwrap();
        let mut waiting = Box::pin(host.leave(seconds(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        probe.learned(Health::Well);
        assert!(waiting.now_or_never().is_some_and(|left| left.is_ok()));
        assert!(hosts.resting().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_requests_at_the_same_time_count_once() {
        let host = hosts().named("r.example");
        let mut leaves = Vec::new();
        for _ in 0..20 {
            leaves.push(host.leave(NO_PATIENCE).await.unwrap());
        }
        tokio::time::advance(seconds(1)).await;
        for leave in leaves {
            leave.learned(FAILED);
        }
        assert_eq!(host.left(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_makes_all_wait_and_is_told_once() {
        let hosts = hosts();
        let (host, mut rests) = (hosts.named("r.example"), hosts.listen());
        let (first, second) =
            (host.leave(NO_PATIENCE).await.unwrap(), host.leave(NO_PATIENCE).await.unwrap());
        first.learned(Health::Limited { asked: Some(seconds(3)) });
        second.learned(Health::Limited { asked: Some(seconds(3)) });
        assert_eq!(rests.next().await.unwrap().left, seconds(3));
        assert!(rests.next().now_or_never().is_none());
        let refused = host.leave(seconds(2)).await.map(|_| ()).unwrap_err();
        assert_eq!((refused.status(), refused.retry_after()), (Some(429), Some(seconds(3))));
        let began = Instant::now();
        host.leave(seconds(5)).await.unwrap().learned(Health::Well);
        assert_eq!(began.elapsed(), seconds(3));
        assert_eq!(host.left(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_from_before_a_limit_does_not_lift_it() {
        let host = hosts().named("r.example");
        let early = host.leave(NO_PATIENCE).await.unwrap();
        tokio::time::advance(seconds(1)).await;
        ask(&host, Health::Limited { asked: Some(Duration::from_hours(24)) }).await;
        early.learned(Health::Well);
        assert_eq!(host.left(), Some(LIMIT_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_lets_the_next_find_out() {
        let host = hosts().named("r.example");
        host.impose(seconds(1), true);
        drop(host.leave(seconds(1)).await.unwrap());
        assert!(host.leave(NO_PATIENCE).await.is_ok());
    }
}
