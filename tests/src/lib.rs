//! The harness of larder's suites: the real binary, real servers, and a registry that misbehaves to order.
//!
//! Everything here is blocking and owned: a value that starts something stops it when dropped, with its directory.
//! A harness has nobody to hand an error to, so whatever cannot be had panics and says what was seen until then.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod client;
pub mod clients;
pub mod conformance;
pub mod debian;
pub mod docker_registry;
pub mod image;
pub mod larder;
pub mod nats;
pub mod ports;
pub mod process;
pub mod round_robin;
pub mod scripted;
pub mod seaweed;
pub mod tools;

pub use clients::{Containerd, Desk};
pub use docker_registry::DockerRegistry;
pub use image::{Format, Image, Layer};
pub use larder::{Finished, Larder, Service};
pub use nats::NatsServer;
pub use round_robin::RoundRobin;
pub use scripted::{Behaviour, Gate, ScriptedRegistry};
pub use seaweed::Seaweed;
