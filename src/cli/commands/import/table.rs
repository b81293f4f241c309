//! Tables of the Python package, and alternative names of their columns.

use serde_json::Value;

use super::error::{ImportError, listed};

/// A database of the Python package.
pub(super) trait Database {
    /// Returns the names of the tables and views.
    fn tables(&mut self) -> Result<Vec<String>, ImportError>;
    /// Returns the names of the views.
    fn views(&mut self) -> Result<Vec<String>, ImportError>;
    fn columns(&mut self, table: &str) -> Result<Vec<String>, ImportError>;
    /// Passes each row to `take`: the cells of these columns, as JSON.
    fn read(
        &mut self,
        table: &str,
        columns: &[String],
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), ImportError>,
    ) -> Result<(), ImportError>;
}

/// Quotes an SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A column to read: the name that the Python package uses, then alternatives.
pub(super) enum Column {
    Required(&'static [&'static str]),
    /// Null in all rows if the table has no such column.
    Optional(&'static [&'static str]),
}

/// A table of the database.
pub(super) struct Table<const N: usize> {
    pub(super) name: String,
    /// The names of the columns to read, in their order; `None` for an absent one.
    columns: [Option<String>; N],
}

/// A row. Absent columns are null.
pub(super) struct Row<'a, const N: usize> {
    table: &'a Table<N>,
    cells: [Value; N],
    number: usize,
}

impl<const N: usize> Table<N> {
    /// Finds the table that has the first of these names, or the next; `None` if there is none.
    pub(super) fn find(
        database: &mut dyn Database,
        names: &[&'static str],
        wanted: &[Column; N],
    ) -> Result<Option<Self>, ImportError> {
        let tables = database.tables()?;
        let Some(name) = find(&tables, names) else {
            return Ok(None);
        };
        if database.views()?.contains(&name) {
            return Err(ImportError::View(name));
        }
        let found = database.columns(&name)?;
        let mut columns = [const { None }; N];
        for (column, wanted) in columns.iter_mut().zip(wanted) {
            let (Column::Required(names) | Column::Optional(names)) = wanted;
            *column = find(&found, names);
            if column.is_none() && matches!(wanted, Column::Required(_)) {
                return Err(ImportError::NoColumn {
                    table: name,
                    expected: names.join("`, `"),
                    found: listed(&found),
                });
            }
        }
        Ok(Some(Self { name, columns }))
    }

    pub(super) fn read(
        &self,
        database: &mut dyn Database,
        mut take: impl FnMut(Row<'_, N>) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let present: Vec<String> = self.columns.iter().flatten().cloned().collect();
        let mut number = 0;
        database.read(&self.name, &present, &mut |cells| {
            let mut cells = cells.into_iter();
            number += 1;
            take(Row {
                table: self,
                cells: std::array::from_fn(|at| match &self.columns[at] {
                    Some(_) => cells.next().unwrap_or_default(),
                    None => Value::Null,
                }),
                number,
            })
        })
    }
}

fn find(found: &[String], names: &[&'static str]) -> Option<String> {
    let named = |name: &&str| found.iter().find(|found| found.eq_ignore_ascii_case(name));
    names.iter().find_map(named).cloned()
}

impl<const N: usize> Row<'_, N> {
    pub(super) fn get(&self, column: usize) -> &Value {
        &self.cells[column]
    }

    /// Reads a cell that must not be null.
    pub(super) fn read<T>(
        &self,
        column: usize,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<T, ImportError> {
        let value = self.read_if_any(column, read)?;
        value.ok_or_else(|| self.wrong(column, "is null"))
    }

    /// Reads a cell that may be null.
    pub(super) fn read_if_any<T>(
        &self,
        column: usize,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Result<Option<T>, ImportError> {
        match self.get(column) {
            Value::Null => Ok(None),
            value => match read(value) {
                Ok(value) => Ok(Some(value)),
                Err(problem) => Err(self.wrong(column, problem)),
            },
        }
    }

    pub(super) fn wrong(&self, column: usize, problem: impl Into<String>) -> ImportError {
        let id = match self.get(0) {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            id => Some(id.to_string()),
        };
        ImportError::Value {
            table: self.table.name.clone(),
            column: self.table.columns[column].clone().unwrap_or_default(),
            row: id.unwrap_or_else(|| format!("number {}", self.number)),
            problem: problem.into(),
        }
    }
}
