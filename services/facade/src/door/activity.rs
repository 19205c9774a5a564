//! What a connection is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a connection is doing, as its wire and its requests tell.
pub(super) struct Activity(Mutex<State>);

struct State {
    requests: usize,
    /// Whether bytes wait to be taken by the peer.
    is_stalled: bool,
    phase: Phase,
    /// Since when it is in this phase without a request.
    since: Instant,
    is_ambiguous: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The head of a request is being sent, or the first one is waited for.
    Head,
    /// Nothing is asked.
    Idle,
    /// It is to end.
    Closing,
}

/// How long a connection may go without a request.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// While a head is being sent.
    pub(super) head: Duration,
    /// Between requests.
    pub(super) idle: Duration,
    /// Once it is to end.
    pub(super) closing: Duration,
}

/// A request that is being answered, until it is dropped.
pub(super) struct InFlight(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            requests: 0,
            is_stalled: false,
            phase: Phase::Head,
            since: Instant::now(),
            is_ambiguous: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.state().requests += 1;
        InFlight(Arc::clone(self))
    }

    /// Whether bytes that come now belong to the head of a request; its time runs from the first of them on.
    pub(super) fn reads_head(&self) -> bool {
        let mut state = self.state();
        if state.requests > 0 {
            return false;
        }
        if state.phase == Phase::Idle {
            state.phase = Phase::Head;
            state.since = Instant::now();
        }
        true
    }

    /// The connection waits for requests from now on.
    pub(super) fn rest(&self) {
        self.state().enter(Phase::Idle);
    }

    /// The connection is to end once its requests are answered.
    pub(super) fn close(&self) {
        self.state().enter(Phase::Closing);
    }

    pub(super) fn stalls(&self, is_stalled: bool) {
        self.state().is_stalled = is_stalled;
    }

    /// A head has come that two readers would understand differently.
    pub(super) fn mistrust(&self) {
        self.state().is_ambiguous = true;
    }

    pub(super) fn is_ambiguous(&self) -> bool {
        self.state().is_ambiguous
    }

    /// Completes when the connection has been without a request for too long.
    pub(super) async fn overdue(&self, patience: Patience) {
        // A phase may begin right after a look.
        let look_every = patience.head / 4;
        loop {
            let left = self.left(patience);
            if left == Some(Duration::ZERO) {
                return;
            }
            tokio::time::sleep(left.map_or(look_every, |left| left.min(look_every))).await;
        }
    }

    /// How long the connection may go on as it does; as long as it likes while there is a request.
    fn left(&self, patience: Patience) -> Option<Duration> {
        let state = self.state();
        if state.requests > 0 || state.is_stalled {
            return None;
        }
        let limit = match state.phase {
            Phase::Head => patience.head,
            Phase::Idle => patience.idle,
            Phase::Closing => patience.closing,
        };
        Some(limit.saturating_sub(state.since.elapsed()))
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        // There is no way back from the end.
        if self.phase != Phase::Closing {
            self.phase = phase;
        }
        self.since = Instant::now();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.enter(Phase::Idle);
        }
    }
}
