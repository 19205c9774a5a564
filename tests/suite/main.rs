//! Suites that run the real thing.

#![allow(clippy::unwrap_used)]

mod client;
mod clients;
mod collect;
mod conformance;
mod content;
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
mod push_to_larder;
mod serve;
mod tidy;
mod vectors;
mod warm;
