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
use std::panic::{AssertUnwindSafe, catch_unwind};
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

    pub(crate) fn is_enabled(&self, level: Level) -> bool {
        let is_enabled = |output: &Arc<dyn Output>| unless_panic(|| output.is_enabled(level));
        self.0.as_ref().and_then(is_enabled).unwrap_or(false)
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        if let Some(output) = &self.0
            && self.is_enabled(event.level())
        {
            unless_panic(|| output.write(&event.record()));
        }
    }
}

/// Calls an output. A panic of an application's subscriber must neither end the thread that stores usage nor
/// reach a thread that decides.
fn unless_panic<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl Output for Panics {
        fn is_enabled(&self, level: Level) -> bool {
            assert_ne!(level, Level::Error);
            true
        }

        fn write(&self, _: &Record) {
            panic!("a subscriber panics");
        }
    }

    #[test]
    fn panics_of_an_output_do_not_reach_its_callers() {
        let log = Log(Some(Arc::new(Panics)));
        log.emit(&Event::BackendUp { server: "redis" });
        log.emit(&Event::Dropped { requests: 1 });
    }
}
