//! Free space of file systems.

use std::path::Path;

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) struct DiskSpace {
    /// What this user may still write.
    pub(crate) available: u64,
    pub(crate) total: u64,
}

impl DiskSpace {
    /// Returns the space of the file system of a file or directory.
    #[cfg(unix)]
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self {
            available: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn of(_: &Path) -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Whether less than a tenth and less than 1 GiB is left.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) fn is_nearly_full(self) -> bool {
        self.available < self.total / 10 && self.available < 1 << 30
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_full_is_a_matter_of_share_and_size() {
        const GIB: u64 = 1 << 30;
        for (available, total, expected) in [
            (0, GIB, true),
            (GIB / 11, GIB, true),
            (GIB / 9, GIB, false),
            (2 * GIB, 1_000 * GIB, false),
            (GIB - 1, 1_000 * GIB, true),
            (0, 0, false),
        ] {
            let space = DiskSpace { available, total };
            assert_eq!(space.is_nearly_full(), expected, "{space:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn space_of_a_directory_is_known() {
        let space = DiskSpace::of(&std::env::temp_dir()).unwrap();
        assert!(space.available <= space.total && space.total > 0);
    }
}
