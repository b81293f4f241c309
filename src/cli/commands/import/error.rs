//! Why a database was not taken over.

use std::error::Error;

/// Nothing was written then.
// Which of them can happen depends on the features that are compiled in.
#[allow(dead_code)]
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("this build cannot read {0}: it is without the cargo feature `{1}`")]
    MissingFeature(&'static str, &'static str),
    /// The source is not shown: it may hold a password.
    #[error(
        "the source is neither an SQLite file nor a PostgreSQL database; expected `sqlite:PATH` or \
         `postgres://USER@HOST/DATABASE`"
    )]
    UnknownSource,
    #[error("the database cannot be read: {0}")]
    Unreadable(#[source] Box<dyn Error + Send + Sync>),
    #[error(
        "the database is damaged ({0}); restore it from a backup, or repair it with `.recover`"
    )]
    Damaged(String),
    #[error("`{column}` of the table `{table}` holds a text that is not UTF-8")]
    NotText { table: String, column: String },
    #[error(
        "`{0}` is a view, which may have no end; copy it into a table: \
         CREATE TABLE copy AS SELECT * FROM {0}, in a database of its own"
    )]
    View(String),
    #[error(
        "the database has no table `{expected}`, which the Python package keeps; its tables are {found}"
    )]
    NoTable {
        expected: &'static str,
        found: String,
    },
    #[error("the table `{table}` has no column `{expected}`; its columns are {found}")]
    NoColumn {
        table: String,
        expected: String,
        found: String,
    },
    #[error("`{column}` of the row {row} of the table `{table}` {problem}")]
    Value {
        table: String,
        column: String,
        /// Its id, or its number where it has none.
        row: String,
        problem: String,
    },
}

impl ImportError {
    #[cfg(any(feature = "import", feature = "postgres"))]
    pub(super) fn unreadable(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreadable(error.into())
    }
}

/// Names as an error lists them.
#[cfg(any(feature = "import", feature = "postgres"))]
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}
