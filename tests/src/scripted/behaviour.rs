//! The ways in which an answer can be wrong.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// One departure from the good answer.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Closes without a word.
    Close,
    /// Announces the whole body and closes after so many bytes of it.
    Cut {
        /// Body bytes sent before the end.
        after_bytes: u64,
    },
    /// Ends the body one byte early, and announces just that.
    Short,
    /// Adds so many bytes to the body, and announces them.
    Long {
        /// Bytes added.
        extra_bytes: usize,
    },
    /// Sends zeros without end after the body, announcing no length.
    Endless,
    /// Announces no length: chunked.
    Chunked,
    /// Inverts the byte at this offset of the content.
    FlipByte {
        /// Offset in the whole content, whatever range was asked for.
        at: usize,
    },
    /// Serves other content.
    Body(Bytes),
    /// Names this digest in `Docker-Content-Digest`.
    LieDigestHeader(String),
    /// Names no digest.
    NoDigestHeader,
    /// Sets a header over what was there.
    Header(&'static str, String),
    /// Leaves a header out.
    NoHeader(&'static str),
    /// Answers a range with this `Content-Range`.
    WrongContentRange(String),
    /// Answers a range with 200 and everything.
    IgnoreRange,
    /// Answers this and nothing else.
    Status {
        /// The status code.
        code: u16,
        /// Headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Bytes,
    },
    /// Answers 401 with the challenge, whatever the credentials.
    Unauthorized,
    /// Answers 307 to this place.
    Redirect {
        /// An absolute URL, or a path.
        to: String,
    },
    /// Sends the body this slowly.
    Drip {
        /// Bytes a second; at least 1.
        bytes_per_s: u64,
    },
    /// Sends the body as gzip and says so.
    ContentEncoding,
    /// Sends so many zeros as gzip instead of the body, and says so.
    GzipBomb {
        /// Bytes when inflated.
        inflated_bytes: usize,
    },
    /// Sends so many bytes of the body, then nothing more until the peer goes.
    Stall {
        /// Body bytes sent before that.
        after_bytes: u64,
    },
    /// Sends so many bytes of the body, then waits for the gate.
    Hold {
        /// Body bytes sent before that.
        after_bytes: u64,
        /// What to wait for.
        gate: Gate,
    },
}

impl Behaviour {
    /// Returns a status with neither headers nor body.
    pub fn status(code: u16) -> Self {
        Self::Status { code, headers: Vec::new(), body: Bytes::new() }
    }

    /// Returns a 429 or 503 that asks to come back later.
    pub fn retry_after(code: u16, seconds: u64) -> Self {
        Self::Status { code, headers: vec![("Retry-After", seconds.to_string())], body: Bytes::new() }
    }
}

/// A door in the middle of an answer: the test waits until somebody stands before it, and opens it.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    inner: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    open: bool,
}

impl Gate {
    /// Makes a closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until `answers` answers stand before the gate.
    ///
    /// # Panics
    /// After `limit`.
    pub fn await_reached(&self, answers: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (state, changed) = &*self.inner;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting < answers {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} of {answers} answers at the gate after {limit:?}", state.waiting);
            state = changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        let (state, changed) = &*self.inner;
        state.lock().unwrap_or_else(PoisonError::into_inner).open = true;
        changed.notify_all();
    }

    /// Stands before the gate until it opens or `stop` says to leave; returns whether it opened.
    pub(super) fn pass(&self, stop: impl Fn() -> bool) -> bool {
        let (state, changed) = &*self.inner;
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += 1;
        changed.notify_all();
        while !state.open && !stop() {
            let step = Duration::from_millis(20);
            state = changed.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.open
    }
}
