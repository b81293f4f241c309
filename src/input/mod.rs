//! Validation of values that users give.

pub(crate) mod text;

use std::fmt;
use std::num::NonZeroU32;

use crate::input::text::is_hidden;

/// A value that a user gave and that cannot be accepted.
///
/// The message says what was wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidInput {
    field: &'static str,
    problem: String,
}

impl InvalidInput {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }

    /// A problem with `value`, which the message shows unless it may be a key or another secret given in
    /// the wrong place.
    pub(crate) fn of(field: &'static str, value: &str, problem: impl fmt::Display) -> Self {
        match may_be_secret(value) || value.contains(is_hidden) {
            true => Self::new(field, problem.to_string()),
            false => Self::new(field, format!("`{value}` {problem}")),
        }
    }

    /// The same problem, of the field that the value was in.
    pub(crate) fn within(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// What is wrong, without the field.
    #[cfg(any(feature = "import", all(feature = "cli", feature = "postgres")))]
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }

    /// The name of the field, as the admin vocabulary spells it.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// Whether a text is long, or one word of 16 characters or more, as keys and secrets are.
fn may_be_secret(text: &str) -> bool {
    let is_word = |text: &str| {
        let mut bytes = text.bytes();
        bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'/' | b'='))
    };
    text.chars().count() > 32 || (text.len() >= 16 && is_word(text))
}

/// A limit that admits something: from 1 to 4,294,967,295.
pub(crate) fn limit(field: &'static str, value: u32) -> Result<NonZeroU32, InvalidInput> {
    NonZeroU32::new(value).ok_or_else(|| {
        InvalidInput::new(
            field,
            "0 would refuse every request; give at least 1, or suspend or revoke to refuse all",
        )
    })
}

/// The name of a header field.
pub(crate) fn field_name<'a>(field: &'static str, text: &'a str) -> Result<&'a str, InvalidInput> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) {
        let problem = "is not a header field name (RFC 9110 §5.1)";
        return Err(InvalidInput::new(field, problem));
    }
    Ok(text)
}

/// The longest name, in characters.
const LONGEST_NAME: usize = 255;

/// A name or label: 1 to 255 visible characters and spaces, in Unicode's normalization form C.
pub(crate) fn name(field: &'static str, given: &str) -> Result<String, InvalidInput> {
    let name = text::normalized(given);
    if name.is_empty() {
        return Err(InvalidInput::new(
            field,
            "is empty; give at least one character",
        ));
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(InvalidInput::new(field, "is longer than 255 characters"));
    }
    match name.chars().find_map(|c| Some((c, text::authorize(c)?))) {
        None => Ok(name),
        Some((c, what)) => {
            let problem = format!(
                "holds {what} (U+{:04X}); give visible characters and spaces",
                u32::from(c)
            );
            Err(InvalidInput::new(field, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_may_be_a_secret_is_not_shown() {
        for secret in [
            "0123456789abcdef0123456789abcdef",
            "bG9uZyBlbm91Z2ggc2VjcmV0",
            "correct horse battery staple, and so on",
        ] {
            let error = InvalidInput::of("scopes", secret, "is no scope");
            assert_eq!(error.to_string(), "scopes: is no scope");
        }
        for value in ["read write", "10.0.0.0/33", "2001:db8::/129", "4pmish"] {
            let error = InvalidInput::of("ip", value, "is wrong");
            assert_eq!(error.to_string(), format!("ip: `{value}` is wrong"));
        }
    }

    #[test]
    fn names_are_trimmed_and_have_at_most_255_characters() {
        assert_eq!(name("label", "  web ").unwrap(), "web");
        assert!(name("label", " \t").is_err());
        assert!(name("label", &"ü".repeat(255)).is_ok());
        assert!(name("label", &"ü".repeat(256)).is_err());
    }

    #[test]
    fn names_hold_visible_characters_only() {
        for good in ["Müller & Söhne", "株式会社", "שלום", "a 👍 b", "नमस्ते", "x²"]
        {
            assert_eq!(name("label", good).as_deref(), Ok(good));
        }
        for (c, problem) in [
            ('\u{1b}', "a control character (U+001B)"),
            ('\u{9b}', "a control character (U+009B)"),
            ('\u{200b}', "an invisible character (U+200B)"),
            ('\u{202e}', "an invisible character (U+202E)"),
            ('\u{2066}', "an invisible character (U+2066)"),
            ('\u{e0041}', "an invisible character (U+E0041)"),
            ('\u{3164}', "an invisible character (U+3164)"),
            ('\u{fe0f}', "an invisible character (U+FE0F)"),
            ('\u{2800}', "an invisible character (U+2800)"),
            ('\u{2028}', "a line separator (U+2028)"),
            ('\u{a0}', "another blank than a space (U+00A0)"),
            ('\u{378}', "Unicode does not assign (U+0378)"),
            ('\u{e000}', "Unicode does not assign (U+E000)"),
        ] {
            let error = name("label", &format!("a{c}b")).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn names_are_composed() {
        assert_eq!(name("label", "Mu\u{308}ller").unwrap(), "M\u{fc}ller");
    }
}
