//! Suites that run the real thing.

#![allow(clippy::unwrap_used)]

mod client;
mod distributed;
mod embedded;
mod harness;
mod hostile;
mod mistakes;
mod platforms;
mod ports;
mod tidy;
mod warm;
