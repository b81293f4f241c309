//! The axum program of README: `cargo run --release --features axum --example hello_axum`.

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use keyguard::http::{Authenticated, KeyGuardLayer};
use keyguard::{Config, KeyGuard};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::var("KEYGUARD_DB").unwrap_or("keyguard.redb".into());
    let kg = KeyGuard::open(file, Config::default())?;
    let app = Router::new()
        .route("/api/data", get(data))
        .layer(KeyGuardLayer::new(kg))
        .into_make_service_with_connect_info::<SocketAddr>(); // tells the layer the client's address

    let address = env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    let listener = tokio::net::TcpListener::bind(&address).await;
    let listener = listener.map_err(|error| format!("{address}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

async fn data(Authenticated(grant): Authenticated) -> String {
    let org = grant.org().map_or("nobody", |org| &org.name);
    format!("Hello, {org}!\n")
}
