//! Suites that run the real thing.

#![allow(clippy::unwrap_used)]

mod harness;
