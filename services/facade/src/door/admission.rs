//! How many connections there are, and whose.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Config;

/// Counts connections, of all peers and of each.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    per_peer_max: usize,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection that is counted until this is dropped.
pub(super) struct Admitted {
    peer: IpAddr,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(config: &Config) -> Self {
        let places = config.connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            per_peer_max: config.connections_per_peer_max,
            peers: Arc::default(),
        }
    }

    /// A place for one more connection, once there is one.
    pub(super) async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places).acquire_owned().await.expect("places are never closed")
    }

    /// Counts a connection from `address`, unless its peer has too many.
    pub(super) fn admit(&self, address: IpAddr, place: OwnedSemaphorePermit) -> Option<Admitted> {
        let peer = peer(address);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(peer).or_default();
        if *count >= self.per_peer_max {
            return None;
        }
        *count += 1;
        Some(Admitted { peer, peers: Arc::clone(&self.peers), _place: place })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// Who is behind an address: whoever has one IPv6 address has all of a /64 network.
fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_no_peer_more_than_its_share_and_takes_back_what_is_dropped() {
        let config = Config { connections_max: 3, connections_per_peer_max: 2, ..Config::default() };
        let admission = Admission::new(&config);
        let mut held = Vec::new();
        for (address, is_admitted) in
            [("192.0.2.1", true), ("::ffff:192.0.2.1", true), ("192.0.2.1", false), ("2001:db8::1", true)]
        {
            let place = admission.place().await;
            let admitted = admission.admit(address.parse().unwrap(), place);
            assert_eq!(admitted.is_some(), is_admitted, "{address}");
            held.extend(admitted);
        }
        assert_eq!(admission.places.available_permits(), 0);
        held.clear();
        assert_eq!(admission.places.available_permits(), 3);
        assert!(admission.peers.lock().unwrap().is_empty());
    }

    #[test]
    fn takes_a_network_for_a_peer() {
        let peers =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|it| peer(it.parse().unwrap()));
        assert_eq!(peers[0], peers[1]);
        assert_ne!(peers[0], peers[2]);
    }
}
