//! The server behind `keyguard serve`: the admin service, and checks for servers in other languages.

mod backups;
mod check;
mod connections;
mod decision_times;
mod demo;
mod error;
mod forward_auth;
mod hangup;
mod http_client;
mod leaks;
mod listen;
mod metrics;
#[cfg(not(feature = "otlp"))]
#[path = "no_otlp.rs"]
mod otlp;
#[cfg(feature = "otlp")]
mod otlp;
mod readiness;
mod routes;
mod server;
mod settings;
mod shutdown;
mod tls;
mod tls_client;
mod webhooks;

pub(crate) use self::demo::Demo;
pub(crate) use self::error::ServeError;
pub(crate) use self::listen::ListenAddr;
pub(crate) use self::server::serve;
pub(crate) use self::settings::Settings;
