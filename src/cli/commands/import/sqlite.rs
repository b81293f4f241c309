//! The Python package's database in an SQLite file, which is only read.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::error::ImportError;
use super::table::Database;

pub(super) struct Sqlite(Connection);

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags);
        // Its cause says the same in other words.
        let connection = connection.map_err(|error| ImportError::unreadable(error.to_string()))?;
        // All tables as they are at one moment.
        let begun = connection.execute_batch("BEGIN");
        begun.map_err(ImportError::unreadable)?;
        let database = Self(connection);
        database.check_integrity()?;
        Ok(database)
    }

    /// A damaged index makes rows come twice or not at all.
    fn check_integrity(&self) -> Result<(), ImportError> {
        let found = self.texts("PRAGMA integrity_check(3)", &[]);
        let found = found.map_err(ImportError::unreadable)?;
        match found.as_slice() {
            [only] if only == "ok" => Ok(()),
            problems => Err(ImportError::Damaged(problems.join("; "))),
        }
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
        let query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name";
        self.texts(query, &[]).map_err(ImportError::unreadable)
    }

    fn is_table(&mut self, name: &str) -> Result<bool, ImportError> {
        let query = "SELECT type FROM sqlite_master WHERE name = ?1";
        let kinds = self
            .texts(query, &[name])
            .map_err(ImportError::unreadable)?;
        Ok(kinds == ["table"])
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

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `None` for a text that is none.
fn cell(value: ValueRef<'_>) -> Option<Value> {
    Some(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        // JSON has no infinity, and null stands for nothing given.
        ValueRef::Real(number) if !number.is_finite() => number.to_string().into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => std::str::from_utf8(text).ok()?.into(),
        // Such as a UUID.
        ValueRef::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>().into()
        }
    })
}
