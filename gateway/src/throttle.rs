//! How many wrong sign-ins one network address may try.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::session::rate::Bucket;

/// Addresses remembered. When it is full, those that have all their tries back are forgotten, then any: an attacker
/// with that many addresses gains tries, others lose nothing.
const MAX_ADDRESSES: usize = 16_384;

pub(crate) struct Throttle {
    burst: u32,
    per_second: f64,
    failed: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Throttle {
    pub(crate) fn new(burst: u32, per_minute: u32) -> Self {
        Self { burst, per_second: f64::from(per_minute) / 60.0, failed: Mutex::new(HashMap::new()) }
    }

    /// May it try? If not: after how long.
    pub(crate) fn check(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.failed.lock().get_mut(&network(address)).map_or(Ok(()), |bucket| bucket.check(now))
    }

    /// It tried and failed.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) {
        let mut failed = self.failed.lock();
        if failed.len() >= MAX_ADDRESSES {
            failed.retain(|_, bucket| !bucket.is_full(now));
        }
        if failed.len() >= MAX_ADDRESSES {
            failed.clear();
        }
        let bucket = failed.entry(network(address)).or_insert_with(|| Bucket::new(self.per_second, self.burst, now));
        let _ = bucket.take(now);
    }
}

/// Who has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_network_and_forgiven_with_time() {
        let (throttle, now) = (Throttle::new(2, 60), Instant::now());
        let at = |text: &str| text.parse::<IpAddr>().expect("an address");
        for neighbour in ["2001:db8::1", "2001:db8::2"] {
            throttle.check(at(neighbour), now).expect("may try");
            throttle.failed(at(neighbour), now);
        }
        throttle.check(at("2001:db8::3"), now).expect_err("the same network");
        throttle.check(at("2001:db8:0:1::3"), now).expect("another network");
        throttle.check(at("192.0.2.1"), now).expect("another address");
        throttle.check(at("2001:db8::3"), now + Duration::from_millis(1100)).expect("one came back");
    }

    #[test]
    fn the_table_is_bounded() {
        let (throttle, now) = (Throttle::new(2, 60), Instant::now());
        for i in 0..2 * MAX_ADDRESSES as u32 {
            throttle.failed(IpAddr::V4(i.into()), now);
        }
        assert!(throttle.failed.lock().len() <= MAX_ADDRESSES);
    }
}
