//! An axum app behind KeyGuard.
//!
//! ```text
//! cargo run --release --features axum,openapi --example axum
//! ```
//!
//! | path | access |
//! |---|---|
//! | `/health` | everybody |
//! | `/login` | everybody, 3 times a minute |
//! | `/trap` | everybody, once: a client that requests it is locked out for an hour |
//! | `/api/data` | clients with a key |
//! | `/api/write` | clients with a key of scope `write` |
//! | `/admin/…`, `/docs` | administrators; `/docs` with the feature `openapi` |
//!
//! The first argument is the address to listen on (default `127.0.0.1:8000`). The variable `KEYGUARD_DB`
//! is the path of the data file (default `keyguard.redb`). The first start creates a key and prints it.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Extension, Router};
use keyguard::http::{AdminService, Authenticated, IpLimitLayer, KeyGuardLayer};
use keyguard::{Config, CreateKey, Denial, Grant, IpLimit, KeyGuard, Page, Policy};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:8000".into());
    let file = std::env::var("KEYGUARD_DB").unwrap_or_else(|_| "keyguard.redb".into());

    let policy = Policy::new().protect("/api");
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
    let login = IpLimit::new("login", "3/min")?.lockout("5 minutes")?;
    let login = IpLimitLayer::new(kg.clone(), login);
    let admin = AdminService::new(kg.clone());
    Ok(Router::new()
        .route("/health", get(|| async { r#"{"status":"ok"}"# }))
        .route("/trap", get(trap))
        .route("/api/data", get(data))
        .route("/api/write", get(write))
        .with_state(kg.clone())
        // Applies to all routes added so far.
        .layer(KeyGuardLayer::new(kg.clone()))
        .route("/login", get(log_in).layer(login))
        .fallback_service(admin))
}

async fn data(Authenticated(grant): Authenticated) -> String {
    let org = grant.org().map_or("nobody", |org| &org.name);
    format!(r#"{{"message":"Hello, {org}!"}}"#)
}

async fn write(Authenticated(grant): Authenticated) -> Result<&'static str, Denial> {
    grant.require("write")?;
    Ok(r#"{"written":true}"#)
}

async fn trap(
    State(kg): State<KeyGuard>,
    Extension(grant): Extension<Arc<Grant>>,
) -> (StatusCode, &'static str) {
    // Blocking writes to disk, so it runs on a blocking thread.
    let lock = move || kg.admin().block(grant.ip(), None, "1 hour");
    match tokio::task::spawn_blocking(lock).await {
        Ok(Ok(_)) => (StatusCode::OK, "goodbye"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "try again later"),
    }
}

async fn log_in() -> (StatusCode, &'static str) {
    let body = r#"{"detail":"Wrong password"}"#;
    (StatusCode::UNAUTHORIZED, body)
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
