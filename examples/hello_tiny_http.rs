//! The synchronous program of README: `cargo run --release --example hello_tiny_http`.

use std::{env, error::Error};

use keyguard::{Config, KeyGuard};
use tiny_http::{Header, Response, Server};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let file = env::var("KEYGUARD_DB").unwrap_or("keyguard.redb".into());
    let kg = KeyGuard::open(file, Config::default())?;
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    let server = Server::http(&address).map_err(|error| format!("{address}: {error}"))?;
    println!("listening on {}", server.server_addr());

    for request in server.incoming_requests() {
        let name_and_value = |h: &Header| (h.field.to_string(), h.value.to_string());
        let headers: Vec<_> = request.headers().iter().map(name_and_value).collect();
        let peer = request.remote_addr().copied();
        let (status, body, fields) = match kg.check(&headers, peer, request.url()) {
            Ok(grant) => {
                let fields = grant.headers();
                grant.finish(200);
                (200, "Hello!\n".to_owned(), fields)
            }
            Err(denial) => (denial.status(), denial.problem(), denial.headers()),
        };
        let fields = fields
            .iter()
            .flat_map(|(name, value)| Header::from_bytes(*name, value.as_str()));
        let response = Response::from_string(body).with_status_code(status);
        let _ = request.respond(fields.fold(response, Response::with_header));
    }
    Ok(())
}
