//! How many connections an address takes on, and from whom.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::settings::Limits;

/// Counts connections.
pub struct Admission {
    most: u64,
    most_per_address: u64,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    all: u64,
    by_address: HashMap<IpAddr, u64>,
}

/// A connection that counts until this is dropped.
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

/// Which limit has no room for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The file descriptors that the process may have.
    Descriptors,
    /// Connections of everybody.
    Connections,
    /// Connections of that address.
    Address,
}

impl Admission {
    /// Nobody is there yet.
    pub fn new(limits: &Limits) -> Arc<Admission> {
        let (most, most_per_address) = (limits.connections, limits.connections_per_address);
        Arc::new(Admission { most, most_per_address, counts: Mutex::default() })
    }

    /// Takes a connection of `client` on, whose descriptor is `descriptor` of `descriptors` that the process may have.
    ///
    /// The system gives out the lowest number that is free. So a number in the last quarter says that the other three are in use,
    /// by whomever; that quarter stays with the application.
    pub fn enter(
        self: &Arc<Self>,
        client: IpAddr,
        descriptor: u64,
        descriptors: u64,
    ) -> std::result::Result<Place, Full> {
        let address = network_of(client);
        let mut counts = self.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or_default();
        if descriptor >= descriptors - descriptors / 4 {
            return Err(Full::Descriptors);
        }
        if counts.all >= self.most {
            return Err(Full::Connections);
        }
        if here >= self.most_per_address {
            return Err(Full::Address);
        }
        counts.all += 1;
        counts.by_address.insert(address, here + 1);
        Ok(Place { admission: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.all = counts.all.saturating_sub(1);
        let left = counts.by_address.get(&self.address).map_or(0, |here| here.saturating_sub(1));
        match left {
            0 => counts.by_address.remove(&self.address),
            left => counts.by_address.insert(self.address, left),
        };
    }
}

/// What counts as one client: an address of IPv4; of IPv6 the network of 64 bits, all of which one machine can have.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn admission(connections: u64, connections_per_address: u64) -> Arc<Admission> {
        Admission::new(&Limits { connections, connections_per_address, ..Limits::default() })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_is_gone() {
        let admission = admission(3, 2);
        let enter = |client| admission.enter(ip(client), 0, 100);
        let first = enter("10.0.0.1").expect("room");
        let _second = enter("10.0.0.1").expect("room");
        assert_eq!(enter("10.0.0.1").map(drop), Err(Full::Address));
        let _third = enter("10.0.0.2").expect("room for others");
        assert_eq!(enter("10.0.0.3").map(drop), Err(Full::Connections));
        drop(first);
        let _fourth = enter("10.0.0.1").expect("room again");
        assert_eq!(enter("10.0.0.3").map(drop), Err(Full::Connections));
        drop((_second, _third, _fourth));
        assert!(admission.lock().by_address.is_empty() && admission.lock().all == 0, "nothing is left of them");
    }

    #[test]
    fn a_quarter_of_the_descriptors_is_left_alone() {
        let admission = admission(1000, 1000);
        let enter = |descriptor| admission.enter(ip("10.0.0.1"), descriptor, 1024).map(drop);
        assert_eq!((enter(767), enter(768)), (Ok(()), Err(Full::Descriptors)));
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        for (one, other, same) in [
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(network_of(ip(one)) == network_of(ip(other)), same, "{one} and {other}");
        }
    }
}
