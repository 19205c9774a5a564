//! How fast a peer must be.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::Config;

/// So many bytes in so much time, at least.
#[derive(Clone, Copy)]
pub(super) struct Floor {
    pub(super) bytes: usize,
    window: Duration,
    pub(super) bytes_per_s: u64,
}

/// Judges the pace of a peer, by the time for which it is waited for: time that larder itself takes does not count.
pub(super) struct Pace {
    floor: Floor,
    /// What moved, and for how long it was waited, since the peer last did enough.
    moved: usize,
    waited: Duration,
    waiting_since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Floor {
    pub(super) fn new(config: &Config) -> Self {
        let bytes = config.rate_floor_bytes_per_s.saturating_mul(config.rate_floor_window_s);
        Self {
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            window: Duration::from_secs(config.rate_floor_window_s),
            bytes_per_s: config.rate_floor_bytes_per_s,
        }
    }
}

impl Pace {
    pub(super) fn new(floor: Floor) -> Self {
        Self { floor, moved: 0, waited: Duration::ZERO, waiting_since: None, alarm: None }
    }

    /// The peer took or sent so many bytes.
    pub(super) fn moved(&mut self, bytes: usize) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= self.floor.bytes {
            self.moved = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Completes when the peer, who is waited for, has been too slow.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let deadline = since + self.floor.window.saturating_sub(self.waited);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            ready!(alarm.as_mut().poll(cx));
            // It is not moved with each byte, but when it rings.
            if alarm.deadline() >= deadline {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    }
}
