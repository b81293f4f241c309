//! Errors of an import.

use std::error::Error;

/// The reason why a database was not imported. Nothing was written.
// Some variants occur only with certain features.
#[allow(dead_code)]
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    #[error("this build cannot read {0}: it lacks the cargo feature `{1}`")]
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
    #[error("column `{column}` of table `{table}` contains text that is not UTF-8")]
    NotText { table: String, column: String },
    #[error(
        "`{0}` is a view, which `import` does not read; copy it into a table of another database: \
         CREATE TABLE copy AS SELECT * FROM {0}"
    )]
    View(String),
    #[error(
        "the database has no table `{expected}`, as the Python package creates it; its tables are: {found}"
    )]
    NoTable {
        expected: &'static str,
        found: String,
    },
    #[error("table `{table}` has no column `{expected}`; its columns are: {found}")]
    NoColumn {
        table: String,
        expected: String,
        found: String,
    },
    #[error("column `{column}` of row {row} of table `{table}` {problem}")]
    Value {
        table: String,
        column: String,
        /// The id of the row, or its number if it has none.
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

/// Lists names for an error.
#[cfg(any(feature = "import", feature = "postgres"))]
pub(super) fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}
