//! The admin service: the commands of the command line over HTTP.

mod admin_key;
mod dashboard;
mod endpoint;
mod endpoints;
mod idempotency;
mod input;
#[cfg(feature = "openapi")]
mod openapi;
#[cfg(not(feature = "openapi"))]
#[path = "no_openapi.rs"]
mod openapi;
mod operation;
mod own_host;
mod response;
mod service;
mod static_file;
mod strict_json;

#[cfg(feature = "serve")]
pub(crate) use self::input::Json;
#[cfg(feature = "serve")]
pub(crate) use self::operation::{Operation, Tag};
pub use self::response::{AdminBody, AdminFuture};
pub use self::service::AdminService;
#[cfg(feature = "serve")]
pub(crate) use self::service::blocking;
