//! Locations of Redis: one server, a cluster, or a master that Sentinels name.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub, PubSubStream};
use redis::cluster::{ClusterClient, ClusterConfig};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    Pipeline, RedisError, RedisFuture, RedisResult, Script, ServerErrorKind, TlsMode, Value,
};

use crate::sys::tls;

/// How long a key that was written by a check stays, in milliseconds.
const PROBE_LIFETIME: u32 = 1_000;

/// The maximum number of resends of a call that has not run.
const RESENDS: usize = 4;

/// The servers that a URL names.
pub(super) enum Servers {
    /// `redis://`, `rediss://`
    One(redis::Client),
    /// `redis+cluster://HOST:PORT,HOST:PORT`, `rediss+cluster://`
    Cluster {
        client: ClusterClient,
        hosts: Vec<ConnectionInfo>,
    },
    /// `redis+sentinel://HOST:PORT,HOST:PORT/MASTER[/DB]`, `rediss+sentinel://`
    Sentinels(tokio::sync::Mutex<SentinelClient>),
}

impl Servers {
    pub(super) fn parse(url: &str) -> RedisResult<Self> {
        if url.starts_with("rediss") {
            tls::ensure_provider();
        }
        let scheme_and_rest = url.split_once("://").and_then(|(scheme, rest)| {
            let (scheme, kind) = scheme.split_once('+')?;
            Some((scheme, kind, rest))
        });
        match scheme_and_rest {
            Some((scheme, "cluster", rest)) => cluster(scheme, rest),
            Some((scheme, "sentinel", rest)) => {
                let client = sentinels(scheme, rest)?;
                Ok(Self::Sentinels(tokio::sync::Mutex::new(client)))
            }
            _ => redis::Client::open(url).map(Self::One),
        }
    }

    pub(super) async fn connect(&self, timeout: Duration) -> RedisResult<Connection> {
        // Each call has its own timeout.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(None);
        #[cfg(all(test, feature = "postgres", not(loom)))]
        if let Some(connection) = simulated::connect(self, &config).await {
            return connection;
        }
        match self {
            Self::One(client) => {
                let connecting = client.get_multiplexed_async_connection_with_config(&config);
                connecting.await.map(Connection::One)
            }
            Self::Sentinels(client) => {
                let mut client = client.lock().await;
                let connecting = client.get_async_connection_with_config(&config);
                connecting.await.map(Connection::One)
            }
            Self::Cluster { client, .. } => {
                let config = ClusterConfig::new().set_connection_timeout(timeout);
                let connecting = client.get_async_connection_with_config(config);
                connecting.await.map(Connection::Cluster)
            }
        }
    }

    /// Subscribes to a channel, on a separate connection. Each node of a cluster forwards messages
    /// of all others.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<PubSubStream> {
        #[cfg(all(test, feature = "postgres", not(loom)))]
        if let Some(subscriber) = simulated::subscriber(self).await {
            let mut subscriber = subscriber?;
            subscriber.subscribe(channel).await?;
            return Ok(subscriber.into_on_message());
        }
        let mut subscriber = match self {
            Self::One(client) => client.get_async_pubsub().await?,
            Self::Sentinels(client) => {
                let master = client.lock().await.async_get_client().await?;
                master.get_async_pubsub().await?
            }
            Self::Cluster { hosts, .. } => first_of(hosts).await?,
        };
        subscriber.subscribe(channel).await?;
        Ok(subscriber.into_on_message())
    }
}

/// Connects to the first server that is available.
async fn first_of(hosts: &[ConnectionInfo]) -> RedisResult<PubSub> {
    let mut connected = Err(RedisError::from((
        ErrorKind::InvalidClientConfig,
        "the URL has no host",
    )));
    for host in hosts {
        connected = redis::Client::open(host.clone())?.get_async_pubsub().await;
        if connected.is_ok() {
            break;
        }
    }
    connected
}

/// Parses the credentials and hosts of a URL. Returns the path after them too.
fn hosts<'a>(scheme: &str, rest: &'a str) -> RedisResult<(Vec<ConnectionInfo>, &'a str)> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (format!("{credentials}@"), hosts),
        None => (String::new(), authority),
    };
    let info = |host| format!("{scheme}://{credentials}{host}").into_connection_info();
    let infos: RedisResult<_> = hosts.split(',').map(info).collect();
    Ok((infos?, path))
}

/// A client that never repeats a call, which may have been counted. Only [`Connection::run`] does,
/// if another node has the slot.
fn cluster(scheme: &str, rest: &str) -> RedisResult<Servers> {
    let (hosts, _) = hosts(scheme, rest)?;
    let client = ClusterClient::builder(hosts.clone()).retries(0).build()?;
    Ok(Servers::Cluster { client, hosts })
}

fn sentinels(scheme: &str, rest: &str) -> RedisResult<SentinelClient> {
    let (hosts, path) = hosts(scheme, rest)?;
    let (master, db) = path.split_once('/').unwrap_or((path, "0"));
    let db = db.parse().ok().filter(|_| !master.is_empty());
    let Some((db, first)) = db.zip(hosts.first()) else {
        let error =
            "invalid Sentinel URL: expected `redis+sentinel://HOST:PORT,HOST:PORT/MASTER[/DB]`";
        return Err(RedisError::from((ErrorKind::InvalidClientConfig, error)));
    };
    let addresses = hosts.iter().map(|host| host.addr().clone());
    let kind = SentinelServerType::Master;
    let mut builder =
        SentinelClientBuilder::new(addresses, master, kind)?.set_client_to_redis_db(db);
    // Sentinels and servers have the same credentials.
    if let Some(name) = first.redis_settings().username() {
        builder = builder
            .set_client_to_redis_username(name)
            .set_client_to_sentinel_username(name);
    }
    if let Some(password) = first.redis_settings().password() {
        builder = builder
            .set_client_to_redis_password(password)
            .set_client_to_sentinel_password(password);
    }
    if matches!(first.addr(), ConnectionAddr::TcpTls { .. }) {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
    }
    builder.build()
}

/// A connection, which clones share; to a cluster, one to each node.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Whether the connection replaces itself when it is lost.
    pub(super) fn heals(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Returns the `INFO memory` of each server.
    pub(super) async fn memory_info(&mut self) -> RedisResult<Vec<String>> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        match self {
            Self::One(connection) => Ok(vec![info.query_async(connection).await?]),
            Self::Cluster(connection) => {
                let all: HashMap<String, String> = info.query_async(connection).await?;
                Ok(all.into_values().collect())
            }
        }
    }

    /// Writes a key that soon expires. Fails if its server is read-only or full.
    pub(super) async fn probe(&mut self, key: &str) -> RedisResult<()> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(1).arg("PX").arg(PROBE_LIFETIME);
        set.exec_async(self).await
    }

    /// Runs a script. Sends it again only if it has not run: if the server had not loaded it, or if
    /// another node has the slot, which the client knows by then.
    pub(super) async fn run(&mut self, command: &Cmd, script: &Script) -> RedisResult<Vec<i64>> {
        let mut result = command.query_async(self).await;
        for _ in 0..RESENDS {
            match result.as_ref().map_err(RedisError::kind) {
                Err(ErrorKind::Server(ServerErrorKind::NoScript)) => {
                    script.load_async(self).await?;
                }
                Err(ErrorKind::Server(ServerErrorKind::Moved)) => {}
                _ => break,
            }
            result = command.query_async(self).await;
        }
        result
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Connections to a simulated server.
#[cfg(all(test, feature = "postgres", not(loom)))]
mod simulated {
    use redis::aio::PubSub;
    use redis::{ConnectionInfo, RedisResult};
    use tokio::io::DuplexStream;

    use super::{
        AsyncConnectionConfig, Connection, ConnectionAddr, MultiplexedConnection, Servers,
    };
    use crate::sys::simulation;

    /// Returns `None` if the server is not simulated.
    pub(super) async fn connect(
        servers: &Servers,
        config: &AsyncConnectionConfig,
    ) -> Option<RedisResult<Connection>> {
        let (info, connecting) = stream(servers)?;
        let connect = async || {
            let (settings, stream) = (info.redis_settings(), connecting.await?);
            let config = config.clone();
            let connecting = MultiplexedConnection::new_with_config(settings, stream, config);
            let (connection, driver) = connecting.await?;
            tokio::task::spawn_local(driver);
            RedisResult::Ok(Connection::One(connection))
        };
        Some(connect().await)
    }

    /// Returns `None` if the server is not simulated.
    pub(super) async fn subscriber(servers: &Servers) -> Option<RedisResult<PubSub>> {
        let (info, connecting) = stream(servers)?;
        let connect = async || PubSub::new(info.redis_settings(), connecting.await?).await;
        Some(connect().await)
    }

    fn stream(
        servers: &Servers,
    ) -> Option<(
        &ConnectionInfo,
        impl Future<Output = std::io::Result<DuplexStream>>,
    )> {
        let Servers::One(client) = servers else {
            return None;
        };
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, _) = info.addr() else {
            return None;
        };
        Some((info, simulation::connect(host)?))
    }
}
