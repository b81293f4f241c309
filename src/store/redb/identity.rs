//! Whether the name of a data file still leads to the file that is open.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A file that was opened under a name.
#[derive(Debug)]
pub(super) struct Identity {
    path: PathBuf,
    /// Its device and inode; `None` where the system has none.
    file: Option<(u64, u64)>,
}

impl Identity {
    pub(super) fn new(path: &Path, file: &File) -> io::Result<Self> {
        Ok(Self {
            // So that it stays the same when the process changes its directory.
            path: std::path::absolute(path)?,
            file: numbers(&file.metadata()?),
        })
    }

    /// Fails with what is wrong if the name leads to another file, or to none: what is written to the
    /// open one is then lost to whoever opens the name.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.file.is_none() {
            return Ok(());
        }
        match std::fs::metadata(&self.path) {
            Ok(found) if numbers(&found) == self.file => Ok(()),
            Ok(_) => Err("another file is in the place of the data file; \
                put the data file back, or restart to use the other one"
                .into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err("the data file was deleted or moved away; put it back, or restart".into())
            }
            Err(error) => Err(format!(
                "the data file cannot be found under its name: {error}"
            )),
        }
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
