//! Arguments that several commands share.

use std::str::FromStr;

use clap::Args;

/// An organization by its name.
#[derive(Args)]
pub(super) struct OrgArg {
    /// The name of the organization
    #[arg(value_name = "NAME")]
    pub(super) org_name: String,
}

/// A key by its id or prefix.
#[derive(Args)]
pub(super) struct KeyArg {
    /// The id of the key, or its whole prefix as `list-keys` shows it
    #[arg(value_name = "ID|PREFIX")]
    pub(super) key: String,
}

/// A key or an IP address.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct KeyOrIp {
    /// The id of the key, or its whole prefix as `list-keys` shows it
    #[arg(value_name = "ID|PREFIX")]
    pub(super) key: Option<String>,
    /// An IP address instead of a key
    #[arg(long)]
    pub(super) ip: Option<String>,
}

/// A value, or the word `none`.
#[derive(Clone)]
pub(super) struct OrNone<T>(pub(super) Option<T>);

impl<T: FromStr> FromStr for OrNone<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            // `never` is what panels and tables print.
            "none" | "never" => Ok(Self(None)),
            text => text.parse().map(|value| Self(Some(value))),
        }
    }
}

/// Returns the replacement of a list: `None` if nothing was given, an empty list for `empty_word`.
pub(super) fn replacement(list: Vec<String>, empty_word: &str) -> Option<Vec<String>> {
    match list.as_slice() {
        [] => None,
        [only] if only == empty_word => Some(Vec::new()),
        _ => Some(list),
    }
}
