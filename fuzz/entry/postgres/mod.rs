//! Answers of PostgreSQL.

mod queries;
mod server;

use std::collections::BTreeSet;

use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_postgres::NoTls;

use self::server::{Mode, Server};
use super::*;
use crate::counter::SubjectId;

/// Runs a query over a connection to a server that answers with bytes of the input. The first byte is the number
/// of the query and a [`Mode`]. A query never panics. It fails if a value is missing, and succeeds with the values
/// of [`queries`].
pub fn reply(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
    }
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let mode = match first >> 6 {
        0 | 1 => Mode::Fields,
        2 => Mode::Rows,
        _ => Mode::All,
    };
    let number = usize::from(first % 64 % NUMBER_OF_QUERIES);
    let server = Server::new(mode, bytes);
    let lacks_value = Rc::clone(&server.lacks_value);
    let result = RUNTIME.with(|runtime| {
        LocalSet::new().block_on(runtime, async {
            let mut config = tokio_postgres::Config::new();
            let (client, connection) = config.user("fuzz").connect_raw(server, NoTls).await?;
            let driver = tokio::task::spawn_local(async {
                let _ = connection.await;
            });
            run(&Conn::new(client, driver.abort_handle()), number).await
        })
    });
    if mode == Mode::Fields {
        assert!(result.is_err() || !lacks_value.get());
        assert!(result.is_ok() || !bytes.is_empty(), "{result:?}");
    }
}

/// The number of queries that [`run`] knows. They run further ones.
const NUMBER_OF_QUERIES: u8 = 9;

/// Runs a query.
async fn run(conn: &Conn, number: usize) -> Result<(), StoreError> {
    let now = Timestamp::from_unix_millis(1_768_478_400_000);
    match number {
        0 => credentials::resolve(conn, HashedKey([0; 32]))
            .await
            .map(drop),
        1 => credentials::of_keys(conn, &[1]).await.map(drop),
        2 => locks::all(conn).await.map(drop),
        3 => feed::read(conn, Some(1), |_| false, BTreeSet::new(), false)
            .await
            .map(drop),
        4 => usage::since(conn, None, now, 10).await.map(drop),
        5 => counters::of(conn, SubjectId::key(KeyId(1))).await.map(drop),
        6 => audit::before(conn, None, 10).await.map(drop),
        7 => manage::orgs(conn, None, 10).await.map(drop),
        _ => totals::lifetime(conn).await.map(drop),
    }
}
