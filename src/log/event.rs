//! All that is logged.

use std::time::Duration;

use super::record::{Level, Record};
use crate::model::{Reason, Usage};
use crate::net::ClientIp;

/// Something that happened. Each kind has the fields that its line shows, and none for a key or a secret.
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) enum Event<'a> {
    /// The server starts.
    Started {
        version: &'a str,
        storage: &'a str,
        limits: &'a str,
        policy: Option<&'a str>,
    },
    /// The server accepts connections.
    Listening {
        address: &'a str,
        tls: bool,
    },
    /// The server accepts no further connections.
    Stopping,
    /// All is stored.
    Stopped,
    /// The server could not start, or ends because of an error; with the command to type.
    Failed {
        problem: &'a str,
        next: &'a str,
    },
    /// The server answered a request; if this was requested.
    Request {
        peer: ClientIp,
        method: &'a str,
        path: &'a str,
        status: u16,
        duration: Duration,
        trace_id: Option<&'a str>,
    },
    /// Requests were refused for this reason since the last event of this reason; one of them, if it is
    /// known.
    Refused {
        reason: Reason,
        count: u64,
        sample: Option<&'a Usage>,
    },
    /// A request was refused; logged by the thread that decides, in its span.
    Decision {
        reason: Reason,
        key_id: Option<u64>,
        ip: ClientIp,
        method: &'a str,
        path: &'a str,
    },
    /// A request had a wrong admin key.
    #[cfg(feature = "http")]
    AdminRefused {
        ip: ClientIp,
    },
    /// Requests were decided and not recorded.
    Dropped {
        requests: u64,
    },
    /// A change that is entered in the audit log.
    Changed {
        action: &'a str,
        subject: Option<u64>,
        actor: &'a str,
        ip: ClientIp,
        details: &'a serde_json::Value,
    },
    /// Changes are refused, or usage cannot be stored.
    StoreFailed {
        problem: &'a str,
    },
    /// Changes are accepted, and usage can be stored.
    StoreRecovered,
    /// A server has a problem.
    BackendDown {
        server: &'a str,
        problem: &'a str,
    },
    BackendUp {
        server: &'a str,
    },
    /// A webhook does not accept events, which are sent again.
    WebhookFailed {
        webhook: &'a str,
        problem: &'a str,
    },
    WebhookRecovered {
        webhook: &'a str,
    },
    /// Spans cannot be sent to the collector, and are lost.
    #[cfg(feature = "otlp")]
    ExportFailed {
        problem: &'a str,
    },
    #[cfg(feature = "otlp")]
    ExportRecovered,
    /// A new text of `Stats::warnings`.
    Warning {
        text: &'a str,
    },
}

impl Event<'_> {
    pub(super) fn level(&self) -> Level {
        match self {
            Self::Failed { .. }
            | Self::Dropped { .. }
            | Self::StoreFailed { .. }
            | Self::BackendDown { .. } => Level::Error,
            Self::Warning { .. } | Self::WebhookFailed { .. } => Level::Warn,
            #[cfg(feature = "http")]
            Self::AdminRefused { .. } => Level::Warn,
            #[cfg(feature = "otlp")]
            Self::ExportFailed { .. } => Level::Warn,
            Self::Decision { .. } => Level::Debug,
            _ => Level::Info,
        }
    }

    pub(super) fn record(&self) -> Record {
        let named = |name| Record::new(self.level(), name);
        match self {
            Self::Started {
                version,
                storage,
                limits,
                policy,
            } => named("started")
                .text("version", version)
                .text("storage", storage)
                .text("limits", limits)
                .text("policy", policy.unwrap_or("none")),
            Self::Listening { address, tls } => named("listening")
                .text("address", address)
                .text("tls", if *tls { "yes" } else { "no" }),
            Self::Stopping => named("stopping"),
            Self::Stopped => named("stopped"),
            Self::Failed { problem, next } => {
                named("failed").text("problem", problem).text("next", next)
            }
            Self::Request {
                peer,
                method,
                path,
                status,
                duration,
                trace_id,
            } => named("request")
                .text("ip", &peer.to_string())
                .text("method", method)
                .text("path", path)
                .number("status", (*status).into())
                .number("duration_us", duration.as_micros() as u64)
                .maybe_text("trace_id", *trace_id),
            Self::Refused {
                reason,
                count,
                sample,
            } => refused(named("refused"), *reason, *count, *sample),
            Self::Decision {
                reason,
                key_id,
                ip,
                method,
                path,
            } => named("decision")
                .text("reason", reason.as_str())
                .number("status", reason.status().into())
                .maybe_number("key_id", *key_id)
                .text("ip", &ip.to_string())
                .text("method", method)
                .text("path", path),
            #[cfg(feature = "http")]
            Self::AdminRefused { ip } => named("admin_refused").text("ip", &ip.to_string()),
            Self::Dropped { requests } => named("dropped").number("count", *requests),
            Self::Changed {
                action,
                subject,
                actor,
                ip,
                details,
            } => named("changed")
                .text("action", action)
                .maybe_number("subject", *subject)
                .text("actor", actor)
                .text("ip", &ip.to_string())
                .json("details", details),
            Self::StoreFailed { problem } => named("store_failed").text("problem", problem),
            Self::StoreRecovered => named("store_recovered"),
            Self::BackendDown { server, problem } => named("backend_down")
                .text("server", server)
                .text("problem", problem),
            Self::BackendUp { server } => named("backend_up").text("server", server),
            Self::WebhookFailed { webhook, problem } => named("webhook_failed")
                .text("webhook", webhook)
                .text("problem", problem),
            Self::WebhookRecovered { webhook } => {
                named("webhook_recovered").text("webhook", webhook)
            }
            #[cfg(feature = "otlp")]
            Self::ExportFailed { problem } => named("export_failed").text("problem", problem),
            #[cfg(feature = "otlp")]
            Self::ExportRecovered => named("export_recovered"),
            Self::Warning { text } => named("warning").text("problem", text),
        }
    }
}

fn refused(record: Record, reason: Reason, count: u64, sample: Option<&Usage>) -> Record {
    let record = record
        .text("reason", reason.as_str())
        .number("status", reason.status().into())
        .number("count", count);
    let Some(sample) = sample else {
        return record;
    };
    record
        .maybe_number("key_id", sample.key_id.map(|id| id.0))
        .text("ip", &sample.ip.to_string())
        .text("method", sample.method.as_str())
        .text("path", &sample.path)
}
