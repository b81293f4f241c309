//! Time: clocks, points in time, time zones and durations as text.
//!
//! A [`Moment`] is monotonic and is used for windows and latencies. A [`Timestamp`] is calendar
//! time and is used for expiry, quotas and everything stored. The two are never mixed.

mod clock;
pub(crate) mod duration;
mod moment;
mod monotonic;
mod timestamp;
mod zone;

pub use self::clock::{Clock, ManualClock};
pub use self::duration::LockDuration;
pub use self::timestamp::{InvalidTimestamp, Timestamp};
pub use self::zone::TimeZone;

pub(crate) use self::clock::CalendarCheck;
pub(crate) use self::moment::Moment;
