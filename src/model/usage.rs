//! Recorded requests.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// A recorded request. [`JsonLines`](crate::JsonLines) shows its JSON form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// Time of the decision.
    pub at: Timestamp,
    /// The key; `None` for refusals without a known key, which only [sinks](crate::UsageSink)
    /// receive.
    pub key_id: Option<KeyId>,
    /// The method.
    #[serde(serialize_with = "as_sent", deserialize_with = "from_sent")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "GET"))]
    pub method: Method,
    /// The path without the query, cut at 256 bytes. Words that may be keys are shortened.
    #[cfg_attr(feature = "openapi", schema(example = "/orders"))]
    pub path: String,
    /// The client address.
    pub ip: ClientIp,
    /// The response status; 0 if the grant was dropped without `finish`.
    pub status: u16,
    /// Time from admission to response, in steps of 1 µs, at most 71 minutes; zero for refusals. In
    /// JSON `latency_us`.
    #[serde(
        rename = "latency_us",
        serialize_with = "as_micros",
        deserialize_with = "from_micros"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = u64))]
    pub latency: Duration,
    /// The reason for a refusal; `None` if admitted.
    pub refused: Option<Reason>,
}

fn as_sent<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(method.as_str())
}

fn as_micros<S: Serializer>(latency: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(latency.as_micros() as u64)
}

fn from_sent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Method, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Method::from(text.as_str()))
}

fn from_micros<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_micros)
}
