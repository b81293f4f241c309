//! Texts that are safe to show: without keys and hidden characters, and of bounded length.

use serde_json::Value as Json;

use crate::input::text::escaped;
use crate::model::key_words::without_keys;

/// The largest number of characters. The longest texts are warnings about policies.
const MAX_CHARS: usize = 2_048;

/// Shortens what may be a key, escapes hidden characters, and cuts long texts.
pub(super) fn safe_text(text: &str) -> String {
    escaped(&without_keys(text), MAX_CHARS)
}

/// Makes all strings in a value safe. The names of fields are those of this crate.
pub(super) fn safe_json(json: &Json) -> Json {
    match json {
        Json::String(text) => Json::String(safe_text(text)),
        Json::Array(values) => values.iter().map(safe_json).collect(),
        Json::Object(fields) => {
            let fields = fields.iter();
            let safe = fields.map(|(name, value)| (name.clone(), safe_json(value)));
            Json::Object(safe.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";

    #[test]
    fn keys_are_shortened_wherever_they_are() {
        let without_prefix = &KEY[8..];
        for text in [
            KEY.to_owned(),
            format!("/a/{KEY}/b?key={KEY}"),
            format!("%20{without_prefix}\u{1b}"),
            KEY.replace("_", "%5f").replace("A", "%2541"),
        ] {
            let safe = safe_text(&text);
            assert!(!safe.contains(&KEY[20..30]), "{safe}");
        }
        let safe = safe_json(&json!({"a": [KEY], "b": {"c": KEY}, "d": 1}));
        assert!(!safe.to_string().contains(&KEY[20..30]), "{safe}");
        assert_eq!(safe["d"], 1);
        assert_eq!(
            safe_text("/orders/550e8400-e29b-41d4-a716-446655440000").len(),
            44
        );
    }

    #[test]
    fn hidden_characters_are_escaped_and_long_texts_cut() {
        let safe = safe_text("a\u{1b}[31m\u{9b}\n\u{202e}\u{2028}ü\u{7f}");
        assert_eq!(safe, r"a\u{1b}[31m\u{9b}\n\u{202e}\u{2028}ü\u{7f}");
        assert_eq!(
            safe_text(&"a ".repeat(9_999)).chars().count(),
            MAX_CHARS + 1
        );
    }
}
