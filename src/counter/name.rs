//! Names of routes and IP limits.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use crate::input::{InvalidInput, deserialize_from_text};

/// The name of a route or an IP limit. Has the size of one pointer, as each window of an address
/// contains one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct RuleName(Arc<Box<str>>);

/// Accepts names that header fields can show.
impl FromStr for RuleName {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
            return Ok(text.into());
        }
        Err(InvalidInput::new(
            "name",
            "a name is 1 to 64 letters, digits, `-`, `_` and `.`",
        ))
    }
}

deserialize_from_text!(RuleName);

impl From<&str> for RuleName {
    fn from(text: &str) -> Self {
        Self(Arc::new(text.into()))
    }
}

impl From<String> for RuleName {
    fn from(text: String) -> Self {
        Self(Arc::new(text.into()))
    }
}

impl Deref for RuleName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
