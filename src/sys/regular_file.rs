//! Files that are read as a whole.

use std::fs::{File, OpenOptions};
use std::io;
#[cfg(any(feature = "serve", feature = "postgres"))]
use std::io::Read;
use std::path::Path;

/// Opens a regular file for reading. Refuses pipes and devices, which may have no end or keep a reader waiting.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // Otherwise opening a pipe waits for its other side.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NONBLOCK.bits().cast_signed(),
    );
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads a regular file.
#[cfg(any(feature = "serve", feature = "postgres"))]
pub(crate) fn read_regular(path: &Path) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
