//! The floods.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyguard::{KeyGuard, Reason};
use keyguard_benches::measure::Random;
use keyguard_benches::world::{headers, peer, unknown_key};

pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// The largest growth of memory, in MiB.
    pub(crate) most_mib: f64,
    /// The number of keys that are issued for the flood.
    pub(crate) issued_keys: usize,
    pub(crate) requests: usize,
    /// Sends the request of this number. Returns the reason for its refusal.
    pub(crate) send: fn(&Target, u64) -> Option<Reason>,
}

/// What is flooded.
pub(crate) struct Target {
    pub(crate) kg: KeyGuard,
    /// The keys that are issued for the flood.
    pub(crate) issued: Vec<String>,
    /// The number of all requests.
    pub(crate) requests: u64,
    /// Addresses that the flood locked.
    pub(crate) locked: RefCell<Vec<IpAddr>>,
}

const MANY: usize = 10_000_000;

/// Memory of attackers without a key: of addresses, locks and counts of refusals.
const MOST_MIB: f64 = 64.0;

pub(crate) const FLOODS: [Flood; 8] = [
    // Malformed keys, each from another IPv4 address.
    Flood {
        name: "v4",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| {
            let key = format!("nonsense {number}");
            target.send(&key, attacker(number), "/api")
        },
    },
    // Requests without a key, each from another IPv6 /64.
    Flood {
        name: "v6",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| target.send("", v6(u128::from(number) << 64), "/api"),
    },
    // Well-formed keys that were never issued, all different. No address has more than 50 failures, half
    // of those that lock it.
    Flood {
        name: "keys",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| {
            let address = attacker(number % target.requests.div_ceil(50));
            target.send(
                &unknown_key("kg_live_", &mut Random(number)),
                address,
                "/api",
            )
        },
    },
    // Paths, all different, of a route with a limit per address, from a tenth as many addresses.
    Flood {
        name: "paths",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| {
            let address = attacker(number % target.requests.div_ceil(10));
            target.send("", address, &format!("/items/{number}"))
        },
    },
    // Well-formed keys with a prefix of their own, each from another /24 or /48.
    Flood {
        name: "prefixes",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| {
            let key = unknown_key(&format!("p{number}_"), &mut Random(number));
            let address = if number % 2 == 0 {
                v4(0x1000_0000 + ((number as u32 / 2) << 8))
            } else {
                v6(u128::from(number) << 80)
            };
            target.send(&key, address, "/api")
        },
    },
    // Addresses that earn a lock each: every second one among 16 neighbours of a /48, whose locks may be
    // merged, the others alone in their /24.
    Flood {
        name: "locks",
        most_mib: MOST_MIB,
        issued_keys: 0,
        requests: MANY,
        send: |target, number| {
            let reason = target.send("nonsense", locking(number), "/api");
            if reason == Some(Reason::IpLocked) {
                target.locked.borrow_mut().push(locking(number));
            }
            reason
        },
    },
    // Requests with one key, each on another path. They are recorded: memory also holds the pages of the
    // file (64 MiB) and the queue of the recorder (twice 25 MiB).
    Flood {
        name: "recorded",
        most_mib: 128.0,
        issued_keys: 1,
        requests: MANY,
        send: |target, number| target.send(&target.issued[0], peer(), &format!("/api/{number}")),
    },
    // More issued keys than can be tracked, most of which are read from the file. Memory also holds the
    // pages of the file (64 MiB), the cached keys and the limits of the tracked ones (63 MiB each).
    Flood {
        name: "issued",
        most_mib: 192.0,
        issued_keys: 400_000,
        requests: 1_000_000,
        send: |target, number| {
            let key = &target.issued[number as usize % target.issued.len()];
            target.send(key, peer(), "/api")
        },
    },
];

impl Target {
    /// The number of addresses that the flood locked, and that are not locked any more.
    pub(crate) fn lost_locks(&self) -> usize {
        let locked = self.locked.borrow();
        let is_lost = |from: &&IpAddr| self.send("", **from, "/api") != Some(Reason::IpLocked);
        locked.iter().filter(is_lost).count()
    }

    fn send(&self, key: &str, from: IpAddr, path: &str) -> Option<Reason> {
        match self.kg.check(&headers(key), from, path) {
            Ok(grant) => {
                grant.finish(200);
                None
            }
            Err(denial) => Some(denial.reason()),
        }
    }
}

/// An address of `11.0.0.0/8` and the networks after it.
fn attacker(number: u64) -> IpAddr {
    v4(0x0b00_0000 + number as u32)
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

/// An address of `2001:db8::/32` and the networks after it.
fn v6(offset: u128) -> IpAddr {
    Ipv6Addr::from_bits((0x2001_0db8 << 96) + offset).into()
}

/// The requests that lock an address: failures above the threshold, and one that is refused.
const TO_LOCK: u64 = 102;

fn locking(number: u64) -> IpAddr {
    let client = number / TO_LOCK;
    let half = client / 2;
    if client.is_multiple_of(2) {
        v6(u128::from(half / 16) << 80 | u128::from(half % 16) << 64)
    } else {
        v4(0x2800_0000 + ((half as u32) << 8))
    }
}
