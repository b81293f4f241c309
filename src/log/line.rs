//! Events as lines of text or JSON.

use serde_json::Value as Json;

use super::record::{Level, Record, Value};
use crate::time::Timestamp;

/// The format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFormat {
    /// `2026-11-26T15:46:39.123Z INFO refused reason=unknown_key count=3`
    Text,
    /// `{"time":"2026-11-26T15:46:39.123Z","level":"info","event":"refused","reason":"unknown_key","count":3}`
    Json,
}

impl LineFormat {
    /// Returns a line with its end.
    pub(super) fn line(self, record: &Record, at: Timestamp) -> String {
        match self {
            Self::Text => text(record, at),
            Self::Json => json(record, at),
        }
    }
}

fn text(record: &Record, at: Timestamp) -> String {
    let level = level_name(record.level).to_ascii_uppercase();
    let mut line = format!("{} {level} {}", time(at), record.name);
    for (name, value) in &record.fields {
        line += &match value {
            Value::Number(number) => format!(" {name}={number}"),
            Value::Text(text) => format!(" {name}={}", quoted(text)),
            Value::Json(json) => format!(" {name}={}", quoted(&json.to_string())),
        };
    }
    line + "\n"
}

/// Quotes a text, unless it is one word.
fn quoted(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '=' | '\\');
    match !text.is_empty() && text.chars().all(is_word) {
        true => text.to_owned(),
        false => format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#)),
    }
}

fn json(record: &Record, at: Timestamp) -> String {
    let mut line = format!(
        r#"{{"time":"{}","level":"{}","event":"{}""#,
        time(at),
        level_name(record.level),
        record.name
    );
    for (name, value) in &record.fields {
        line += &match value {
            Value::Number(number) => format!(r#","{name}":{number}"#),
            Value::Text(text) => format!(r#","{name}":{}"#, Json::from(text.as_str())),
            Value::Json(json) => format!(r#","{name}":{json}"#),
        };
    }
    line + "}\n"
}

/// Returns a time in RFC 3339 with three digits for milliseconds, so that lines are aligned and sorted as text.
fn time(at: Timestamp) -> String {
    let text = at.to_string();
    let text = text.trim_end_matches('Z');
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{seconds}.{fraction:0<3}Z")
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_milliseconds() {
        for (millis, shown) in [(0, "00.000"), (80, "00.080"), (1_106, "01.106")] {
            let shown = format!("1970-01-01T00:00:{shown}Z");
            assert_eq!(time(Timestamp::from_unix_millis(millis)), shown);
        }
    }

    /// Whatever a client sends, a line is one line, and its fields are those of the event.
    #[test]
    fn texts_from_clients_forge_no_line_and_no_field() {
        let path = "/a\n2026 INFO changed\u{2028}\" status=200 \\\" \u{1b}[2J";
        let record = Record::new(Level::Info, "refused")
            .text("path", path)
            .number("count", 1);
        let line = LineFormat::Text.line(&record, Timestamp::default());
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z INFO refused path=\"/a\\\\n2026 INFO changed\\\\u{2028}\\\" \
             status=200 \\\\\\\" \\\\u{1b}[2J\" count=1\n"
        );
        let line = LineFormat::Json.line(&record, Timestamp::default());
        assert_eq!(line.lines().count(), 1);
        let read: Json = serde_json::from_str(&line).unwrap();
        let shown = r#"/a\n2026 INFO changed\u{2028}" status=200 \" \u{1b}[2J"#;
        assert_eq!(
            read,
            json!({"time": "1970-01-01T00:00:00.000Z", "level": "info", "event": "refused",
                "path": shown, "count": 1})
        );
    }
}
