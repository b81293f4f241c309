//! A tonic server behind KeyGuard: `cargo run --release --features tonic --example tonic`.
//!
//! Serves the health service of gRPC to clients with a key. A refused call gets the status 16 (no accepted
//! key), 7 (not allowed) or 8 (a limit is exhausted), the last with `grpc-retry-pushback-ms`. The first argument
//! is the address to listen on (default `127.0.0.1:8000`). `KEYGUARD_DB` is the path of the data file (default
//! `keyguard.redb`).
//!
//! ```text
//! grpcurl -plaintext -H "X-API-Key: $KEY" 127.0.0.1:8000 grpc.health.v1.Health/Check
//! ```

use std::env;
use std::error::Error;
use std::io::Write;

use keyguard::http::KeyGuardLayer;
use keyguard::{Config, KeyGuard};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::var("KEYGUARD_DB").unwrap_or("keyguard.redb".into());
    let kg = KeyGuard::open(file, Config::default())?;
    // tonic provides the address of the client in a type of its own. Handlers find the `Arc<Grant>` in the
    // extensions of a request.
    let layer = KeyGuardLayer::new(kg).peer_from(|extensions| {
        let connection = extensions.get::<TcpConnectInfo>()?;
        Some(connection.remote_addr()?.into())
    });

    let address = env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    std::io::stdout().flush()?;

    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(layer).add_service(health);
    server
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}
