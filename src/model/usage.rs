//! Recorded requests.

use std::time::Duration;

use super::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// A recorded request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Time of the decision.
    pub at: Timestamp,
    /// The key; `None` for refusals without a known key, which only [sinks](crate::UsageSink)
    /// receive.
    pub key_id: Option<KeyId>,
    /// The method.
    pub method: Method,
    /// The path without the query, cut at 256 bytes.
    pub path: String,
    /// The client address.
    pub ip: ClientIp,
    /// The response status; 0 if the grant was dropped without `finish`.
    pub status: u16,
    /// Time from admission to response, in microseconds up to 71 minutes; zero for refusals.
    pub latency: Duration,
    /// The reason for a refusal; `None` if admitted.
    pub refused: Option<Reason>,
}
