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
use crate::guard::Guard;
use crate::model::Reason;

/// The largest number of spans that wait to be exported; further ones are dropped.
const CAPACITY: usize = 4_096;

#[derive(Clone, Debug, Args)]
pub(crate) struct OtlpOpts {
    /// The address of an OpenTelemetry collector, such as http://127.0.0.1:4318, which gets spans of the
    /// decisions about requests with a sampled `traceparent`. Default: that of OTEL_EXPORTER_OTLP_ENDPOINT
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Collector>,
}

impl OtlpOpts {
    /// Starts to export. Must be called in the runtime.
    pub(super) fn start(&self, guard: &Guard) -> (Tracer, Exporter) {
        let collector = self.otlp_endpoint.clone();
        let Some(collector) = collector.or_else(|| of_environment(guard)) else {
            return (Tracer(None), Exporter::idle());
        };
        let (sender, spans) = mpsc::channel(CAPACITY);
        let exporter = Exporter::spawn(collector, spans, guard.log().clone());
        (Tracer(Some(sender)), exporter)
    }
}

/// Returns the collector that the environment names. One that cannot be used is only a warning, because the
/// variable may be meant for all programs of a machine.
fn of_environment(guard: &Guard) -> Option<Collector> {
    const NAME: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let address = std::env::var(NAME).ok().filter(|text| !text.is_empty())?;
    let collector = address.parse();
    collector
        .inspect_err(|error| {
            let warning = format!("no spans are exported: {NAME} cannot be used: {error}");
            guard.warnings().add(&warning);
        })
        .ok()
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

/// Returns the id of the trace of a request, sampled or not; `None` without a valid one.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    trace_context::trace_id(headers)
}

/// Notes for a span why a request was refused.
pub(super) fn note_reason(response: &mut Response<Full<Bytes>>, reason: Reason) {
    response.extensions_mut().insert(reason);
}
