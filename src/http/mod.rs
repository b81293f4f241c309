//! Middleware for HTTP services and the admin API.
//!
//! [`KeyGuardLayer`] is a [tower](https://docs.rs/tower) layer. The [`KeyGuardService`] that it makes
//! implements tower's `Service` around a tower service, for axum and tonic, and hyper's around a hyper
//! service:
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
//! let service = layer.for_peer(peer).layer(service_fn(hello));
//! # let _ = service;
//! # }
//! ```
//!
//! The guard's [`Policy`](crate::Policy) determines what needs a key. A refused request gets a problem
//! document, or if it is one of gRPC a status of gRPC, and does not reach the service. An admitted request
//! carries its [`Grant`](crate::Grant) in its extensions, as `Arc<Grant>`; with the feature `axum`, handlers
//! extract it as `Authenticated`. The layer removes the header fields that start with `X-KeyGuard-`, which
//! only KeyGuard itself may set. An inner layer of the same guard reuses the grant of an outer one, so that a
//! request counts once.
//!
//! Paths are those that clients send. A nested router removes its prefix from the path before an inner
//! layer sees it. The feature `axum` finds the prefixes that axum's routers have removed, and the address
//! of the peer. For other routers set [`KeyGuardLayer::prefix`].
//!
//! The traits of `tower-service` 0.3 and `tower-layer` 0.3, of hyper 1 and, with the feature `axum`, of
//! axum 0.8 are part of this API.
//!
//! Status and latency are recorded with the head of the response; the request counts as in flight until
//! its body has been sent.

pub(crate) mod admin;
#[cfg(feature = "axum")]
mod axum;
#[cfg(not(feature = "axum"))]
#[path = "no_axum.rs"]
mod axum;
pub(crate) mod body;
mod grpc;
mod layer;
mod peer;
pub(crate) mod problem;
pub(crate) mod response;

pub use self::admin::{AdminBody, AdminFuture, AdminService};
#[cfg(feature = "axum")]
pub use self::axum::{Authenticated, AuthenticatedRejection};
pub use self::layer::{
    IpLimitLayer, KeyGuardLayer, KeyGuardService, LimitedClient, ResponseBody, ResponseFuture,
};
