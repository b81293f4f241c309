//! Events of the crate `tracing`, with the target `keyguard`.

use super::Output;
use super::record::{Level, Record, Value};

pub(super) struct Trace;

impl Output for Trace {
    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Error => tracing::enabled!(target: "keyguard", tracing::Level::ERROR),
            Level::Warn => tracing::enabled!(target: "keyguard", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "keyguard", tracing::Level::INFO),
            Level::Debug => tracing::enabled!(target: "keyguard", tracing::Level::DEBUG),
        }
    }

    fn write(&self, record: &Record) {
        // The fields of all events of the library: those that an event does not have are absent.
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(
                    target: "keyguard",
                    tracing::Level::$level,
                    reason = record.find_text("reason"),
                    status = record.find_number("status"),
                    count = record.find_number("count"),
                    key_id = record.find_number("key_id"),
                    ip = record.find_text("ip"),
                    method = record.find_text("method"),
                    path = record.find_text("path"),
                    action = record.find_text("action"),
                    subject = record.find_number("subject"),
                    actor = record.find_text("actor"),
                    details = record.find_json("details"),
                    server = record.find_text("server"),
                    problem = record.find_text("problem"),
                    "{}",
                    record.name
                )
            };
        }
        match record.level {
            Level::Error => event!(ERROR),
            Level::Warn => event!(WARN),
            Level::Info => event!(INFO),
            Level::Debug => event!(DEBUG),
        }
    }
}

impl Record {
    fn find(&self, name: &str) -> Option<&Value> {
        let found = self.fields.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value)
    }

    fn find_text(&self, name: &str) -> Option<&str> {
        match self.find(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn find_number(&self, name: &str) -> Option<u64> {
        match self.find(name)? {
            Value::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn find_json(&self, name: &str) -> Option<String> {
        match self.find(name)? {
            Value::Json(json) => Some(json.to_string()),
            _ => None,
        }
    }
}
