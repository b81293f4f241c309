//! A protected server with nothing but a data file: `cargo run --release --example quickstart`.
//!
//! Serves `/api/data` to clients with a key and `/health` to everybody. `/login` admits three requests
//! per minute from each address; one more locks the address out of it for five minutes. The first
//! argument is the address to listen on (default `127.0.0.1:8000`). `KEYGUARD_DB` is the path of the data
//! file (default `keyguard.redb`).

use std::error::Error;
use std::process::ExitCode;

use keyguard::{
    Config, CreateKey, HeaderFn, Headers, InvalidInput, IpLimit, KeyGuard, Page, Request,
};
use tiny_http::{Header, Response, Server};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:8000".into());
    let file = std::env::var("KEYGUARD_DB").unwrap_or_else(|_| "keyguard.redb".into());

    let kg = KeyGuard::open(&file, Config::default())?;
    let login_limit = login_limit()?;
    let server = Server::http(&address).map_err(|error| format!("{address}: {error}"))?;
    let address = server.server_addr().to_string();
    welcome(&kg, &file, &address)?;

    println!("listening on {address}");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    handle(&kg, &login_limit, request);
                }
            });
        }
    });
    Ok(())
}

/// Creates an organization and a key in a new data file, and prints what to try.
fn welcome(kg: &KeyGuard, file: &str, address: &str) -> Result<(), Box<dyn Error>> {
    if !kg.admin().list_orgs(Page::first().limit(1))?.is_empty() {
        println!("Using the keys in {file}. To start anew, remove {file} and {file}.secret.");
        return Ok(());
    }
    kg.admin().create_org("demo")?;
    let created = kg
        .admin()
        .create_key(CreateKey::new("demo", "quickstart"))?;
    let (key, limit) = (created.raw_key.expose(), created.key.rate_limit_per_minute);
    println!("Created {file} with one key, which admits {limit} requests a minute.");
    println!("The key is shown only once; only its hash is stored:\n\n    {key}\n");
    println!("Try:\n");
    println!("    curl -i http://{address}/health");
    println!("    curl -i http://{address}/api/data");
    println!("    curl -i -H 'X-API-Key: {key}' http://{address}/api/data");
    println!("    curl -i -X POST http://{address}/login    # four times\n");
    println!("and while this runs, in another terminal, with the program `keyguard`");
    println!("(`cargo install --path . --features serve`):\n");
    let id = created.key.id;
    for command in ["stats", "list-keys", "list-blocks"] {
        println!("    keyguard --db {file} {command}");
    }
    println!("    keyguard --db {file} revoke-key {id}\n");
    Ok(())
}

/// Three attempts per minute from each address. One more locks it out of the login.
fn login_limit() -> Result<IpLimit, InvalidInput> {
    let limit = IpLimit::new("login", "3/min")?;
    limit.lockout("5 minutes")
}

fn handle(kg: &KeyGuard, limit: &IpLimit, request: tiny_http::Request) {
    let path = request.url().split('?').next().unwrap_or_default();
    let (status, body, fields) = match path {
        "/health" => (200, r#"{"status":"ok"}"#.to_owned(), Vec::new()),
        "/api/data" => protected(kg, &request),
        "/login" => login(kg, limit, &request),
        _ => (404, r#"{"detail":"Not found."}"#.to_owned(), Vec::new()),
    };
    let mut response = Response::from_string(body).with_status_code(status);
    let content_type = ("Content-Type", "application/json".to_owned());
    for (name, value) in std::iter::once(content_type).chain(fields) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    // The client may have disconnected.
    let _ = request.respond(response);
}

type Reply = (u16, String, Vec<(&'static str, String)>);

fn login(kg: &KeyGuard, limit: &IpLimit, request: &tiny_http::Request) -> Reply {
    let headers = headers(request);
    let peer = request.remote_addr().copied();
    match kg.check_ip(limit, Request::new(&headers, peer, request.url())) {
        Ok(_) => (
            401,
            r#"{"detail":"Wrong password."}"#.to_owned(),
            Vec::new(),
        ),
        Err(denial) => (denial.status(), denial.problem(), denial.headers()),
    }
}

/// The header fields of a request of tiny_http.
fn headers(request: &tiny_http::Request) -> impl Headers {
    HeaderFn::new(|name: &str| {
        let named = |header: &&Header| header.field.as_str().as_str().eq_ignore_ascii_case(name);
        let sent = request.headers().iter().filter(named);
        sent.map(|header| header.value.as_str().as_bytes())
            .collect::<Vec<_>>()
    })
}

fn protected(kg: &KeyGuard, request: &tiny_http::Request) -> Reply {
    let headers = headers(request);
    let peer = request.remote_addr().copied();
    let method = request.method().as_str();
    match kg.decide(Request::new(&headers, peer, request.url()).method(method)) {
        Ok(grant) => {
            let owner = grant.org().map_or("nobody", |org| &org.name);
            let body = format!(r#"{{"message":"Hello, {owner}!"}}"#);
            let fields = grant.headers();
            grant.finish(200);
            (200, body, fields)
        }
        Err(denial) => (denial.status(), denial.problem(), denial.headers()),
    }
}
