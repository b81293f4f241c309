//! Spans of decisions for OpenTelemetry, sent to a collector as OTLP over HTTP in JSON.
//!
//! A request with a sampled `traceparent` (W3C Trace Context) gets a span in that trace; other requests get
//! none, so that the caller decides what is sampled.

mod collector;
mod exporter;
mod headers;
mod span;
mod trace_context;

use std::ffi::OsString;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Response};
use http_body_util::Full;
use tokio::sync::mpsc;

use self::collector::{Collector, Endpoint};
pub(super) use self::exporter::Exporter;
pub(super) use self::span::Span;
use self::trace_context::TraceContext;
use super::error::ServeError;
use super::tls_client;
use crate::guard::Guard;
use crate::model::Reason;

/// The largest number of spans that wait to be exported; further ones are dropped.
const CAPACITY: usize = 4_096;

/// The variables of OpenTelemetry. One that cannot be used is only a warning, because it may be meant for all
/// programs of a machine.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const CA: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

#[derive(Clone, Debug, Args)]
pub(crate) struct OtlpOpts {
    /// The address of an OpenTelemetry collector, such as http://127.0.0.1:4318, which gets spans of the
    /// decisions about requests with a sampled `traceparent`. Default: that of OTEL_EXPORTER_OTLP_ENDPOINT
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<Endpoint>,
    /// Trust these certificate authorities, as PEM, instead of the public ones, if the address of the collector
    /// begins with `https`. Default: those of OTEL_EXPORTER_OTLP_CERTIFICATE
    #[arg(long, value_name = "FILE")]
    otlp_ca: Option<PathBuf>,
}

impl OtlpOpts {
    /// Starts to export. Must be called in the runtime.
    pub(super) fn start(&self, guard: &Guard) -> Result<(Tracer, Exporter), ServeError> {
        let Some(collector) = self.collector(guard)? else {
            return Ok((Tracer(None), Exporter::idle()));
        };
        let (sender, spans) = mpsc::channel(CAPACITY);
        let exporter = Exporter::spawn(collector, spans, guard.log().clone());
        Ok((Tracer(Some(sender)), exporter))
    }

    fn collector(&self, guard: &Guard) -> Result<Option<Collector>, ServeError> {
        let given = match &self.otlp_ca {
            Some(file) => Some(tls_client::connector("--otlp-ca", Some(file))?),
            None => None,
        };
        let unusable = |problem: String| {
            let warning = format!("no spans are exported: {problem}");
            guard.warnings().add(&warning);
        };
        let endpoint = match (&self.otlp_endpoint, of_environment(ENDPOINT)) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, None) => return Ok(None),
            (None, Some(address)) => match address.to_string_lossy().parse() {
                Ok(endpoint) => endpoint,
                Err(error) => {
                    unusable(format!("{ENDPOINT} cannot be used: {error}"));
                    return Ok(None);
                }
            },
        };
        let fields = of_environment(HEADERS).unwrap_or_default();
        let headers = match headers::parse(&fields.to_string_lossy()) {
            Ok(headers) => headers,
            Err(expected) => {
                unusable(format!("{HEADERS} cannot be used: {expected}"));
                return Ok(None);
            }
        };
        if !endpoint.is_encrypted {
            return Ok(Some(Collector {
                endpoint,
                headers,
                tls: None,
            }));
        }
        let ca = of_environment(CA).map(PathBuf::from);
        let tls = match given {
            Some(tls) => Ok(tls),
            None => tls_client::connector(CA, ca.as_deref()),
        };
        let tls = tls.inspect_err(|error| unusable(error.to_string())).ok();
        Ok(tls.map(|tls| Collector {
            endpoint,
            headers,
            tls: Some(tls),
        }))
    }
}

/// Returns the value of a variable that is set and not empty.
fn of_environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
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
