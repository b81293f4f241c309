//! The admin service: the vocabulary of the command line over HTTP.

mod access;
mod docs;
mod endpoint;
mod endpoints;
mod input;
mod openapi;
mod operation;
mod schemas;
mod service;
mod unique;

#[cfg(feature = "serve")]
pub(crate) use self::access::require_own_name;
#[cfg(feature = "serve")]
pub(crate) use self::input::{Input, Json};
#[cfg(feature = "serve")]
pub(crate) use self::operation::Operation;
pub use self::service::AdminService;
