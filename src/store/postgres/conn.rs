//! A connection and its prepared statements.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::task::AbortHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::server_error::ServerError;
use crate::store::StoreError;

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection. Concurrent queries are pipelined.
pub(super) struct Conn {
    client: Client,
    driver: AbortHandle,
    /// Prepared statements by their text.
    statements: RefCell<HashMap<&'static str, Statement>>,
    /// Consecutive look-ups that timed out.
    pub(super) timeouts: Cell<u32>,
    /// The server process of the first reply.
    backend: Cell<Option<i32>>,
}

impl Conn {
    /// `driver` does the I/O of the connection.
    pub(super) fn new(client: Client, driver: AbortHandle) -> Self {
        Self {
            client,
            driver,
            statements: RefCell::default(),
            timeouts: Cell::default(),
            backend: Cell::default(),
        }
    }

    /// Closes the connection without waiting for pending queries.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether the connection still reaches the server process of the first reply.
    pub(super) fn is_same_backend(&self, backend: i32) -> bool {
        let first = self.backend.get().unwrap_or(backend);
        self.backend.set(Some(first));
        first == backend
    }

    pub(super) async fn rows(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepared(sql).await?;
        Ok(self.client.query(&statement, params).await?)
    }

    /// Runs a statement that is not kept prepared.
    pub(super) async fn rows_once(
        &self,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.client.query(sql, params).await?)
    }

    /// Returns the only row, if any.
    pub(super) async fn row(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.rows(sql, params).await?.pop())
    }

    /// Returns the only row.
    pub(super) async fn one(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Row, StoreError> {
        let missing = || StoreError::damaged("a required row is missing");
        self.row(sql, params).await?.ok_or_else(missing)
    }

    /// Returns the number of affected rows.
    pub(super) async fn run(
        &self,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<u64, StoreError> {
        let statement = self.prepared(sql).await?;
        Ok(self.client.execute(&statement, params).await?)
    }

    /// Runs statements without parameters and results.
    pub(super) async fn batch(&self, sql: &str) -> Result<(), ServerError> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Runs a statement as text, without preparing it.
    pub(super) async fn simple(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, ServerError> {
        Ok(self.client.simple_query(sql).await?)
    }

    /// Sends rows by `COPY … FROM STDIN`.
    pub(super) async fn copy(&self, sql: &'static str, rows: Bytes) -> Result<(), StoreError> {
        let statement = self.prepared(sql).await?;
        let sink = self.client.copy_in::<_, Bytes>(&statement).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(rows).await?;
        sink.finish().await?;
        Ok(())
    }

    async fn prepared(&self, sql: &'static str) -> Result<Statement, ServerError> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.borrow_mut().insert(sql, statement.clone());
        Ok(statement)
    }
}
