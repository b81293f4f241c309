//! Moving to and from another store.

mod export;
mod import;

pub(super) use self::export::page;
pub(super) use self::import::{has_room_for, import};
