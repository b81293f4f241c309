//! Time: clocks, points in time, time zones and durations as text.
//!
//! Two kinds of reading exist and are never mixed. A [`Moment`] is monotonic and drives windows and
//! latencies; a [`Timestamp`] is calendar time and drives expiry, quotas and everything stored.

mod clock;
pub(crate) mod duration;
mod moment;
mod timestamp;
mod zone;

pub use self::clock::{Clock, ManualClock};
pub use self::duration::LockDuration;
pub use self::timestamp::{InvalidTimestamp, Timestamp};
pub use self::zone::TimeZone;

pub(crate) use self::clock::CalendarCheck;
pub(crate) use self::moment::Moment;
