//! Serialization of values as their text.

/// Serializes types as the text of `Display`, and deserializes them with `FromStr`.
macro_rules! serde_as_text {
    ($($type:ident),+) => {$(
        /// Serialized as text.
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        $crate::input::deserialize_from_text!($type);
    )+};
}

/// Deserializes a type from a text with `FromStr`.
macro_rules! deserialize_from_text {
    ($type:ident) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use {deserialize_from_text, serde_as_text};
