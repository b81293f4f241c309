//! An axum app behind KeyGuard.
//!
//! ```text
//! cargo run --release --features axum --example axum
//! ```
//!
//! | path | who gets in |
//! |---|---|
//! | `/health` | everybody |
//! | `/login` | everybody, 3 times a minute |
//! | `/trap` | nobody twice: whoever comes here is locked out for an hour |
//! | `/api/data` | who has a key |
//! | `/api/write` | who has a key with the scope `write` |
//! | `/admin/…`, `/docs` | administrators |
//!
//! The first argument is where it listens (default `127.0.0.1:8000`), the variable `KEYGUARD_DB` the
//! data file (default `keyguard.redb`). On a first start it makes a key and prints it.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get;
use keyguard::http::{AdminService, IpLimitLayer, KeyGuardLayer};
use keyguard::{
    Config, CreateKey, Denial, Grant, IpLimit, KeyGuard, LockDuration, LockScope, Policy,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8000".into());
    let file = std::env::var("KEYGUARD_DB").unwrap_or_else(|_| "keyguard.redb".into());

    let policy = Policy::new().protect("/api".parse()?);
    let kg = KeyGuard::open(file, Config::default().policy(policy))?;
    create_first_key(&kg)?;

    let listener = TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let app = app(&kg)?.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(stop())
        .await?;
    Ok(kg.close()?)
}

fn app(kg: &KeyGuard) -> Result<Router, Box<dyn Error>> {
    let login = IpLimit::new("login", 3, Duration::from_secs(60))?
        .lockout("5 minutes".parse()?)
        .scope(LockScope::Path);
    let login = IpLimitLayer::new(kg.clone(), login);
    let admin = AdminService::new(kg.clone());
    Ok(Router::new()
        .route("/health", get(|| async { r#"{"status":"ok"}"# }))
        .route("/trap", get(trap))
        .route("/api/data", get(data))
        .route("/api/write", get(write))
        .with_state(kg.clone())
        // Around all routes there are by now.
        .layer(KeyGuardLayer::new(kg.clone()))
        .route("/login", get(log_in).layer(login))
        .fallback_service(admin))
}

/// Who asks, as an argument of a handler.
struct CachedKey(Arc<Grant>);

impl<S: Sync> FromRequestParts<S> for CachedKey {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let grant = parts.extensions.get::<Arc<Grant>>();
        grant.cloned().map(Self).ok_or_else(|| {
            // The layer is missing.
            let mut response = Response::new(Body::empty());
            *response.status_mut() = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

async fn data(CachedKey(grant): CachedKey) -> String {
    let org = grant.org().map_or("nobody", |org| &org.name);
    format!(r#"{{"message":"Hello, {org}!"}}"#)
}

async fn write(CachedKey(grant): CachedKey) -> Result<&'static str, Response> {
    grant.require("write").map_err(refuse)?;
    Ok(r#"{"written":true}"#)
}

fn refuse(denial: Denial) -> Response {
    denial.response()
}

async fn trap(State(kg): State<KeyGuard>, CachedKey(grant): CachedKey, uri: Uri) -> &'static str {
    let hour: Result<LockDuration, _> = "1 hour".parse();
    // A lock is durable when it is in force; the disk is waited for on a thread for that.
    let locked = tokio::task::spawn_blocking(move || {
        let hour = hour.map_err(Box::<dyn Error + Send + Sync>::from)?;
        Ok::<_, Box<dyn Error + Send + Sync>>(kg.admin().block(
            grant.ip(),
            uri.path(),
            hour,
            LockScope::Global,
        )?)
    });
    match locked.await {
        Ok(Ok(_)) => "goodbye",
        _ => "not now",
    }
}

async fn log_in() -> (axum::http::StatusCode, &'static str) {
    let body = r#"{"detail":"Wrong password"}"#;
    (axum::http::StatusCode::UNAUTHORIZED, body)
}

fn create_first_key(kg: &KeyGuard) -> Result<(), Box<dyn Error>> {
    if kg.admin().list_orgs(None, 1)?.is_empty() {
        kg.admin().create_org("demo")?;
        let created = kg.admin().create_key(CreateKey::new("demo", "first key"))?;
        println!(
            "Your key, shown this once:\n\n    {}\n",
            created.raw_key.expose()
        );
    }
    Ok(())
}

/// Ends when the process is told to stop.
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
