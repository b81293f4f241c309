//! The cost of the layer.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use keyguard::http::KeyGuardLayer;
use keyguard::{Config, KeyGuard};
use tokio::net::TcpListener;
use tower_layer::Layer;

use crate::Run;
use crate::load::{self, Client};
use crate::measure::{Measured, median};
use crate::world::{SECRET, UNREACHED};

const CONNECTIONS: usize = 16;
const KEYS: usize = 100;

/// A hyper service behind the layer, with usage on disk, over the same service without it.
pub(crate) fn hyper(run: &Run) -> Measured {
    compare(run, "hyper.redb", |guard| {
        load::start(move |listener| serve(listener, guard))
    })
}

/// A hyper service, behind a guard if there is one.
async fn serve(listener: TcpListener, guard: Option<KeyGuard>) -> Result<(), load::Failure> {
    let layer = guard.map(KeyGuardLayer::new);
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        let builder = Builder::new(TokioExecutor::new()).http1_only();
        match &layer {
            None => {
                tokio::spawn(async move {
                    let _ = builder.serve_connection(stream, service_fn(hello)).await;
                });
            }
            Some(layer) => {
                let service = layer.for_peer(peer).layer(service_fn(hello));
                tokio::spawn(async move {
                    let _ = builder.serve_connection(stream, service).await;
                });
            }
        }
    }
}

async fn hello(_: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from(load::BODY)))
}

/// The same for an axum app.
pub(crate) fn axum(run: &Run) -> Measured {
    compare(run, "axum.redb", |guard| {
        load::start(move |listener| {
            load::axum(listener, |app| match guard {
                Some(guard) => load::protect(app, guard),
                None => app,
            })
        })
    })
}

/// An axum app behind the layer, with usage on disk, over the same app behind tower_governor with
/// header fields.
pub(crate) fn governor(run: &Run) -> Measured {
    let other = load::start(|listener| load::axum(listener, load::govern))?;
    compare_with(run, "governor.redb", other, |guard| {
        load::start(move |listener| load::axum(listener, |app| load::protect(app, guard)))
    })
}

type Started = Result<SocketAddr, load::Failure>;

fn compare(run: &Run, file: &str, start: impl Fn(Option<KeyGuard>) -> Started) -> Measured {
    compare_with(run, file, start(None)?, |guard| start(Some(guard)))
}

fn compare_with(
    run: &Run,
    file: &str,
    other: SocketAddr,
    start: impl Fn(KeyGuard) -> Started,
) -> Measured {
    let config = Config::new(SECRET);
    let (guard, keys) = run.world.guard(file, KEYS, UNREACHED, config)?;
    let mut other = Client::new(other, CONNECTIONS, &keys)?;
    let mut guarded = Client::new(start(guard.clone())?, CONNECTIONS, &keys)?;
    let (ratio, sent) = ratio(run, &mut guarded, &mut other)?;
    load::all_recorded(&guard, sent)?;
    Ok(ratio)
}

/// The median of the requests per second of one client over those of another, and the number of requests
/// of the first.
pub(crate) fn ratio(
    run: &Run,
    one: &mut Client,
    other: &mut Client,
) -> Result<(f64, usize), Box<dyn Error>> {
    let requests = run.size(20_000);
    let (mut ratios, mut sent) = (Vec::new(), 0);
    // The first round is a warm-up.
    for round in 0..=run.rounds(31) {
        let mut ask_one = || -> Result<f64, Box<dyn Error>> {
            let (count, time) = one.round(requests, |_| {})?;
            sent += count;
            Ok(count as f64 / time.as_secs_f64())
        };
        let mut ask_other = || -> Result<f64, Box<dyn Error>> {
            let (count, time) = other.round(requests, |_| {})?;
            Ok(count as f64 / time.as_secs_f64())
        };
        // The order alternates.
        let (one, other) = if round % 2 == 0 {
            let one = ask_one()?;
            (one, ask_other()?)
        } else {
            let other = ask_other()?;
            (ask_one()?, other)
        };
        if round > 0 {
            ratios.push(one / other);
        }
    }
    Ok((median(ratios), sent))
}
