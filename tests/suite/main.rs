//! Suites that run the real thing.

#![allow(clippy::unwrap_used)]

mod client;
mod collect;
mod distributed;
mod embedded;
mod example;
mod harness;
mod hostile;
mod linuxkit;
mod mistakes;
mod platforms;
mod ports;
mod push;
mod tidy;
mod vectors;
mod warm;
