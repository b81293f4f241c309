//! The log. Everything that the library and the server log is an [`Event`], and all texts of events pass
//! [`safe_text`] before an output gets them.

#[cfg(test)]
mod captured;
mod event;
#[cfg(feature = "serve")]
mod line;
#[cfg(feature = "serve")]
mod lines;
mod record;
mod safe_text;
#[cfg(feature = "tracing")]
mod trace;

use std::fmt;
use std::sync::Arc;

pub(crate) use self::event::Event;
#[cfg(feature = "serve")]
pub(crate) use self::line::LineFormat;
#[cfg(feature = "serve")]
pub(crate) use self::lines::LogLines;
pub(crate) use self::record::Level;
use self::record::Record;

/// Where events go. Clones share the output.
#[derive(Clone, Default)]
pub(crate) struct Log(Option<Arc<dyn Output>>);

/// A destination of events. Must not block: threads that decide or commit call it.
trait Output: Send + Sync {
    fn is_enabled(&self, level: Level) -> bool;
    fn write(&self, record: &Record);
}

impl Log {
    /// The log of an application: its subscriber of the crate `tracing`, with the feature `tracing`.
    pub(crate) fn of_application() -> Self {
        #[cfg(feature = "tracing")]
        let output = Some(Arc::new(trace::Trace) as _);
        #[cfg(not(feature = "tracing"))]
        let output = None;
        Self(output)
    }

    /// Whether there is an output, which may be interested in some events.
    pub(crate) fn has_output(&self) -> bool {
        self.0.is_some()
    }

    #[cfg(feature = "serve")]
    pub(crate) fn is_enabled(&self, level: Level) -> bool {
        self.0
            .as_ref()
            .is_some_and(|output| output.is_enabled(level))
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        let Some(output) = &self.0 else {
            return;
        };
        if output.is_enabled(event.level()) {
            output.write(&event.record());
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
