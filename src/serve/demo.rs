//! The toy server of `keyguard demo`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower_layer::Layer;

use super::error::ServeError;
use super::listen::ListenAddr;
use super::shutdown::ShutdownSignal;
use crate::guard::Grant;
use crate::http::KeyGuardLayer;
use crate::keyguard::KeyGuard;

/// How often the view is updated.
const TICK: Duration = Duration::from_millis(200);

/// The server, which SIGTERM, SIGINT or SIGHUP ends.
pub(crate) struct Demo {
    runtime: Runtime,
    shutdown: ShutdownSignal,
}

impl Demo {
    /// Handles the signals from here on: one that comes before [`Self::serve`] ends it at once.
    pub(crate) fn new() -> Result<Self, ServeError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let shutdown = {
            let _runtime = runtime.enter();
            ShutdownSignal::new().and_then(ShutdownSignal::or_hangup)
        };
        let shutdown = shutdown.map_err(ServeError::Start)?;
        Ok(Self { runtime, shutdown })
    }

    /// Greets clients with a key, until a signal. Meanwhile calls `show` with the address of the server again and
    /// again.
    pub(crate) fn serve<E: From<ServeError>>(
        self,
        guard: &KeyGuard,
        address: SocketAddr,
        mut show: impl FnMut(SocketAddr) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self {
            runtime,
            mut shutdown,
        } = self;
        let layer = KeyGuardLayer::new(guard.clone());
        runtime.block_on(async {
            let (listener, address) = bind(address).await?;
            tokio::spawn(accept(listener, layer));
            let mut ticks = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    _ = ticks.tick() => show(address)?,
                    () = shutdown.received() => return Ok(()),
                }
            }
        })
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen {
        addr: ListenAddr::Tcp(address),
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn accept(listener: TcpListener, layer: KeyGuardLayer) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(TICK).await;
            continue;
        };
        let service = layer.for_peer(peer).layer(service_fn(greet));
        tokio::spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            // Errors only tell that the client is gone.
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn greet(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let grant = request.extensions().get::<Arc<Grant>>();
    let org = grant
        .and_then(|grant| grant.org())
        .map_or("nobody", |org| &org.name);
    Ok(Response::new(Full::from(format!("Hello, {org}!\n"))))
}
