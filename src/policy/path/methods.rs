//! Sets of methods in patterns.

use std::fmt;

use crate::input::InvalidInput;
use crate::model::Method;

/// A set of methods, with bit `1 << code` for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Methods(u16);

impl Methods {
    const NONE: Self = Self(0);

    /// All methods: the default of patterns.
    pub(super) const ALL: Self = Self(u16::MAX);

    pub(super) const fn with(self, method: Method) -> Self {
        Self(self.0 | 1 << method as u8)
    }

    #[inline]
    pub(super) const fn contains(self, method: Method) -> bool {
        self.0 & (1 << method as u8) != 0
    }

    pub(super) const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Parses names separated by commas.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidInput> {
        if text.trim().is_empty() {
            return Err(invalid(
                "names no method before the space; remove the space or add a method such as `GET`",
            ));
        }
        text.split(',').try_fold(Self::NONE, |methods, name| {
            match Method::from(name.trim()) {
                Method::Other => Err(invalid(
                    "names an unknown method; expected GET, HEAD, POST, PUT, DELETE, CONNECT, \
                     OPTIONS, TRACE or PATCH, separated by commas",
                )),
                method => Ok(methods.with(method)),
            }
        })
    }
}

/// Formatted as a prefix of a path, with a trailing space; empty for [`Methods::ALL`].
impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return Ok(());
        }
        let known = (0..).map_while(Method::from_code);
        let names = known.filter(|method| self.contains(*method));
        let names: Vec<_> = names.map(Method::as_str).collect();
        write!(f, "{} ", names.join(","))
    }
}

/// The text is never quoted, because it may be a key.
pub(super) fn invalid(problem: impl Into<String>) -> InvalidInput {
    InvalidInput::new("path", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_methods_round_trip() {
        for method in (0..).map_while(Method::from_code) {
            match Methods::parse(method.as_str()) {
                Ok(only) => assert_eq!(only, Methods::NONE.with(method)),
                Err(_) => assert_eq!(method, Method::Other),
            }
        }
    }

    #[test]
    fn names_display_in_canonical_order() {
        let methods = Methods::parse(" PATCH,GET , PATCH").unwrap();
        assert_eq!(methods.to_string(), "GET,PATCH ");
        assert!(methods.contains(Method::Patch) && !methods.contains(Method::Put));
        assert_eq!(Methods::ALL.to_string(), "");
        assert!(Methods::ALL.contains(Method::Other));
    }

    #[test]
    fn missing_and_unknown_names_are_rejected() {
        for text in ["", " ", "GET,", ",", "-", "get", "GET POST", "FETCH"] {
            assert!(Methods::parse(text).is_err(), "{text}");
        }
    }
}
