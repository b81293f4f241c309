//! Ids of organizations and keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::input::InvalidInput;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidInput;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| {
                    InvalidInput::new("id", "expected a whole number, as in listings")
                })
            }
        }
    };
}

id! {
    /// The id of an organization, assigned in ascending order from 1 and never reused.
    OrgId
}
id! {
    /// The id of a key, assigned in ascending order from 1 and never reused; rotation keeps it.
    KeyId
}
