//! Limits: their text form, sliding windows and quotas.

mod quota;
mod spec;
mod window;
mod window_length;

pub use self::spec::{Limit, LimitKind};

pub(crate) use self::quota::Balance;
pub(crate) use self::spec::{Period, Refill, list};
pub(crate) use self::window::SlidingLog;
pub(crate) use self::window_length::WindowLength;
