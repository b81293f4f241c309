//! Metrics of a guard: the families, and their outputs.

#[cfg(feature = "metrics")]
mod facade;
mod families;
mod family;
#[cfg(feature = "serve")]
mod text;

#[cfg(feature = "serve")]
pub(crate) use self::families::families;
#[cfg(feature = "serve")]
pub(crate) use self::family::Family;
#[cfg(feature = "serve")]
pub(crate) use self::text::prometheus_text;
