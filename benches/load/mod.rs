//! HTTP servers on their own threads, and a client that sends all of them the same requests.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use keyguard::KeyGuard;
use keyguard::http::KeyGuardLayer;
use tokio::net::TcpListener;
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;

pub(crate) type Failure = Box<dyn Error>;

/// The response of every server.
pub(crate) const BODY: &str = "hello, world";

/// Runs a server on one thread until the process ends. Returns its address.
pub(crate) fn start<F>(
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> Result<SocketAddr, Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("server".into())
        .spawn(move || {
            let served = runtime.block_on(async { serve(TcpListener::from_std(listener)?).await });
            if let Err(error) = served {
                eprintln!("a server has failed: {error}");
            }
        })?;
    Ok(address)
}

/// An axum app wrapped by `protect`.
pub(crate) async fn axum(
    listener: TcpListener,
    protect: impl FnOnce(Router) -> Router,
) -> Result<(), Failure> {
    use axum::serve::ListenerExt;

    let app = protect(Router::new().fallback(get(|| async { BODY })));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}

/// The layer of KeyGuard for axum apps.
pub(crate) fn protect(app: Router, guard: KeyGuard) -> Router {
    let peer = |extensions: &axum::http::Extensions| {
        Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.into())
    };
    app.layer(KeyGuardLayer::new(guard).peer_from(peer))
}

/// The layer of tower_governor, with header fields and a limit that is never reached.
pub(crate) fn govern(app: Router) -> Router {
    let mut config = GovernorConfigBuilder::default();
    let config = config.per_nanosecond(1).burst_size(u32::MAX);
    match config.use_headers().finish() {
        Some(config) => app.layer(GovernorLayer::new(config)),
        None => app,
    }
}

/// Keep-alive connections with one request in flight each.
pub(crate) struct Client {
    connections: Vec<TcpStream>,
    requests: Vec<Vec<u8>>,
    /// The end of every response.
    end: &'static str,
    next: usize,
}

impl Client {
    /// Creates a client of a server of this module, which uses the keys in turn.
    pub(crate) fn new(
        address: SocketAddr,
        connections: usize,
        keys: &[String],
    ) -> Result<Self, Failure> {
        let request = |key: &String| {
            format!(
                "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: {address}\r\nUser-Agent: bench/1\r\n\
                 Accept: */*\r\nX-API-Key: {key}\r\n\r\n"
            )
        };
        let requests = keys.iter().map(|key| request(key).into_bytes()).collect();
        Self::sending(requests, address, connections, BODY)
    }

    /// Creates a client that sends the requests in turn. All responses end with `end`.
    pub(crate) fn sending(
        requests: Vec<Vec<u8>>,
        address: SocketAddr,
        connections: usize,
        end: &'static str,
    ) -> Result<Self, Failure> {
        let connect = |_| -> Result<TcpStream, Failure> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            Ok(stream)
        };
        Ok(Self {
            connections: (0..connections).map(connect).collect::<Result<_, _>>()?,
            requests,
            end,
            next: 0,
        })
    }

    /// Sends about this many requests, all of which must get 200. Returns their number and the total
    /// time, and records the latency of each.
    pub(crate) fn round(
        &mut self,
        requests: usize,
        mut note: impl FnMut(Duration),
    ) -> Result<(usize, Duration), Failure> {
        let mut buffer = [0; 4_096];
        let start = Instant::now();
        let turns = requests.div_ceil(self.connections.len());
        let mut sent_at = vec![start; self.connections.len()];
        for _ in 0..turns {
            for (stream, sent_at) in self.connections.iter_mut().zip(&mut sent_at) {
                *sent_at = Instant::now();
                stream.write_all(&self.requests[self.next])?;
                self.next = (self.next + 1) % self.requests.len();
            }
            for (stream, sent_at) in self.connections.iter_mut().zip(&sent_at) {
                read_answer(stream, &mut buffer, self.end)?;
                note(sent_at.elapsed());
            }
        }
        Ok((turns * self.connections.len(), start.elapsed()))
    }
}

fn read_answer(stream: &mut TcpStream, buffer: &mut [u8], end: &str) -> Result<(), Failure> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..])?;
        filled += read;
        let answer = &buffer[..filled];
        if read == 0 || filled == buffer.len() {
            return Err("an answer has no end".into());
        }
        if answer.ends_with(end.as_bytes()) {
            if answer.starts_with(b"HTTP/1.1 200") {
                return Ok(());
            }
            break;
        }
        // A refusal ends differently.
        if filled > 12 && !answer.starts_with(b"HTTP/1.1 200") {
            break;
        }
    }
    let head = String::from_utf8_lossy(&buffer[..filled.min(80)]);
    Err(format!("not admitted: {head}").into())
}

/// Checks that a guard has recorded every request and dropped none.
pub(crate) fn all_recorded(guard: &KeyGuard, requests: usize) -> Result<(), Failure> {
    let stats = guard.admin().stats()?;
    if (stats.requests, stats.dropped) == (requests as u64, 0) {
        return Ok(());
    }
    Err(format!(
        "{requests} requests were sent, {} recorded and {} dropped",
        stats.requests, stats.dropped
    )
    .into())
}
