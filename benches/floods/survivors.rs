//! What a flood must not push out.

use std::net::{IpAddr, Ipv4Addr};

use keyguard::{KeyGuard, Reason};
use keyguard_benches::Fallible;
use keyguard_benches::world::{UNREACHED, create_keys, headers, limited, peer};

/// The number of each kind.
const COUNT: u8 = 50;

/// Failed authentications of an address above which it is locked: the default.
const THRESHOLD: usize = 100;

/// Failed authentications of an address before the flood: above half of the threshold.
const FAILURES: usize = 60;

/// The limit of the addresses on `/login`, per hour.
pub(crate) const LOGINS: usize = 5;

/// The limit of the limited keys, per hour, and what is used of it before the flood.
const LIMIT: usize = 30;
const USED: usize = 15;

pub(crate) struct Survivors {
    /// Keys that used up their limit.
    used_up: Vec<String>,
    /// Keys that used half of it.
    half_used: Vec<String>,
}

impl Survivors {
    /// Locks addresses, manually and by failures, counts failures of others, and uses limits.
    pub(crate) fn new(kg: &KeyGuard) -> Fallible<Self> {
        let key = limited("acme", UNREACHED).limits([format!("{LIMIT}/h")]);
        let mut keys = create_keys(kg, &vec![key; 2 * usize::from(COUNT)])?;
        let survivors = Self {
            half_used: keys.split_off(COUNT.into()),
            used_up: keys,
        };
        for number in 0..COUNT {
            if number % 2 == 0 {
                kg.admin().block(locked(number), None, "1 day")?;
            } else {
                fail(kg, locked(number), THRESHOLD + 1);
            }
            fail(kg, failing(number), FAILURES);
            for _ in 0..LOGINS {
                kg.check(&headers(""), limited_address(number), "/login")?
                    .finish(200);
            }
        }
        for key in &survivors.used_up {
            for _ in 0..LIMIT {
                kg.check(&headers(key), peer(), "/api")?.finish(200);
            }
        }
        for key in &survivors.half_used {
            for _ in 0..USED {
                kg.check(&headers(key), peer(), "/api")?.finish(200);
            }
        }
        match survivors.lost_without_change(kg) {
            0 => Ok(survivors),
            lost => Err(format!("{lost} locks and limits were not there before the flood").into()),
        }
    }

    /// The number of those that the flood has pushed out or changed.
    pub(crate) fn lost(&self, kg: &KeyGuard) -> Fallible<usize> {
        let mut lost = self.lost_without_change(kg);
        for number in 0..COUNT {
            // The address is locked by the failure after the threshold, not earlier and not later.
            let counted = fail(kg, failing(number), THRESHOLD + 2 - FAILURES);
            lost += usize::from(counted != THRESHOLD + 1 - FAILURES);
        }
        for key in &self.half_used {
            let left = (0..LIMIT).take_while(|_| kg.check(&headers(key), peer(), "/api").is_ok());
            lost += usize::from(left.count() != LIMIT - USED);
        }
        Ok(lost)
    }

    fn lost_without_change(&self, kg: &KeyGuard) -> usize {
        let mut lost = 0;
        for number in 0..COUNT {
            lost += usize::from(reason(kg, "", locked(number), "/api") != Some(Reason::IpLocked));
            let limited = reason(kg, "", limited_address(number), "/login");
            lost += usize::from(limited != Some(Reason::IpLimited));
        }
        for key in &self.used_up {
            let limited = reason(kg, key, peer(), "/api");
            lost += usize::from(limited != Some(Reason::RateLimited));
        }
        lost
    }
}

/// Sends this many malformed keys. Returns how many were refused as such.
fn fail(kg: &KeyGuard, from: IpAddr, times: usize) -> usize {
    let reasons = (0..times).map(|_| reason(kg, "nonsense", from, "/api"));
    let counted = reasons.filter(|reason| *reason == Some(Reason::MalformedKey));
    counted.count()
}

fn reason(kg: &KeyGuard, key: &str, from: IpAddr, path: &str) -> Option<Reason> {
    let outcome = kg.check(&headers(key), from, path);
    outcome.err().map(|denial| denial.reason())
}

fn locked(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, number, 1).into()
}

fn failing(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 19, number, 1).into()
}

fn limited_address(number: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, number, 1).into()
}
