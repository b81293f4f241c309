//! Simulated servers at the ends of a simulated network, all on one thread under the time of its tokio
//! runtime. They speak the protocols of the real ones to unchanged clients.

mod network;
mod outbox;
mod postgres;
mod redis;

pub use self::network::{Condition, Network};
pub use self::postgres::{Postgres, Tables};
pub use self::redis::Redis;
