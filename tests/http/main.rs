//! The layers and the admin service over real sockets (feature `http`).

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod admin;
#[cfg(feature = "axum")]
mod axum;
#[cfg(all(unix, feature = "axum"))]
mod cors;
mod layer;
