//! Counters that survive a restart: balances and windows.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::{decode, encode};
use crate::counter::{CounterId, Events, SavedCounter, SavedIpWindow, SavedValue};
use crate::limit::{Balance, Period, WindowLength};
use crate::lockout::AuthFailure;
use crate::net::IpKey;
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
struct StoredCounter {
    route: Option<String>,
    shadow: bool,
    value: StoredValue,
}

#[derive(Serialize, Deserialize)]
enum StoredValue {
    Window(StoredWindow),
    Day(u64, u64),
    Month(u64, u64),
    Credits(u64, u64),
}

#[derive(Serialize, Deserialize)]
struct StoredWindow {
    /// In nanoseconds.
    length: u64,
    /// Milliseconds since the hit before (or the Unix epoch), and the number of hits.
    hits: Vec<(u64, u32)>,
}

pub(crate) fn encode_counters(counters: &[SavedCounter]) -> Result<Vec<u8>, StoreError> {
    let stored: Vec<StoredCounter> = counters.iter().filter_map(stored).collect();
    encode(&stored)
}

/// Returns `None` for requests in flight, which are never stored.
fn stored(SavedCounter { id, value }: &SavedCounter) -> Option<StoredCounter> {
    let value = match (id.period, value) {
        (Period::Sliding(length), SavedValue::Hits(hits)) => {
            StoredValue::Window(StoredWindow::new(length, hits))
        }
        (Period::Day, SavedValue::Balance(of)) => {
            StoredValue::Day(of.used(), of.at().unix_millis())
        }
        (Period::Month, SavedValue::Balance(of)) => {
            StoredValue::Month(of.used(), of.at().unix_millis())
        }
        (Period::Credits(_), SavedValue::Balance(of)) => {
            StoredValue::Credits(of.used(), of.at().unix_millis())
        }
        _ => return None,
    };
    Some(StoredCounter {
        route: route(&id.events),
        shadow: id.shadow,
        value,
    })
}

fn route(events: &Events) -> Option<String> {
    match events {
        Events::Route(name) => Some(name.to_string()),
        _ => None,
    }
}

fn events(route: Option<String>) -> Events {
    route.map_or(Events::AllRequests, |name| Events::Route(name.into()))
}

pub(crate) fn decode_counters(bytes: &[u8]) -> Result<Vec<SavedCounter>, StoreError> {
    let stored: Vec<StoredCounter> = decode("the counters of a key", bytes)?;
    stored.into_iter().map(StoredCounter::read).collect()
}

impl StoredCounter {
    fn read(self) -> Result<SavedCounter, StoreError> {
        let balance =
            |used, at| SavedValue::Balance(Balance::stored(used, Timestamp::from_unix_millis(at)));
        let (period, value) = match self.value {
            StoredValue::Window(window) => {
                let (length, hits) = window.read()?;
                (Period::Sliding(length), SavedValue::Hits(hits))
            }
            StoredValue::Day(used, at) => (Period::Day, balance(used, at)),
            StoredValue::Month(used, at) => (Period::Month, balance(used, at)),
            StoredValue::Credits(used, at) => (Period::Credits(None), balance(used, at)),
        };
        let id = CounterId {
            events: events(self.route),
            period,
            shadow: self.shadow,
        };
        Ok(SavedCounter { id, value })
    }
}

impl StoredWindow {
    fn new(length: WindowLength, hits: &[(Timestamp, u32)]) -> Self {
        let mut last = 0;
        let since_last = |&(at, count): &(Timestamp, u32)| {
            let since = at.unix_millis().saturating_sub(last);
            last = at.unix_millis();
            (since, count)
        };
        Self {
            length: length.nanos(),
            hits: hits.iter().map(since_last).collect(),
        }
    }

    fn read(self) -> Result<(WindowLength, Vec<(Timestamp, u32)>), StoreError> {
        let length = WindowLength::new(std::time::Duration::from_nanos(self.length));
        let length = length.map_err(|_| StoreError::damaged("a window has an invalid length"))?;
        let mut at = 0_u64;
        let hits = self.hits.into_iter().map(|(since, count)| {
            at = at.saturating_add(since);
            (Timestamp::from_unix_millis(at), count)
        });
        Ok((length, hits.collect()))
    }
}

/// Identifies a balance among those of a key or an organization.
#[cfg(feature = "postgres")]
#[derive(Serialize, Deserialize)]
struct StoredId {
    route: Option<String>,
    shadow: bool,
    period: StoredPeriod,
}

#[cfg(feature = "postgres")]
#[derive(Serialize, Deserialize)]
enum StoredPeriod {
    Day,
    Month,
    Credits,
}

/// Returns `None` for a counter that is not a balance.
#[cfg(feature = "postgres")]
pub(crate) fn encode_balance_id(id: &CounterId) -> Result<Option<Vec<u8>>, StoreError> {
    let period = match id.period {
        Period::Day => StoredPeriod::Day,
        Period::Month => StoredPeriod::Month,
        Period::Credits(_) => StoredPeriod::Credits,
        Period::Sliding(_) | Period::Concurrent => return Ok(None),
    };
    let stored = StoredId {
        route: route(&id.events),
        shadow: id.shadow,
        period,
    };
    encode(&stored).map(Some)
}

#[cfg(feature = "postgres")]
pub(crate) fn decode_balance_id(bytes: &[u8]) -> Result<CounterId, StoreError> {
    let stored: StoredId = decode("a balance", bytes)?;
    Ok(CounterId {
        events: events(stored.route),
        period: match stored.period {
            StoredPeriod::Day => Period::Day,
            StoredPeriod::Month => Period::Month,
            StoredPeriod::Credits => Period::Credits(None),
        },
        shadow: stored.shadow,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredIpWindow {
    ip_key: Vec<u8>,
    events: StoredEvents,
    full_at: u32,
    is_shadow: bool,
    window: StoredWindow,
}

#[derive(Serialize, Deserialize)]
enum StoredEvents {
    BadKeys,
    MissingKeys,
    Requests(String),
    Route(String),
}

pub(crate) fn encode_ip_window(saved: &SavedIpWindow) -> Result<Vec<u8>, StoreError> {
    let stored = StoredIpWindow {
        ip_key: saved.ip_key.to_bytes().to_vec(),
        events: match &saved.events {
            Events::AuthFailures(AuthFailure::BadKey) => StoredEvents::BadKeys,
            Events::AuthFailures(AuthFailure::MissingKey) => StoredEvents::MissingKeys,
            Events::IpLimit(name) => StoredEvents::Requests(name.to_string()),
            Events::Route(name) => StoredEvents::Route(name.to_string()),
            Events::AllRequests => {
                return Err(StoreError::damaged("a window of an address without a name"));
            }
        },
        full_at: saved.full_at,
        is_shadow: saved.is_shadow,
        window: StoredWindow::new(saved.length, &saved.hits),
    };
    encode(&stored)
}

pub(crate) fn decode_ip_window(bytes: &[u8]) -> Result<SavedIpWindow, StoreError> {
    let stored: StoredIpWindow = decode("the windows of an address", bytes)?;
    let ip_key = stored.ip_key.try_into().ok().and_then(IpKey::from_bytes);
    let (length, hits) = stored.window.read()?;
    Ok(SavedIpWindow {
        ip_key: ip_key.ok_or_else(|| StoreError::damaged("an address is invalid"))?,
        events: match stored.events {
            StoredEvents::BadKeys => Events::AuthFailures(AuthFailure::BadKey),
            StoredEvents::MissingKeys => Events::AuthFailures(AuthFailure::MissingKey),
            StoredEvents::Requests(name) => Events::IpLimit(name.into()),
            StoredEvents::Route(name) => Events::Route(name.into()),
        },
        length,
        full_at: stored.full_at,
        is_shadow: stored.is_shadow,
        hits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits() -> Vec<(Timestamp, u32)> {
        let at = Timestamp::from_unix_millis;
        vec![(at(1_000), 1), (at(1_001), 7), (at(90_000), 2)]
    }

    #[test]
    fn counters_read_back() {
        let balance = Balance::stored(7, Timestamp::from_unix_millis(9));
        let id = |period, shadow| CounterId {
            events: Events::Route("orders".into()),
            period,
            shadow,
        };
        let minute = Period::Sliding(WindowLength::MINUTE);
        let mut counters = vec![SavedCounter {
            id: id(minute, true),
            value: SavedValue::Hits(hits()),
        }];
        for period in [Period::Day, Period::Month, Period::Credits(None)] {
            counters.push(SavedCounter {
                id: id(period, false),
                value: SavedValue::Balance(balance),
            });
        }
        let bytes = encode_counters(&counters).unwrap();
        assert_eq!(decode_counters(&bytes).unwrap(), counters);
        for len in 0..bytes.len() {
            assert!(decode_counters(&bytes[..len]).is_err());
        }
    }

    #[test]
    fn ip_windows_read_back() {
        let saved = SavedIpWindow {
            ip_key: "2001:db8::/64".parse().unwrap(),
            events: Events::IpLimit("login".into()),
            length: WindowLength::MINUTE,
            full_at: 3,
            is_shadow: true,
            hits: hits(),
        };
        let bytes = encode_ip_window(&saved).unwrap();
        assert_eq!(decode_ip_window(&bytes).unwrap(), saved);
    }
}
