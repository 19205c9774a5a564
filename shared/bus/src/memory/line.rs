//! One queue in memory: who waits, who is in work until when. No clock and no lock of its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::bus::{Depth, Said};
use crate::name::MessageId;

/// The messages of one queue.
/// Invariant: every held message is in exactly one of `ready` and `due`, and under its id in `by_id`.
#[derive(Default)]
pub(super) struct Line {
    sequence_last: u64,
    held: HashMap<u64, Held>,
    by_id: HashMap<MessageId, u64>,
    ready: VecDeque<u64>,
    due: BTreeSet<(Instant, u64)>,
    delivered: u64,
}

struct Held {
    id: MessageId,
    payload: Bytes,
    attempt: u32,
    due: Option<Instant>,
}

/// What a worker gets when it asks.
#[derive(Debug)]
pub(super) enum Taken {
    Work { sequence: u64, id: MessageId, attempt: u32, payload: Bytes },
    Spent { id: MessageId, attempts: u32, payload: Bytes },
    Nothing { until: Option<Instant> },
}

impl Line {
    /// Appends a message; `None` when the line is full.
    pub(super) fn put(&mut self, id: &MessageId, payload: Bytes, depth_max: u64) -> Option<Said> {
        if self.by_id.contains_key(id) {
            return Some(Said::AlreadyQueued);
        }
        if self.held.len() as u64 >= depth_max {
            return None;
        }
        self.sequence_last += 1;
        self.by_id.insert(id.clone(), self.sequence_last);
        self.held.insert(self.sequence_last, Held { id: id.clone(), payload, attempt: 0, due: None });
        self.ready.push_back(self.sequence_last);
        Some(Said::Queued)
    }

    /// Hands out the next message until `now + ack_wait`, those whose time has come before those never delivered.
    pub(super) fn take(&mut self, now: Instant, ack_wait: Duration, attempts_max: u32) -> Taken {
        let overdue = self.due.first().filter(|(due, _)| *due <= now).copied();
        let sequence = match overdue {
            Some(first) => {
                self.due.remove(&first);
                first.1
            }
            None => match self.ready.pop_front() {
                Some(sequence) => sequence,
                None => {
                    return Taken::Nothing { until: self.due.first().map(|(due, _)| *due) };
                }
            },
        };
        let held = self.held.get_mut(&sequence).expect("what is ready or due is held");
        if held.attempt >= attempts_max {
            let attempts = held.attempt;
            held.due = None;
            let (id, payload) = self.remove(sequence).expect("what is ready or due is held");
            return Taken::Spent { id, attempts, payload };
        }
        self.delivered += u64::from(held.attempt == 0);
        held.attempt += 1;
        held.due = Some(now + ack_wait);
        self.due.insert((now + ack_wait, sequence));
        Taken::Work { sequence, id: held.id.clone(), attempt: held.attempt, payload: held.payload.clone() }
    }

    /// Moves the deadline of a message, if `attempt` is its latest; a worker that lost it has no say.
    pub(super) fn postpone(&mut self, sequence: u64, attempt: u32, due: Instant) {
        let Some(held) = self.held.get_mut(&sequence).filter(|held| held.attempt == attempt) else {
            return;
        };
        if let Some(before) = held.due.replace(due) {
            self.due.remove(&(before, sequence));
        }
        self.due.insert((due, sequence));
    }

    /// Ends a message that was delivered, whoever has it now.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<(MessageId, Bytes)> {
        let held = self.held.remove(&sequence)?;
        self.by_id.remove(&held.id);
        self.delivered -= 1;
        if let Some(due) = held.due {
            self.due.remove(&(due, sequence));
        }
        Some((held.id, held.payload))
    }

    pub(super) fn depth(&self) -> Depth {
        Depth { queued: self.held.len() as u64 - self.delivered, in_work: self.delivered }
    }
}
