//! Connections: their number, their time limits and the protocol they speak.

use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::error::ServeError;
use super::leaks::LeakReports;
use super::listen::{Listener, Stream};
use super::otlp::Tracer;
use super::routes::Routes;
use super::settings::Settings;
use super::webhooks::WebhookStatus;
use crate::guard::WarningKind;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

pub(super) struct Connections {
    guard: KeyGuard,
    routes: Arc<Routes>,
    tls: Option<TlsAcceptor>,
    builder: Builder<TokioExecutor>,
    permits: Arc<Semaphore>,
    timeout: Duration,
}

impl Connections {
    pub(super) fn new(
        guard: &KeyGuard,
        settings: &Settings,
        tracer: Tracer,
        leaks: Option<Arc<LeakReports>>,
        webhooks: Arc<WebhookStatus>,
    ) -> Result<Self, ServeError> {
        let tls = settings.tls.as_ref();
        let permits = settings.max_connections.get().min(Semaphore::MAX_PERMITS);
        Ok(Self {
            guard: guard.clone(),
            routes: Arc::new(Routes::new(
                guard.clone(),
                settings,
                tracer,
                leaks,
                webhooks,
            )),
            tls: tls
                .map(|tls| tls.acceptor().map_err(ServeError::Tls))
                .transpose()?,
            builder: builder(settings),
            permits: Arc::new(Semaphore::new(permits)),
            timeout: settings.timeout,
        })
    }

    /// Accepts connections until `end` changes. Without a permit, connections wait in the queue of the
    /// listener.
    pub(super) async fn accept(self: Arc<Self>, listener: Listener, mut end: watch::Receiver<()>) {
        loop {
            let next = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                _ = end.changed() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.warn_of(&error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let (connections, end) = (Arc::clone(&self), end.clone());
            tokio::spawn(async move {
                connections.serve(stream, peer, end).await;
                drop(permit);
            });
        }
    }

    /// Warns of an error of `accept`, unless the client closed the connection.
    fn warn_of(&self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset};

        if !matches!(error.kind(), ConnectionAborted | ConnectionReset) {
            let warning = format!(
                "clients had to wait, because connections could not be accepted ({error}): raise the \
                 limit on open files (`ulimit -n`), or lower `--max-connections`"
            );
            let warnings = self.guard.inner.warnings();
            warnings.add_of(WarningKind::OpenFiles, &warning);
        }
    }

    async fn serve(&self, stream: Stream, peer: ClientIp, end: watch::Receiver<()>) {
        match (stream, &self.tls) {
            (Stream::Tcp(stream), None) => {
                let stream = self.with_timeout(stream);
                self.serve_http(stream, false, peer, end).await;
            }
            (Stream::Tcp(stream), Some(tls)) => {
                let accepted = tls.accept(self.with_timeout(stream));
                let handshake = tokio::time::timeout(self.timeout, accepted);
                if let Ok(Ok(stream)) = handshake.await {
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.serve_http(stream, is_http2, peer, end).await;
                }
            }
            // Unix sockets need no TLS.
            #[cfg(unix)]
            (Stream::Unix(stream), _) => {
                let stream = self.with_timeout(stream);
                self.serve_http(stream, false, peer, end).await;
            }
        }
    }

    /// Returns a stream that fails when its client has not read pending data for too long.
    fn with_timeout<S: AsyncRead + AsyncWrite>(&self, stream: S) -> Pin<Box<TimeoutStream<S>>> {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.timeout));
        Box::pin(stream)
    }

    async fn serve_http<S>(
        &self,
        stream: S,
        is_http2: bool,
        peer: ClientIp,
        mut end: watch::Receiver<()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let routes = Arc::clone(&self.routes);
        // hyper itself limits the time between two requests of HTTP/1.
        let requests = is_http2.then(ActiveRequests::default);
        let started = requests.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let routes = Arc::clone(&routes);
            let active = started.as_ref().map(ActiveRequests::start);
            async move {
                let response = routes.respond(request, peer).await;
                drop(active);
                response
            }
        });
        // The version is known, so it need not be detected.
        let builder = match is_http2 {
            true => self.builder.clone().http2_only(),
            false => self.builder.clone().http1_only(),
        };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let idle = || async {
            match &requests {
                Some(requests) => requests.idle_for(self.timeout).await,
                None => pending().await,
            }
        };
        // Errors only tell that the client is gone.
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = end.changed() => {}
            () = idle() => {}
        }
        connection.as_mut().graceful_shutdown();
        // A client with full flow-control windows may leave responses unread for ever.
        tokio::select! {
            _ = connection => {}
            () = idle() => {}
        }
    }
}

fn builder(settings: &Settings) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.timeout)
        .max_buf_size(settings.max_head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.timeout)
        .keep_alive_timeout(settings.timeout)
        .max_concurrent_streams(100)
        .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX));
    builder
}

/// The number of requests of a connection that have no response yet.
#[derive(Clone, Default)]
struct ActiveRequests(Arc<watch::Sender<usize>>);

/// An active request, until it is dropped.
struct ActiveRequest(ActiveRequests);

impl ActiveRequests {
    fn start(&self) -> ActiveRequest {
        self.0.send_modify(|requests| *requests += 1);
        ActiveRequest(self.clone())
    }

    /// Waits until there has been no active request for `time`.
    async fn idle_for(&self, time: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            // The sender lives as long as `self`.
            let _ = requests.wait_for(|requests| *requests == 0).await;
            let changed = requests.changed();
            if tokio::time::timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| *requests -= 1);
    }
}
