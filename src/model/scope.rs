//! Scopes: permissions of keys.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::input::{InvalidInput, RequestField, deserialize_from_text, try_from_text};

/// A permission of a key, which a route may require, such as `read` or `orders:write`.
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
            "is not a scope of 1 to 64 printable ASCII characters without space, comma, `\"` and `\\`",
        ))
    }
}

deserialize_from_text!(Scope);
try_from_text!(Scope);

impl RequestField for Scope {
    type Json = String;
    const NAME: &str = "scopes";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_scopes_do_not_deserialize() {
        assert_eq!(
            serde_json::from_str::<Scope>(r#""read""#).unwrap().as_str(),
            "read"
        );
        for text in ["", "a b", "a,b", "\u{fc}"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<Scope>(&json).is_err(), "{text}");
        }
    }
}
