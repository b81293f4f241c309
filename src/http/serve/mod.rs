//! The server behind `keyguard serve`: the admin service, and verdicts for servers in other
//! languages.

mod check;
mod forward_auth;
mod listen;
mod metrics;
mod routes;
mod run;

pub(crate) use self::listen::{Place, Tls};
pub(crate) use self::run::{ServeError, Settings, serve};
