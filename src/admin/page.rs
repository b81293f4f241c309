//! Pages of listings.

/// A page of a listing: the rows behind a cursor, up to a number of rows.
///
/// The page behind the last row is empty.
///
/// ```
/// # use keyguard::{AdminError, Config, KeyGuard, Page};
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// let admin = kg.admin();
/// let mut page = Page::first();
/// loop {
///     let keys = admin.list_keys(None, page)?;
///     let Some(last) = keys.last() else { break };
///     page = Page::after(last.id);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Page<Id> {
    pub(crate) after: Option<Id>,
    pub(crate) limit: usize,
}

impl<Id> Page<Id> {
    /// The first page.
    pub const fn first() -> Self {
        Self {
            after: None,
            limit: 1_000,
        }
    }

    /// The page behind the row with this id.
    pub const fn after(id: Id) -> Self {
        Self {
            after: Some(id),
            limit: 1_000,
        }
    }

    /// The maximum number of rows, at least 1: an empty page stands for the end. Default: 1,000.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }
}
