//! The span of a decision.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::trace_context::TraceContext;
use crate::input::text::hex;
use crate::model::Reason;

pub(in crate::serve) struct Span {
    name: &'static str,
    context: TraceContext,
    id: [u8; 8],
    started: SystemTime,
    clock: Instant,
    duration: Duration,
    status: u16,
    reason: Option<Reason>,
}

/// The kind of a span that handles a request (`SPAN_KIND_SERVER`).
const SERVER: u8 = 2;

impl Span {
    /// Begins a span; `None` if the system has no random numbers.
    pub(super) fn begin(name: &'static str, context: TraceContext) -> Option<Self> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).ok()?;
        Some(Self {
            name,
            context,
            id,
            started: SystemTime::now(),
            clock: Instant::now(),
            duration: Duration::ZERO,
            status: 0,
            reason: None,
        })
    }

    pub(super) fn ended(self, status: u16, reason: Option<Reason>) -> Self {
        Self {
            duration: self.clock.elapsed(),
            status,
            reason,
            ..self
        }
    }

    fn to_json(&self) -> Value {
        let mut attributes = vec![json!({
            "key": "http.response.status_code",
            "value": { "intValue": self.status.to_string() },
        })];
        if let Some(reason) = self.reason {
            attributes.push(text("keyguard.reason", reason.as_str()));
        }
        let ended = self.started + self.duration;
        json!({
            "traceId": self.context.trace_id,
            "spanId": hex(&self.id),
            "parentSpanId": self.context.parent_id,
            "traceState": self.context.state,
            "name": self.name,
            "kind": SERVER,
            "startTimeUnixNano": unix_nanos(self.started),
            "endTimeUnixNano": unix_nanos(ended),
            "attributes": attributes,
        })
    }
}

/// Returns the body of an export: `ExportTraceServiceRequest` of OTLP.
pub(super) fn export_request(spans: &[Span]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let spans: Vec<Value> = spans.iter().map(Span::to_json).collect();
    json!({
        "resourceSpans": [{
            "resource": {
                "attributes": [text("service.name", "keyguard"), text("service.version", version)],
            },
            "scopeSpans": [{
                "scope": { "name": "keyguard", "version": version },
                "spans": spans,
            }],
        }],
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64-bit numbers are strings in the JSON of protocol buffers.
fn unix_nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}
