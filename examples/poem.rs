//! A poem app behind KeyGuard: `cargo run --release --features poem --example poem`.
//!
//! Serves `/api/data` to clients with a key. The first argument is the address to listen on (default
//! `127.0.0.1:8000`). `KEYGUARD_DB` is the path of the data file (default `keyguard.redb`).

use std::env;
use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use keyguard::{Config, Denial, Grant, KeyGuard};
use poem::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::Data;
use poem::{Endpoint, EndpointExt, IntoResponse, Request, Response, Route, Server, get, handler};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::var("KEYGUARD_DB").unwrap_or("keyguard.redb".into());
    let kg = KeyGuard::open(file, Config::default())?;
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8000".into());

    let guard = kg.clone();
    let app = Route::new()
        .at("/api/data", get(data))
        .around(move |next, request| require_key(guard.clone(), next, request));
    let acceptor = TcpListener::bind(address).into_acceptor().await?;
    let bound = acceptor.local_addr();
    println!(
        "listening on {}",
        bound[0].as_socket_addr().ok_or("no address")?
    );
    std::io::stdout().flush()?;
    Server::new_with_acceptor(acceptor).run(app).await?;
    Ok(kg.close()?)
}

/// The organization that owns the key of a request.
#[derive(Clone)]
struct Owner(String);

#[handler]
fn data(owner: Data<&Owner>) -> String {
    format!("Hello, {}!\n", owner.0.0)
}

async fn require_key<E: Endpoint>(
    kg: KeyGuard,
    next: Arc<E>,
    mut request: Request,
) -> poem::Result<Response> {
    let grant = match decide(&kg, &request) {
        Ok(grant) => grant,
        Err(denial) => return Ok(refusal(&denial)),
    };
    let owner = grant.org().map_or("nobody", |org| &org.name);
    request.extensions_mut().insert(Owner(owner.to_owned()));
    let fields = grant.headers();
    let mut response = next.get_response(request).await;
    grant.finish(response.status().as_u16());
    set(response.headers_mut(), fields);
    Ok(response)
}

fn decide(kg: &KeyGuard, request: &Request) -> Result<Grant, Denial> {
    let peer = request.remote_addr().as_socket_addr().copied();
    let path = request.original_uri().path();
    let method = request.method().as_str();
    let decision = keyguard::Request::new(request.headers(), peer, path).method(method);
    kg.decide(decision)
}

fn refusal(denial: &Denial) -> Response {
    let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = denial.problem().with_status(status).into_response();
    set(response.headers_mut(), denial.headers());
    response
}

fn set(headers: &mut HeaderMap, fields: Vec<(&'static str, String)>) {
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}
