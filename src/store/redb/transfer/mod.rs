//! Export to and import from another store.

mod export;
mod import;

pub(super) use self::export::page;
pub(super) use self::import::{check, import};
