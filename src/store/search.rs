//! Search for a text in names, labels and prefixes.

use std::ops::RangeInclusive;

use crate::model::{Key, Org};

/// A text to look for. The letters A to Z and a to z are alike, as in every store.
#[derive(Clone, Debug)]
pub(crate) struct SearchText(String);

impl SearchText {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_ascii_lowercase())
    }

    /// The text in lower case.
    #[cfg(feature = "postgres")]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The id that the text is, if it is one.
    pub(super) fn id(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether it is the id of the organization, or in its name.
    pub(super) fn finds_org(&self, org: &Org) -> bool {
        self.id() == Some(org.id.0) || self.is_in(&org.name)
    }

    /// Whether it is the id of the key, or in its label or prefix.
    pub(super) fn finds_key(&self, key: &Key) -> bool {
        self.id() == Some(key.id.0) || self.is_in(&key.label) || self.is_in(&key.shown_prefix)
    }

    pub(super) fn is_in(&self, text: &str) -> bool {
        text.to_ascii_lowercase().contains(&self.0)
    }
}

/// What one search looks for. A search reads all rows of its range.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    pub(crate) text: SearchText,
    /// The ids of keys or organizations to look at.
    pub(crate) ids: RangeInclusive<u64>,
    /// The maximum number of results, the first by id.
    pub(crate) limit: usize,
}
