//! Enums whose values have a number and a name.

/// Defines an enum of values with a number, which is stored, and a name, which is shown. Both are
/// stable.
macro_rules! codes {
    (
        $(#[$enum_attribute:meta])*
        pub enum $type:ident {
            $($(#[$attribute:meta])* $value:ident = $code:literal, $name:literal;)+
        }
    ) => {
        $(#[$enum_attribute])*
        pub enum $type {
            $($(#[$attribute])* $value = $code,)+
        }

        impl $type {
            pub(crate) const ALL: &[Self] = &[$(Self::$value),+];

            /// The name, which is stable.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }

            pub(crate) fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$value),)+
                    _ => None,
                }
            }
        }
    };
}

pub(super) use codes;
