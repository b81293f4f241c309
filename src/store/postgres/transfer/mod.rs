//! Moving to and from another store.

mod counts;
mod export;
mod import;
mod room;

pub(super) use self::export::page;
pub(super) use self::import::import;
pub(super) use self::room::has_room_for;
