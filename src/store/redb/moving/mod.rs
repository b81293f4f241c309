//! Moving to and from another store.

mod adopt;
mod parcel;

pub(super) use self::adopt::{adopt, has_room_for};
pub(super) use self::parcel::parcel;
