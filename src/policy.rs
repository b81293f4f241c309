//! Validated rules: what may be stored and what the limiter is asked to enforce.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::text::{self, is_hidden};

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
    match name.chars().find_map(|c| Some((c, text::objection(c)?))) {
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

/// A permission that a key holds and a route may require, such as `read` or `orders:write`.
///
/// A scope-token of RFC 6749 §3.3 (printable ASCII without space, `"` and `\`), 1 to 64
/// characters, and without a comma, which separates scopes in lists.
///
/// ```
/// use keyguard::Scope;
/// assert!("orders:write".parse::<Scope>().is_ok());
/// assert!("read,write".parse::<Scope>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Scope(Box<str>);

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Scope {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b',');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        Err(InvalidInput::of(
            "scopes",
            text,
            "is no scope of 1 to 64 printable ASCII characters without space, comma, `\"` and `\\`",
        ))
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The length of a sliding window and the grain in which it remembers hits.
///
/// The grain is `max(1 ms, length / 60,000)`, so that a window never holds more than some 60,000
/// distinct times, whatever its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowLength {
    nanos: NonZeroU64,
}

const SHORTEST_GRAIN: u64 = 1_000_000;

impl WindowLength {
    pub(crate) const MINUTE: Self = Self::seconds_long(60);
    pub(crate) const HOUR: Self = Self::seconds_long(3_600);

    const fn seconds_long(seconds: u64) -> Self {
        match NonZeroU64::new(seconds * 1_000_000_000) {
            Some(nanos) => Self { nanos },
            None => unreachable!(),
        }
    }

    /// A window of 1 ms to 366 days.
    pub(crate) fn new(length: std::time::Duration) -> Result<Self, InvalidInput> {
        const LONGEST: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);
        let nanos = u64::try_from(length.as_nanos())
            .ok()
            .and_then(NonZeroU64::new);
        match nanos {
            Some(nanos) if nanos.get() >= 1_000_000 && length <= LONGEST => Ok(Self { nanos }),
            _ => Err(InvalidInput::new(
                "window",
                "a window is 1 ms to 366 days long",
            )),
        }
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.nanos.get()
    }

    #[inline]
    pub(crate) const fn grain_nanos(self) -> u64 {
        let even = self.nanos().div_ceil(60_000);
        if even < SHORTEST_GRAIN {
            SHORTEST_GRAIN
        } else {
            even
        }
    }

    /// Whole grains in `nanos`.
    #[inline]
    pub(crate) const fn grains(self, nanos: u64) -> u64 {
        match self.grain_nanos() {
            // A division by a constant, for all windows up to a minute.
            SHORTEST_GRAIN => nanos / SHORTEST_GRAIN,
            grain => nanos / grain,
        }
    }

    /// Whole seconds, rounded up, as the header fields write it.
    pub(crate) const fn seconds(self) -> u64 {
        self.nanos().div_ceil(1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn the_grain_follows_the_window() {
        let grain = |secs| {
            WindowLength::new(Duration::from_secs(secs))
                .unwrap()
                .grain_nanos()
        };
        assert_eq!(grain(1), 1_000_000);
        assert_eq!(grain(60), 1_000_000);
        assert_eq!(grain(3_600), 60_000_000);
        assert_eq!(
            WindowLength::MINUTE,
            WindowLength::new(Duration::from_secs(60)).unwrap()
        );
    }

    #[test]
    fn a_window_has_bounds() {
        assert!(WindowLength::new(Duration::from_micros(999)).is_err());
        assert!(WindowLength::new(Duration::from_secs(366 * 86_400 + 1)).is_err());
    }

    #[test]
    fn what_is_read_has_been_parsed() {
        assert_eq!(
            serde_json::from_str::<Scope>(r#""read""#).unwrap().as_str(),
            "read"
        );
        for text in ["", "a b", "a,b", "\u{fc}"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<Scope>(&json).is_err(), "{text}");
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
