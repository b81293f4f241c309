//! Moving to and from another store.

mod adopt;
mod counts;
mod parcel;
mod room;

pub(super) use self::adopt::adopt;
pub(super) use self::parcel::parcel;
pub(super) use self::room::has_room_for;
