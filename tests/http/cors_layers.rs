use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method};
use keyguard::KeyGuard;
use keyguard::http::KeyGuardLayer;
use tower_http::cors::CorsLayer;

/// `page` is the origin of the pages, such as `https://shop.example`.
fn app(routes: Router, kg: KeyGuard, page: HeaderValue) -> Router {
    let sent = ["content-type", "x-api-key"];
    let readable = [
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
    ];
    let cors = CorsLayer::new()
        .allow_origin(page)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(sent.map(HeaderName::from_static))
        .expose_headers(readable.map(HeaderName::from_static));
    routes.layer(KeyGuardLayer::new(kg)).layer(cors) // the last layer is the outermost
}
