//! Reads the Python package's database from PostgreSQL.

use std::pin::pin;

use futures_util::TryStreamExt;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::error::ImportError;
use super::table::{Database, quoted};
use crate::model::Secret;
use crate::store::{DatabaseUrl, with_causes};

pub(super) struct Postgres {
    runtime: Runtime,
    client: Client,
}

impl Postgres {
    pub(super) fn open(url: &Secret) -> Result<Self, ImportError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ImportError::unreadable)?;
        let url = String::from_utf8_lossy(url.expose());
        let address = DatabaseUrl::parse(&url).map_err(ImportError::unreadable)?;
        let DatabaseUrl { mut config, tls } = address;
        if let (None, Ok(password)) = (config.get_password(), std::env::var("PGPASSWORD")) {
            config.password(password);
        }
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(tls).await.map_err(described)?;
            // The connection ends with the client, which reports its errors.
            tokio::spawn(connection);
            // A consistent snapshot of all tables.
            let begin = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY";
            client.batch_execute(begin).await.map_err(described)?;
            Ok::<_, ImportError>(client)
        })?;
        Ok(Self { runtime, client })
    }

    fn names(&self, condition: &str) -> Result<Vec<String>, ImportError> {
        let query = format!(
            "SELECT table_name::text FROM information_schema.tables \
             WHERE table_schema = ANY (current_schemas(false)) {condition} ORDER BY 1"
        );
        self.texts(&query, &[])
    }

    fn texts(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<String>, ImportError> {
        let rows = self.runtime.block_on(self.client.query(query, parameters));
        let texts = rows
            .map_err(described)?
            .into_iter()
            .map(|row| row.try_get(0));
        texts.collect::<Result<_, _>>().map_err(described)
    }
}

impl Database for Postgres {
    fn tables(&mut self) -> Result<Vec<String>, ImportError> {
        self.names("")
    }

    fn views(&mut self) -> Result<Vec<String>, ImportError> {
        self.names("AND table_type <> 'BASE TABLE'")
    }

    fn columns(&mut self, table: &str) -> Result<Vec<String>, ImportError> {
        let query = "SELECT column_name::text FROM information_schema.columns \
                     WHERE table_schema = ANY (current_schemas(false)) AND table_name = $1 \
                     ORDER BY ordinal_position";
        self.texts(query, &[&table])
    }

    /// Reads each row as JSON that the server writes, so that columns may have any type.
    fn read(
        &mut self,
        table: &str,
        columns: &[String],
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let names: Vec<String> = columns.iter().map(|name| quoted(name)).collect();
        let (names, table) = (names.join(", "), quoted(table));
        let query = format!("SELECT json_build_array({names})::text FROM {table}");
        self.runtime.block_on(async {
            let none: [&(dyn ToSql + Sync); 0] = [];
            let rows = self.client.query_raw(&query, none).await;
            let mut rows = pin!(rows.map_err(described)?);
            while let Some(row) = rows.try_next().await.map_err(described)? {
                let text: &str = row.try_get(0).map_err(described)?;
                take(serde_json::from_str(text).map_err(ImportError::unreadable)?)?;
            }
            Ok(())
        })
    }
}

/// Returns the error with the message of the server, which is its source.
fn described(error: tokio_postgres::Error) -> ImportError {
    ImportError::unreadable(with_causes(&error))
}
