//! The result of verifying a data file.

use serde::{Deserialize, Serialize};

/// The damage found in a data file by [`KeyGuard::verify`](crate::KeyGuard::verify) or
/// [`Admin::verify`](crate::Admin::verify).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verification {
    /// The rows that were read, of all tables.
    pub rows: u64,
    /// The rows that cannot be read; empty for a sound file.
    pub damage: Vec<Damage>,
}

/// Rows of one table of a data file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Damage {
    /// The name of the table, such as `keys`.
    pub table: String,
    /// The number of lost rows; at most this many if `lost` has only bounds. `None` if it is unknown.
    pub rows: Option<u64>,
    /// The lost rows by name, such as `keys 3, 7 to 9`, or their bounds, such as `rows after 7 and before 9`.
    pub lost: String,
    /// The cause, such as `block 17 was altered`.
    pub problem: String,
}

impl Damage {
    /// In place of the name of a table, the pages that contain no rows.
    pub(crate) const FREE_SPACE: &str = "free space";
}

impl Verification {
    /// Whether everything in the file can be read.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}
