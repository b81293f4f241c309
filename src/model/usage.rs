//! Recorded requests.

use std::time::Duration;

use super::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// One request by a known key, as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When it was decided.
    pub at: Timestamp,
    /// The key that made it; `None` for a refusal that named no known key, of which only a
    /// [sink](crate::UsageSink) is told.
    pub key_id: Option<KeyId>,
    /// Its method.
    pub method: Method,
    /// Its path without the query, at most 256 bytes of it.
    pub path: String,
    /// The address it came from.
    pub ip: ClientIp,
    /// The status it was answered with; 0 if the grant was dropped unfinished.
    pub status: u16,
    /// Time from admission to answer, in whole microseconds up to 71 minutes; zero for a refusal.
    pub latency: Duration,
    /// Why it was refused; `None` if it was admitted.
    pub refused: Option<Reason>,
}
