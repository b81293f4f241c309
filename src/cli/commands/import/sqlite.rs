//! Reads the Python package's database from an SQLite file.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::error::ImportError;
use super::table::{Database, quoted};

pub(super) struct Sqlite(Connection);

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags);
        // The source of the error repeats its message.
        let connection = connection.map_err(|error| ImportError::unreadable(error.to_string()))?;
        // A consistent snapshot of all tables.
        let begun = connection.execute_batch("BEGIN");
        begun.map_err(ImportError::unreadable)?;
        let database = Self(connection);
        database.check_integrity()?;
        Ok(database)
    }

    /// Refuses a damaged database: a damaged index returns rows twice or not at all.
    fn check_integrity(&self) -> Result<(), ImportError> {
        let found = self.texts("PRAGMA integrity_check(3)", &[]);
        let found = found.map_err(ImportError::unreadable)?;
        match found.as_slice() {
            [only] if only == "ok" => Ok(()),
            problems => Err(ImportError::Damaged(problems.join("; "))),
        }
    }

    fn names(&self, condition: &str) -> Result<Vec<String>, ImportError> {
        let query = format!("SELECT name FROM sqlite_master WHERE {condition} ORDER BY name");
        self.texts(&query, &[]).map_err(ImportError::unreadable)
    }

    fn texts(&self, query: &str, parameters: &[&str]) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.0.prepare(query)?;
        let parameters = rusqlite::params_from_iter(parameters);
        let texts = statement.query_map(parameters, |row| row.get(0))?;
        texts.collect()
    }
}

impl Database for Sqlite {
    fn tables(&mut self) -> Result<Vec<String>, ImportError> {
        self.names("type IN ('table', 'view')")
    }

    fn views(&mut self) -> Result<Vec<String>, ImportError> {
        self.names("type = 'view'")
    }

    fn columns(&mut self, table: &str) -> Result<Vec<String>, ImportError> {
        let query = "SELECT name FROM pragma_table_info(?1)";
        self.texts(query, &[table]).map_err(ImportError::unreadable)
    }

    fn read(
        &mut self,
        table: &str,
        columns: &[String],
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let query = format!("SELECT {} FROM {}", names.join(", "), quoted(table));
        let statement = self.0.prepare(&query);
        let mut statement = statement.map_err(ImportError::unreadable)?;
        let mut rows = statement.query([]).map_err(ImportError::unreadable)?;
        while let Some(row) = rows.next().map_err(ImportError::unreadable)? {
            let cells = columns.iter().enumerate().map(|(at, column)| {
                let value = row.get_ref(at).map_err(ImportError::unreadable)?;
                cell(value).ok_or_else(|| ImportError::NotText {
                    table: table.to_owned(),
                    column: column.clone(),
                })
            });
            take(cells.collect::<Result<_, _>>()?)?;
        }
        Ok(())
    }
}

/// Returns a cell as JSON; `None` for text that is not UTF-8.
fn cell(value: ValueRef<'_>) -> Option<Value> {
    Some(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        // JSON has no infinity. The text is refused later.
        ValueRef::Real(number) if !number.is_finite() => number.to_string().into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.into(),
        // A UUID, for example.
        ValueRef::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>().into()
        }
    })
}
