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
//! fields that start with `X-KeyGuard-` is taken away, so that nobody can pose as a proxy of ours. A
//! further layer of the same guard around the same request honours that grant, so that the request
//! counts once.
//!
//! Paths are those that clients ask for. A router that is nested in another takes its prefix away
//! from the path of a request before a layer within it sees it; with axum, enable the feature `axum`,
//! which finds what axum's routers have taken away (and the address of the peer). Elsewhere say by
//! [`KeyGuardLayer::prefix`] where the router is mounted.
//!
//! Status and latency are recorded once the head of the answer is there; the request counts as in
//! flight until its body has been sent.

pub(crate) mod admin;
mod axum;
pub(crate) mod body;
mod gated;
mod layer;
mod mount;
mod peer;
pub(crate) mod problem;
pub(crate) mod response;
mod static_file;

pub use self::admin::AdminService;
pub use self::body::AnswerBody;
pub use self::gated::{Gated, GatedFuture};
pub use self::layer::{DecidedClient, IpLimitLayer, KeyGuardLayer};
