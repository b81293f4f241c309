//! Spans of decisions for OpenTelemetry, sent to a collector as OTLP over HTTP in JSON.
//!
//! A request with a sampled `traceparent` (W3C Trace Context) gets a span in that trace; other requests get
//! none, so that the caller decides what is sampled.

mod collector;
mod exporter;
mod span;
mod trace_context;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Response};
use http_body_util::Full;
use tokio::sync::mpsc;

use self::collector::Collector;
pub(super) use self::exporter::Exporter;
pub(super) use self::span::Span;
use self::trace_context::TraceContext;
use crate::log::Log;
use crate::model::Reason;

/// The largest number of spans that wait to be exported; further ones are dropped.
const CAPACITY: usize = 4_096;

#[derive(Clone, Debug, Args)]
pub(crate) struct OtlpOpts {
    /// The address of an OpenTelemetry collector, such as http://127.0.0.1:4318, which gets spans of the
    /// decisions about requests with a sampled `traceparent`
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true
    )]
    otlp_endpoint: Option<Collector>,
}

impl OtlpOpts {
    /// Starts to export. Must be called in the runtime.
    pub(super) fn start(&self, log: &Log) -> (Tracer, Exporter) {
        let Some(collector) = self.otlp_endpoint.clone() else {
            return (Tracer(None), Exporter::idle());
        };
        let (sender, spans) = mpsc::channel(CAPACITY);
        let exporter = Exporter::spawn(collector, spans, log.clone());
        (Tracer(Some(sender)), exporter)
    }
}

/// Makes spans, if there is a collector.
pub(super) struct Tracer(Option<mpsc::Sender<Span>>);

impl Tracer {
    /// Begins the span of a request.
    pub(super) fn begin(&self, name: &'static str, headers: &HeaderMap) -> Option<Span> {
        self.0.as_ref()?;
        Span::begin(name, TraceContext::sampled(headers)?)
    }

    /// Ends a span with the response, and exports it unless too many are waiting.
    pub(super) fn end(&self, span: Span, response: &Response<Full<Bytes>>) {
        if let Some(spans) = &self.0 {
            let reason = response.extensions().get::<Reason>().copied();
            let _ = spans.try_send(span.ended(response.status().as_u16(), reason));
        }
    }
}

/// Notes for a span why a request was refused.
pub(super) fn note_reason(response: &mut Response<Full<Bytes>>, reason: Reason) {
    response.extensions_mut().insert(reason);
}
