//! API-key authentication, rate limiting and abuse prevention in one embedded data file.

mod client_ip;
mod clock;
mod key;
mod path;
mod policy;
mod record;
mod secret;
mod store;
