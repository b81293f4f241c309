//! An event as an output writes it.

use serde_json::Value as Json;

use super::safe_text::{safe_json, safe_text};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// The name of an event and its fields. All texts are safe to show.
#[cfg_attr(not(any(feature = "serve", feature = "tracing")), allow(dead_code))]
pub(super) struct Record {
    pub(super) level: Level,
    pub(super) name: &'static str,
    pub(super) fields: Vec<(&'static str, Value)>,
}

#[cfg_attr(not(any(feature = "serve", feature = "tracing")), allow(dead_code))]
pub(super) enum Value {
    Number(u64),
    Text(String),
    Json(Json),
}

impl Record {
    pub(super) fn new(level: Level, name: &'static str) -> Self {
        Self {
            level,
            name,
            fields: Vec::with_capacity(8),
        }
    }

    pub(super) fn number(mut self, name: &'static str, number: u64) -> Self {
        self.fields.push((name, Value::Number(number)));
        self
    }

    pub(super) fn maybe_number(self, name: &'static str, number: Option<u64>) -> Self {
        match number {
            Some(number) => self.number(name, number),
            None => self,
        }
    }

    pub(super) fn text(mut self, name: &'static str, text: &str) -> Self {
        self.fields.push((name, Value::Text(safe_text(text))));
        self
    }

    pub(super) fn maybe_text(self, name: &'static str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(name, text),
            None => self,
        }
    }

    pub(super) fn json(mut self, name: &'static str, json: &Json) -> Self {
        self.fields.push((name, Value::Json(safe_json(json))));
        self
    }
}
