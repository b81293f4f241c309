//! The server behind `keyguard serve`: the admin service, and verdicts for servers in other
//! languages.

mod check;
mod forward_auth;
mod listen;
mod metrics;
mod readiness;
mod routes;
mod run;
mod settings;
mod stop;

pub(crate) use self::listen::{ListenAddr, Tls};
pub(crate) use self::run::serve;
pub(crate) use self::settings::{ServeError, Settings};
