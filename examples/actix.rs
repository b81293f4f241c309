//! An actix-web app behind KeyGuard: `cargo run --release --features actix --example actix`.
//!
//! Serves `/api/data` to clients with a key. The first argument is the address to listen on (default
//! `127.0.0.1:8000`). `KEYGUARD_DB` is the path of the data file (default `keyguard.redb`).

use std::env;
use std::error::Error;
use std::io::Write;

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, Data, ReqData};
use actix_web::{App, HttpMessage, HttpResponse, HttpServer};
use keyguard::{Config, Denial, Grant, HeaderFn, KeyGuard, Request};

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::var("KEYGUARD_DB").unwrap_or("keyguard.redb".into());
    let kg = KeyGuard::open(file, Config::default())?;
    let address = env::args().nth(1).unwrap_or("127.0.0.1:8000".into());

    let shared = Data::new(kg.clone());
    let app = move || {
        App::new()
            .app_data(shared.clone())
            .wrap(from_fn(require_key))
            .route("/api/data", web::get().to(data))
    };
    let server = HttpServer::new(app).bind(address)?;
    println!("listening on {}", server.addrs()[0]);
    std::io::stdout().flush()?;
    server.run().await?;
    Ok(kg.close()?)
}

/// The organization that owns the key of a request.
#[derive(Clone)]
struct Owner(String);

async fn data(owner: ReqData<Owner>) -> String {
    format!("Hello, {}!\n", owner.0)
}

async fn require_key(
    kg: Data<KeyGuard>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> actix_web::Result<ServiceResponse<impl MessageBody>> {
    let grant = match decide(&kg, &request) {
        Ok(grant) => grant,
        Err(denial) => {
            let response = request.into_response(refusal(&denial));
            return Ok(response.map_into_right_body());
        }
    };
    let owner = grant.org().map_or("nobody", |org| &org.name);
    request.extensions_mut().insert(Owner(owner.to_owned()));
    let fields = grant.headers();
    let result = next.call(request).await;
    let status = match &result {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    grant.finish(status.as_u16());
    let mut response = result?;
    set(response.headers_mut(), fields);
    Ok(response.map_into_left_body())
}

fn decide(kg: &KeyGuard, request: &ServiceRequest) -> Result<Grant, Denial> {
    let headers = HeaderFn::new(|name: &str| {
        let values = request.headers().get_all(name);
        values.map(|value| value.as_bytes()).collect::<Vec<_>>()
    });
    let path = request.uri().path();
    let method = request.method().as_str();
    kg.decide(Request::new(&headers, request.peer_addr(), path).method(method))
}

fn refusal(denial: &Denial) -> HttpResponse {
    let status = StatusCode::from_u16(denial.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = HttpResponse::build(status).body(denial.problem());
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
