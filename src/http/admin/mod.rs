//! The admin service: the vocabulary of the command line over HTTP.

mod access;
mod docs;
mod endpoint;
mod endpoints;
mod openapi;
mod schemas;
mod service;

#[cfg(feature = "serve")]
pub(super) use self::access::require_own_name;
#[cfg(feature = "serve")]
pub(super) use self::endpoint::{Asked, Endpoint, Json};
pub use self::service::AdminService;
