//! The ancestor's database in an SQLite file, which is only read.

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
        let connection = connection.map_err(ImportError::unreadable)?;
        // All tables as they are at one moment.
        let begun = connection.execute_batch("BEGIN");
        begun.map_err(ImportError::unreadable)?;
        Ok(Self(connection))
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
            let cells = (0..columns.len()).map(|at| row.get_ref(at).map(cell));
            let cells = cells.collect::<rusqlite::Result<_>>();
            take(cells.map_err(ImportError::unreadable)?)?;
        }
        Ok(())
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn cell(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => number.into(),
        ValueRef::Real(number) => number.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
        // Such as a UUID.
        ValueRef::Blob(bytes) => {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>().into()
        }
    }
}
