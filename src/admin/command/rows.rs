//! Sizes of pages.

use serde::{Deserialize, Serialize};

use super::AdminError;
use crate::admin::Page;

/// A number of rows from 1 to [`Rows::MAX`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub(crate) struct Rows(usize);

impl Rows {
    const MAX: usize = 1_000;

    /// The size in bytes of JSON above which a page gets no more rows.
    const MAX_BYTES: usize = 1 << 20;

    pub(super) fn after<Id>(self, after: Option<Id>) -> Page<Id> {
        Page {
            after,
            limit: self.0,
        }
    }

    /// Returns the rows that fit into a page, at least one if there is any.
    pub(super) fn page<T: Serialize>(
        rows: impl IntoIterator<Item = Result<T, AdminError>>,
    ) -> Result<Vec<T>, AdminError> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        for row in rows {
            let row = row?;
            bytes += serde_json::to_vec(&row).map_or(0, |json| json.len());
            page.push(row);
            if bytes > Self::MAX_BYTES {
                break;
            }
        }
        Ok(page)
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self(Self::MAX)
    }
}

impl TryFrom<usize> for Rows {
    type Error = &'static str;

    fn try_from(rows: usize) -> Result<Self, Self::Error> {
        match rows {
            1..=Self::MAX => Ok(Self(rows)),
            _ => Err("limit: expected 1 to 1,000 rows"),
        }
    }
}

impl From<Rows> for usize {
    fn from(rows: Rows) -> Self {
        rows.0
    }
}
