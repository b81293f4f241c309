//! A hyper server behind KeyGuard.
//!
//! ```text
//! cargo run --release --features http --example hyper
//! ```
//!
//! | path | access |
//! |---|---|
//! | `/health` | everybody |
//! | `/login` | everybody, 3 times a minute |
//! | `/api/data` | clients with a key |
//! | `/api/write` | clients with a key of scope `write` |
//!
//! The first argument is the address to listen on (default `127.0.0.1:8000`). The variable `KEYGUARD_DB`
//! is the path of the data file (default `keyguard.redb`). The first start creates a key and prints it.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use keyguard::http::{IpLimitLayer, KeyGuardLayer, ResponseBody};
use keyguard::{Config, CreateKey, Grant, IpLimit, KeyGuard, Page, Policy};
use tokio::net::TcpListener;
use tower_layer::Layer;

type HttpResponse = Response<ResponseBody<Full<Bytes>>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8000".into());
    let file = std::env::var("KEYGUARD_DB").unwrap_or_else(|_| "keyguard.redb".into());

    let policy = Policy::new().protect("/api");
    let kg = KeyGuard::open(file, Config::default().policy(policy))?;
    create_first_key(&kg)?;
    let login = IpLimit::new("login", "3/min")?.lockout("5 minutes")?;
    let (guard, login) = (
        KeyGuardLayer::new(kg.clone()),
        IpLimitLayer::new(kg.clone(), login),
    );

    let listener = TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let connections = GracefulShutdown::new();
    let mut stop = pin!(stop());
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = &mut stop => break,
        };
        // Each connection has its own service, with the address of its peer.
        let api = guard.for_peer(peer).layer(service_fn(api));
        let login = login.for_peer(peer).layer(service_fn(log_in));
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, login) = (api.clone(), login.clone());
            async move { route(request, &api, &login).await }
        });
        let builder = Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection has failed: {error}");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
    Ok(kg.close()?)
}

async fn route<A, L>(
    request: Request<Incoming>,
    api: &A,
    login: &L,
) -> Result<HttpResponse, Infallible>
where
    A: hyper::service::Service<Request<Incoming>, Response = HttpResponse, Error = Infallible>,
    L: hyper::service::Service<Request<Incoming>, Response = HttpResponse, Error = Infallible>,
{
    match request.uri().path() {
        "/login" => login.call(request).await,
        _ => api.call(request).await,
    }
}

async fn api(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let grant = request.extensions().get::<Arc<Grant>>();
    let org = grant.and_then(|grant| Some(grant.org()?.name.as_str()));
    Ok(match (request.uri().path(), grant, org) {
        ("/health", ..) => json(StatusCode::OK, r#"{"status":"ok"}"#.into()),
        ("/api/data", _, Some(org)) => {
            json(StatusCode::OK, format!(r#"{{"message":"Hello, {org}!"}}"#))
        }
        ("/api/write", Some(grant), _) => match grant.require("write") {
            Ok(()) => json(StatusCode::OK, r#"{"written":true}"#.into()),
            Err(denial) => denial.response(),
        },
        _ => json(StatusCode::NOT_FOUND, r#"{"detail":"Not found"}"#.into()),
    })
}

async fn log_in(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = r#"{"detail":"Wrong password"}"#;
    Ok(json(StatusCode::UNAUTHORIZED, body.into()))
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

fn create_first_key(kg: &KeyGuard) -> Result<(), Box<dyn Error>> {
    if kg.admin().list_orgs(Page::first().limit(1))?.is_empty() {
        kg.admin().create_org("demo")?;
        let created = kg.admin().create_key(CreateKey::new("demo", "first key"))?;
        println!(
            "Your key, shown only once:\n\n    {}\n",
            created.raw_key.expose()
        );
    }
    Ok(())
}

/// Completes when the process is asked to stop.
async fn stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        if let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    }
    #[cfg(not(unix))]
    let _ = tokio::signal::ctrl_c().await;
}
