//! Values that setters accept and that are checked later.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::InvalidInput;

/// Converts a value given by a user, as a value or as text.
pub(crate) fn valid<T>(
    given: impl TryInto<T, Error: Into<InvalidInput>>,
) -> Result<T, InvalidInput> {
    given.try_into().map_err(Into::into)
}

/// The first invalid value given to the setters of a builder, kept until the builder is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FirstError(Option<InvalidInput>);

impl FirstError {
    /// Returns a valid value. Keeps the error of an invalid one, reported for `field`.
    pub(crate) fn valid<T>(
        &mut self,
        field: &'static str,
        given: impl TryInto<T, Error: Into<InvalidInput>>,
    ) -> Option<T> {
        self.ok(valid(given).map_err(|error| error.within(field)))
    }

    /// Returns the value of a result. Keeps its error.
    pub(crate) fn ok<T>(&mut self, result: Result<T, InvalidInput>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.get_or_insert(error);
                None
            }
        }
    }

    /// Reports the error.
    pub(crate) fn check(&self) -> Result<(), InvalidInput> {
        self.0.clone().map_or(Ok(()), Err)
    }
}

/// A value in a request to the admin API. An invalid one is reported when the request is made, whether
/// it comes from code or from JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<T>(Result<T, InvalidInput>);

impl<T: RequestField> Given<T> {
    pub(crate) fn new(given: impl TryInto<T, Error: Into<InvalidInput>>) -> Self {
        Self(valid(given).map_err(|error| error.within(T::NAME)))
    }

    pub(crate) fn list(
        given: impl IntoIterator<Item: TryInto<T, Error: Into<InvalidInput>>>,
    ) -> Vec<Self> {
        given.into_iter().map(Self::new).collect()
    }

    /// Returns the value, or its error.
    pub(crate) fn get(&self) -> Result<T, InvalidInput> {
        self.0.clone()
    }

    /// Returns the values of a list, or the first error.
    pub(crate) fn all(list: &[Self]) -> Result<Vec<T>, InvalidInput> {
        list.iter().map(Self::get).collect()
    }
}

impl<T: Default> Default for Given<T> {
    fn default() -> Self {
        Self(Ok(T::default()))
    }
}

/// The type of a field in requests to the admin API.
pub(crate) trait RequestField: Clone + TryFrom<Self::Json, Error = InvalidInput> {
    /// Text, or a list of texts.
    type Json: DeserializeOwned;
    /// The name of the field.
    const NAME: &'static str;
}

impl<'de, T: RequestField> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::Json::deserialize(deserializer).map(Self::new)
    }
}

/// An invalid value is an error of the serializer.
impl<T: Serialize> Serialize for Given<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Ok(value) => value.serialize(serializer),
            Err(error) => Err(serde::ser::Error::custom(error)),
        }
    }
}

/// Conversions into types with [`FromStr`](std::str::FromStr), so that setters take text as well as
/// values.
macro_rules! try_from_text {
    ($($name:ident),+) => {$(
        impl TryFrom<&str> for $name {
            type Error = $crate::input::InvalidInput;

            fn try_from(text: &str) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl TryFrom<&String> for $name {
            type Error = $crate::input::InvalidInput;

            fn try_from(text: &String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::input::InvalidInput;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<&$name> for $name {
            fn from(value: &$name) -> Self {
                Clone::clone(value)
            }
        }
    )+};
}

pub(crate) use try_from_text;
