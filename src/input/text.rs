//! Characters from outside: which a name may hold, which look alike, and which hide.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// A name as it is stored, if it can be one: without blanks around it, in normalization form C.
pub(crate) fn normalized(name: &str) -> String {
    name.trim().nfc().collect()
}

/// What two names share that look alike: the skeleton of Unicode Technical Standard 39.
pub(crate) fn skeleton(name: &str) -> String {
    unicode_security::skeleton(name).collect()
}

/// Why a name cannot hold a character.
pub(crate) fn authorize(c: char) -> Option<&'static str> {
    use GeneralCategory as Category;
    if c == ' ' || c.is_ascii_graphic() {
        return None;
    }
    match c.general_category() {
        Category::Control => Some("a control character"),
        Category::LineSeparator | Category::ParagraphSeparator => Some("a line separator"),
        Category::Unassigned | Category::PrivateUse | Category::Surrogate => {
            Some("a character that Unicode does not assign")
        }
        Category::SpaceSeparator => Some("another blank than a space"),
        Category::Format => Some("an invisible character"),
        _ if is_blank(c) => Some("an invisible character"),
        _ => None,
    }
}

/// Whether a character that is no control or format character shows nothing: it is one that
/// skeletons leave out (Default_Ignorable_Code_Point), or the empty pattern of Braille.
fn is_blank(c: char) -> bool {
    c == '\u{2800}' || skeleton(c.encode_utf8(&mut [0; 4])).is_empty()
}

/// Whether a terminal or a page that shows the character could do something else than show it:
/// move the cursor, change colours, turn the direction of writing, break the line.
pub(crate) fn is_hidden(c: char) -> bool {
    use GeneralCategory as Category;
    match c.is_ascii() {
        true => c.is_ascii_control(),
        false => matches!(
            c.general_category(),
            Category::Control
                | Category::Format
                | Category::LineSeparator
                | Category::ParagraphSeparator
        ),
    }
}

/// The same JSON, whose strings hold hidden characters as `\u` escapes. JSON itself demands that only
/// below U+0020, so that terminals would still obey the C1 controls.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    // The pretty form has line breaks, between the values.
    let is_to_escape = |c: char| c != '\n' && is_hidden(c);
    if !json.contains(is_to_escape) {
        return json.into();
    }
    let mut escaped = String::with_capacity(json.len() + 32);
    for c in json.chars() {
        match is_to_escape(c) {
            false => escaped.push(c),
            true => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("acme", "\u{430}cme"),
            ("acme", "acrne"),
            ("0rg l", "Org 1"),
        ] {
            assert_eq!(skeleton(one), skeleton(other));
        }
        assert_ne!(skeleton("acme"), skeleton("Acme"));
    }

    #[test]
    fn json_shows_hidden_characters_as_escapes() {
        let text = "a\u{9b}31m\u{7f}\u{202e}\u{2028}\u{e0041}ü\n";
        let json = serde_json::to_string_pretty(&[text]).unwrap();
        let escaped = escaped_json(&json);
        assert_eq!(
            escaped,
            "[\n  \"a\\u009b31m\\u007f\\u202e\\u2028\\udb40\\udc41ü\\n\"\n]"
        );
        let back: [String; 1] = serde_json::from_str(&escaped).unwrap();
        assert_eq!(back[0], text);
    }
}
