//! KeyGuard in front of HTTP services: a [tower](https://docs.rs/tower) layer and a hyper service
//! over the same code.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use http_body_util::Full;
//! use hyper::body::Incoming;
//! use hyper::service::service_fn;
//! use hyper::{Request, Response};
//! use keyguard::http::KeyGuardLayer;
//! use tower_layer::Layer;
//!
//! async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
//!     Ok(Response::new(Full::from("hello")))
//! }
//!
//! # fn connection(layer: KeyGuardLayer, peer: std::net::SocketAddr) {
//! // For each connection; `layer` is `KeyGuardLayer::new(kg)`.
//! let service = layer.peer_address(peer).layer(service_fn(hello));
//! # let _ = service;
//! # }
//! ```
//!
//! What is protected is a matter of the guard's [`Policy`](crate::Policy). A request that is
//! refused is answered with a problem document and does not reach the service. One that is admitted
//! carries its [`Grant`](crate::Grant) in its extensions, as `Arc<Grant>`; what a client sent in
//! fields that start with `X-KeyGuard-` is taken away, so that nobody can pose as a proxy of ours.
//! Status and latency are recorded once the head of the answer is there; the request counts as in
//! flight until its body has been sent.

mod admin;
mod body;
mod gated;
mod layer;
mod peer;
mod problem;
mod response;
#[cfg(feature = "serve")]
pub(crate) mod serve;

pub use self::admin::AdminService;
pub use self::body::AnswerBody;
pub use self::gated::{Gated, GatedFuture};
pub use self::layer::{IpLimitLayer, KeyGuardLayer};
