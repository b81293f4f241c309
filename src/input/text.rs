//! Unicode rules for text from users: allowed, confusable and hidden characters.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Trims a name and converts it to Unicode normalization form C.
pub(crate) fn normalized(name: &str) -> String {
    name.trim().nfc().collect()
}

/// The skeleton of a name (Unicode Technical Standard 39). Names that look alike have equal
/// skeletons.
pub(crate) fn skeleton(name: &str) -> String {
    unicode_security::skeleton(name).collect()
}

/// The reason why a character is not allowed in a name.
pub(crate) fn rejection(c: char) -> Option<&'static str> {
    use GeneralCategory as Category;
    if c == ' ' || c.is_ascii_graphic() {
        return None;
    }
    match c.general_category() {
        Category::Control => Some("a control character"),
        Category::LineSeparator | Category::ParagraphSeparator => Some("a line separator"),
        Category::Unassigned | Category::PrivateUse | Category::Surrogate => {
            Some("an unassigned character")
        }
        Category::SpaceSeparator => Some("a space character other than U+0020"),
        Category::Format => Some("an invisible character"),
        _ if is_blank(c) => Some("an invisible character"),
        _ => None,
    }
}

/// Whether a character is invisible without being a control or format character: a
/// default-ignorable code point, which skeletons omit, or the blank Braille pattern.
fn is_blank(c: char) -> bool {
    c == '\u{2800}' || skeleton(c.encode_utf8(&mut [0; 4])).is_empty()
}

/// Returns a text for one line of a terminal or a log, with at most `most` characters. Hidden characters are
/// escaped; a text that is cut ends with `…`.
pub(crate) fn escaped(text: &str, most: usize) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (number, c) in text.chars().enumerate() {
        if number == most {
            escaped.push('…');
            break;
        }
        push_escaped(&mut escaped, c);
    }
    escaped
}

/// Adds a character to a text for one line of a terminal or a log: as an escape if it is hidden.
pub(crate) fn push_escaped(text: &mut String, c: char) {
    match c {
        '\n' | '\r' | '\t' => text.extend(c.escape_default()),
        c if is_hidden(c) => text.extend(c.escape_unicode()),
        c => text.push(c),
    }
}

/// Whether a character can make a terminal or web page do something other than display it: move the
/// cursor, change colours, reverse the writing direction, break the line.
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

/// Formats a number with a comma between thousands.
#[cfg(feature = "cli")]
pub(crate) fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns bytes as hexadecimal digits.
#[cfg(feature = "serve")]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text consists of visible ASCII characters, spaces and line breaks, as almost every text does.
fn is_plain(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
    // Without a branch for each byte, the bytes of a chunk are compared at once.
    let all_plain = |bytes: &[u8]| bytes.iter().fold(true, |all, byte| all & is_plain(byte));
    let (chunks, rest) = text.as_chunks::<32>();
    chunks.iter().all(|chunk| all_plain(chunk)) && all_plain(rest)
}

/// Escapes hidden characters in the strings of a JSON text as `\u` sequences. JSON itself requires
/// this only below U+0020, which would leave C1 controls for terminals to obey.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    // Pretty-printed JSON has line breaks between values.
    let is_to_escape = |c: char| c != '\n' && is_hidden(c);
    if is_plain(json.as_bytes()) || !json.contains(is_to_escape) {
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
