//! From sockets to answers, and to an orderly end.

use std::future::pending;
use std::io::{self, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::listen::{ListenAddr, Listener, Stream};
use super::readiness;
use super::routes::Routes;
use super::settings::{ServeError, Settings};
use super::stop::Stop;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// Serves until the process is told to stop (SIGTERM, SIGINT), and then until every request has
/// been answered and all is stored.
pub(crate) fn serve(guard: KeyGuard, settings: &Settings) -> Result<(), ServeError> {
    let is_open = !settings.places.iter().all(ListenAddr::is_local);
    if is_open && guard.inner.has_weak_admin_key() {
        return Err(ServeError::WeakAdminKey);
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let routes = Arc::new(Routes::new(guard.clone(), settings));
    let served = runtime.block_on(run(routes, &guard, settings));
    // Whatever work for the disk is still on its way ends first.
    drop(runtime);
    served?;
    Ok(guard.close()?)
}

async fn run(routes: Arc<Routes>, guard: &KeyGuard, settings: &Settings) -> Result<(), ServeError> {
    let acceptor = match &settings.tls {
        Some(tls) => Some(tls.acceptor().map_err(ServeError::Tls)?),
        None => None,
    };
    let mut listeners = Vec::new();
    for place in &settings.places {
        let listener = Listener::bind(place, settings.socket_mode);
        listeners.push(listener.map_err(|source| ServeError::Listen {
            place: place.clone(),
            source,
        })?);
    }
    // Before anybody is told where to connect to.
    let mut stop = Stop::listen()?;
    for listener in &listeners {
        writeln!(io::stdout(), "listening on {}", listener.place()?)?;
    }
    io::stdout().flush()?;

    let connections = Arc::new(Connections {
        routes,
        acceptor,
        builder: builder(settings),
        room: Arc::new(Semaphore::new(settings.most_connections)),
        deadline: settings.deadline,
    });
    let (ended, end) = watch::channel(());
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let connections = Arc::clone(&connections);
        accepting.spawn(connections.accept(listener, end.clone()));
    }
    accepting.spawn(readiness::report(guard.clone(), end));
    stop.requested().await;
    // No more connections; those that are there end with the answer they are at.
    let _ = ended.send(());
    while accepting.join_next().await.is_some() {}
    // Every connection has a receiver.
    let _ = tokio::time::timeout(settings.grace, ended.closed()).await;
    Ok(())
}

fn builder(settings: &Settings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.deadline)
        // hyper takes no less.
        .max_buf_size(settings.most_head_bytes.max(8_192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.deadline)
        .keep_alive_timeout(settings.deadline)
        .max_concurrent_streams(100)
        .max_header_list_size(u32::try_from(settings.most_head_bytes).unwrap_or(u32::MAX));
    builder
}

struct Connections {
    routes: Arc<Routes>,
    acceptor: Option<TlsAcceptor>,
    builder: Builder<TokioExecutor>,
    room: Arc<Semaphore>,
    deadline: Duration,
}

impl Connections {
    /// Accepts until told to end. Who comes when there is no room waits in the listener's queue.
    async fn accept(self: Arc<Self>, listener: Listener, mut end: watch::Receiver<()>) {
        loop {
            let next = async {
                let room = Arc::clone(&self.room).acquire_owned().await;
                (room, listener.accept().await)
            };
            let (room, accepted) = tokio::select! {
                next = next => next,
                _ = end.changed() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.routes.report_accept(&error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let (connections, end) = (Arc::clone(&self), end.clone());
            tokio::spawn(async move {
                connections.serve(stream, peer, end).await;
                drop(room);
            });
        }
    }

    async fn serve(&self, stream: Stream, peer: ClientIp, end: watch::Receiver<()>) {
        match (stream, &self.acceptor) {
            (Stream::Tcp(stream), None) => {
                let stream = self.bounded(stream);
                self.answer(stream, false, peer, end).await;
            }
            (Stream::Tcp(stream), Some(acceptor)) => {
                let accepted = acceptor.accept(self.bounded(stream));
                let handshake = tokio::time::timeout(self.deadline, accepted);
                if let Ok(Ok(stream)) = handshake.await {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.answer(stream, is_http2, peer, end).await;
                }
            }
            // Nobody listens in on a socket of this machine.
            #[cfg(unix)]
            (Stream::Unix(stream), _) => {
                let stream = self.bounded(stream);
                self.answer(stream, false, peer, end).await;
            }
        }
    }

    /// A stream that fails once its client has read nothing for too long while there was something
    /// to read.
    fn bounded<S: AsyncRead + AsyncWrite>(&self, stream: S) -> Pin<Box<TimeoutStream<S>>> {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.deadline));
        Box::pin(stream)
    }

    /// The version is known, so that nobody waits for it.
    async fn answer<S>(
        &self,
        stream: S,
        is_http2: bool,
        peer: ClientIp,
        mut end: watch::Receiver<()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = Arc::clone(&self.routes);
        // HTTP/1 has bounds of its own on a connection between two requests.
        let activity = is_http2.then(Activity::default);
        let busy = activity.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let routes = Arc::clone(&routes);
            let request_under_way = busy.as_ref().map(Activity::begin);
            async move {
                let answered = routes.answer(request, peer).await;
                drop(request_under_way);
                answered
            }
        });
        let builder = match is_http2 {
            true => self.builder.clone().http2_only(),
            false => self.builder.clone().http1_only(),
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let idle = || async {
            match &activity {
                Some(activity) => activity.idle(self.deadline).await,
                None => pending().await,
            }
        };
        // Who goes away has no use for an error.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = end.changed() => {}
            () = idle() => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client may leave answers unread that nothing remains to be written of: its windows are full.
        tokio::select! {
            _ = connection => {}
            () = idle() => {}
        }
    }
}

/// How many requests of a connection are under way.
#[derive(Clone, Default)]
struct Activity(Arc<watch::Sender<usize>>);

/// A request under way, until it is dropped.
struct UnderWay(Activity);

impl Activity {
    fn begin(&self) -> UnderWay {
        self.0.send_modify(|requests| *requests += 1);
        UnderWay(self.clone())
    }

    /// Waits until no request has been under way for so long.
    async fn idle(&self, time: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            // It does not end as long as there is `self`.
            let _ = requests.wait_for(|requests| *requests == 0).await;
            let changed = requests.changed();
            if tokio::time::timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| *requests -= 1);
    }
}

/// Every connection takes a descriptor; what a process may have of them is often set low, and may be
/// raised.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Without it, connections wait for one another.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(not(unix))]
fn raise_file_limit() {}
