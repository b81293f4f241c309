//! Detects that the path of a data file no longer leads to the open file.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::store::FileSpace;
use crate::sys::DiskSpace;

/// The identity of an open file, and its path.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    /// The device and the inode; `None` on systems without them.
    file: Option<(u64, u64)>,
}

impl Identity {
    pub(super) fn new(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self {
            // Independent of the current directory of the process.
            path: std::path::absolute(path)?,
            file: numbers(&file.metadata()?),
        })
    }

    /// Fails with the problem if the path leads to another file or to none: what is then written to the
    /// open file would be lost.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.file.is_none() {
            return Ok(());
        }
        match std::fs::metadata(&self.path) {
            Ok(found) if numbers(&found) == self.file => Ok(()),
            Ok(_) => Err("another file has replaced the data file; \
                restore the data file, or restart to use the other one"
                .into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err("the data file was deleted or moved away; put it back, or restart".into())
            }
            Err(error) => Err(format!("the data file cannot be accessed: {error}")),
        }
    }

    /// Returns the length of the file and the space on its disk; `None` if the path leads to no file.
    pub(super) fn file_space(&self) -> Option<FileSpace> {
        Some(FileSpace {
            len: std::fs::metadata(&self.path).ok()?.len(),
            disk: DiskSpace::of(&self.path).ok(),
        })
    }
}

#[cfg(unix)]
fn numbers(metadata: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;

    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn numbers(_: &std::fs::Metadata) -> Option<(u64, u64)> {
    None
}
