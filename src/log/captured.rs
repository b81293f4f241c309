//! A log that a test reads.

use std::sync::Arc;

use parking_lot::Mutex;

use super::record::{Level, Record, Value};
use super::{Log, Output};

/// The events that were logged, as `name field=value …`.
#[derive(Default)]
pub(crate) struct Captured(Mutex<Vec<String>>);

impl Log {
    pub(crate) fn captured() -> (Self, Arc<Captured>) {
        let captured = Arc::<Captured>::default();
        (Self(Some(Arc::clone(&captured) as _)), captured)
    }
}

impl Captured {
    /// Returns the events since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Output for Captured {
    fn is_enabled(&self, _: Level) -> bool {
        true
    }

    fn write(&self, record: &Record) {
        let fields = record.fields.iter().map(|(name, value)| match value {
            Value::Number(number) => format!(" {name}={number}"),
            Value::Text(text) => format!(" {name}={text}"),
            Value::Json(json) => format!(" {name}={json}"),
        });
        let event = record.name.to_owned() + &fields.collect::<String>();
        self.0.lock().push(event);
    }
}
