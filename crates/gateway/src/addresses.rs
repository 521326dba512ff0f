//! How many connections each client address has, over all threads: one address alone must not be able
//! to take all the connections that there are.

use std::{
    collections::HashMap,
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::{address_range::AddressRange, config::GatewayConfig};

/// Shared by all threads, and asked once per connection. It holds as many addresses as there are
/// connections at most.
#[derive(Debug)]
pub(crate) struct Addresses {
    most: usize,
    /// Those are not counted.
    except: Vec<AddressRange>,
    shards: [Mutex<HashMap<IpAddr, usize>>; SHARDS],
    refused: AtomicU64,
}

/// So that threads seldom wait for one another.
const SHARDS: usize = 16;
/// Whoever has one address of IPv6 has all that share these bits with it.
const OF_ONE_CLIENT: u32 = 64;

/// One connection of an address, for as long as it is open. Empty for one that is not counted.
#[derive(Debug)]
pub(crate) struct Held(Option<(Arc<Addresses>, IpAddr)>);

impl Addresses {
    /// Nothing when no limit is configured. Proxies that speak for others are not counted themselves.
    pub(crate) fn of(config: &GatewayConfig) -> Option<Arc<Self>> {
        let limits = &config.limits;
        let except = limits.uncounted_addresses.iter();
        Some(Arc::new(Self {
            most: limits.connections_per_address?,
            except: except.chain(&config.proxy_protocol_from).copied().collect(),
            shards: Default::default(),
            refused: AtomicU64::new(0),
        }))
    }

    /// `None` when the address has all the connections that it may have.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Held> {
        if self.except.iter().any(|range| range.contains(address)) {
            return Some(Held(None));
        }
        let address = counted(address);
        let mut shard = self.shard(address).lock();
        let open = shard.entry(address).or_insert(0);
        if *open >= self.most {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        *open += 1;
        Some(Held(Some((self.clone(), address))))
    }

    fn shard(&self, address: IpAddr) -> &Mutex<HashMap<IpAddr, usize>> {
        let bits = match address {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            IpAddr::V6(address) => (address.to_bits() >> OF_ONE_CLIENT) as u64,
        };
        // Fibonacci hashing: the upper bits of the product are mixed best.
        let mixed = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.shards[mixed as usize % SHARDS]
    }

    /// The series in the Prometheus text format.
    pub(crate) fn text(&self, text: &mut String) {
        let (refused, known) = ("connections_refused_by_address_total", "client_addresses");
        let help = "Connections refused because their address has as many as it may have.";
        crate::metrics::head(text, refused, "counter", help);
        let _ = writeln!(
            text,
            "sinew_gateway_{refused} {}",
            self.refused.load(Relaxed)
        );
        let help = "Client addresses that have connections and are counted.";
        crate::metrics::head(text, known, "gauge", help);
        let count: usize = self.shards.iter().map(|shard| shard.lock().len()).sum();
        let _ = writeln!(text, "sinew_gateway_{known} {count}");
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((addresses, address)) = self.0.take() {
            let mut shard = addresses.shard(address).lock();
            if let Some(open) = shard.get_mut(&address) {
                *open -= 1;
                if *open == 0 {
                    shard.remove(&address);
                }
            }
        }
    }
}

/// What an address is counted as.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - OF_ONE_CLIENT);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(most: usize) -> Arc<Addresses> {
        let mut config = GatewayConfig::default();
        config.limits.connections_per_address = Some(most);
        config.limits.uncounted_addresses = vec!["10.0.0.0/8".parse().unwrap()];
        config.proxy_protocol_from = vec!["192.0.2.9".parse().unwrap()];
        Addresses::of(&config).unwrap()
    }

    #[test]
    fn each_address_has_its_own_room() {
        let addresses = addresses(2);
        let enter = |address: &str| addresses.enter(address.parse().unwrap());
        let first = enter("192.0.2.1");
        let held = [enter("::ffff:192.0.2.1"), enter("192.0.2.2")];
        assert!(held.iter().chain([&first]).all(Option::is_some));
        assert!(enter("192.0.2.1").is_none());
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        let of_one = [enter("2001:db8::1"), enter("2001:db8::ffff:2")];
        assert!(of_one.iter().all(Option::is_some));
        assert!(enter("2001:db8::3").is_none());
        assert!(enter("2001:db8:0:1::3").is_some());
        for uncounted in ["10.1.2.3", "192.0.2.9"] {
            let many: Vec<_> = (0..9).map(|_| enter(uncounted)).collect();
            assert!(many.iter().all(Option::is_some), "{uncounted}");
        }
        drop((held, of_one));
        let mut text = String::new();
        addresses.text(&mut text);
        assert!(text.contains("refused_by_address_total 2\n"), "{text}");
        assert!(text.contains("client_addresses 0\n"), "{text}");
    }

    #[test]
    fn nobody_is_counted_without_a_limit() {
        assert!(Addresses::of(&GatewayConfig::default()).is_none());
    }
}
