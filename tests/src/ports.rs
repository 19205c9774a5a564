//! Ports of the loopback address that nothing listens on.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Returns a free loopback port that this process has not handed out before.
///
/// The ports lie below the range that the kernel gives to outgoing connections, so a server that is killed can be
/// started again on its port.
pub fn free() -> u16 {
    // Test processes that run side by side begin at different places.
    let start = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).expect("COUNT is a u16");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = (u32::from(start) + u32::from(step)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("COUNT is a u16");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free loopback port between {FIRST} and {}", FIRST + COUNT);
}
