//! Export to and import from another store.

mod conflicts;
mod export;
mod import;

pub(super) use self::conflicts::check;
pub(super) use self::export::page;
pub(super) use self::import::import;
