//! Validation of values that users give.

mod given;
mod serde_text;
pub(crate) mod text;

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;

use crate::input::text::is_hidden;

pub(crate) use self::given::{FirstError, Given, RequestField, try_from_text, valid};
pub(crate) use self::serde_text::{deserialize_from_text, serde_as_text};

/// An invalid value given by a user.
///
/// The message says what is wrong and what is expected.
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

    /// An error that quotes `value`, unless it may be a key or another secret given in the wrong
    /// place.
    pub(crate) fn of(field: &'static str, value: &str, problem: impl fmt::Display) -> Self {
        match may_be_secret(value) || value.contains(is_hidden) {
            true => Self::new(field, problem.to_string()),
            false => Self::new(field, format!("`{value}` {problem}")),
        }
    }

    /// The same problem, reported for `field`.
    pub(crate) fn within(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// The problem without the name of the field.
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }

    /// The name of the field, as in the admin API.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// A conversion that cannot fail has no error. Setters that accept text accept values, too.
impl From<Infallible> for InvalidInput {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Whether a text is long, or a single word of 16 or more characters, like keys and secrets.
fn may_be_secret(text: &str) -> bool {
    let is_word = |text: &str| {
        let mut bytes = text.bytes();
        bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'/' | b'='))
    };
    text.chars().count() > 32 || (text.len() >= 16 && is_word(text))
}

/// Checks that a limit is at least 1.
pub(crate) fn limit(field: &'static str, value: u32) -> Result<NonZeroU32, InvalidInput> {
    NonZeroU32::new(value).ok_or_else(|| InvalidInput::new(field, LIMIT_OF_0))
}

/// The problem of a limit of 0.
pub(crate) const LIMIT_OF_0: &str =
    "0 would refuse every request; expected at least 1 (suspend or revoke to refuse all)";

/// Checks that a number other than a limit is at least 1.
pub(crate) fn at_least_one(field: &'static str, value: u32) -> Result<NonZeroU32, InvalidInput> {
    NonZeroU32::new(value).ok_or_else(|| InvalidInput::new(field, "expected at least 1"))
}

/// Returns an error with this problem unless the field is valid.
pub(crate) fn require(
    field: &'static str,
    is_valid: bool,
    problem: impl Into<String>,
) -> Result<(), InvalidInput> {
    match is_valid {
        true => Ok(()),
        false => Err(InvalidInput::new(field, problem)),
    }
}

/// Checks a header field name (RFC 9110 §5.1).
pub(crate) fn field_name<'a>(field: &'static str, text: &'a str) -> Result<&'a str, InvalidInput> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_valid = !text.is_empty() && text.bytes().all(token);
    require(
        field,
        is_valid,
        "is not a header field name (RFC 9110 §5.1)",
    )?;
    Ok(text)
}

/// Maximum length of a name, in characters.
const LONGEST_NAME: usize = 255;

/// Normalizes and checks a name or label: 1 to 255 visible characters and spaces, in Unicode
/// normalization form C.
pub(crate) fn name(field: &'static str, given: &str) -> Result<String, InvalidInput> {
    let name = text::normalized(given);
    let is_short = name.chars().count() <= LONGEST_NAME;
    require(
        field,
        !name.is_empty(),
        "is empty; expected at least one character",
    )?;
    require(field, is_short, "is longer than 255 characters")?;
    match name.chars().find_map(|c| Some((c, text::rejection(c)?))) {
        None => Ok(name),
        Some((c, what)) => {
            let problem = format!(
                "contains {what} (U+{:04X}); expected visible characters and spaces",
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
    fn possible_secrets_are_not_quoted() {
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
    fn names_contain_only_visible_characters() {
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
            ('\u{a0}', "a space character other than U+0020 (U+00A0)"),
            ('\u{378}', "an unassigned character (U+0378)"),
            ('\u{e000}', "an unassigned character (U+E000)"),
        ] {
            let error = name("label", &format!("a{c}b")).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn names_are_normalized_to_form_c() {
        assert_eq!(name("label", "Mu\u{308}ller").unwrap(), "M\u{fc}ller");
    }
}
