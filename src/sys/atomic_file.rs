//! Atomic creation of private files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// A temporary file with mode 0600 and a random name, in the directory of its target. Dropping it
/// removes the temporary name.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    file: File,
}

impl AtomicFile {
    pub(crate) fn new(target: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!(".keyguard-{:016x}.new", u64::from_le_bytes(random));
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and publishes it under the target name.
    ///
    /// Fails with [`io::ErrorKind::AlreadyExists`] if the target exists, which is left unchanged.
    pub(crate) fn take_name(&self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        match fs::hard_link(&self.path, target) {
            Err(error) if no_hard_links(&error) => {
                // On such file systems two processes can both pass this check; the later rename
                // wins.
                if target.try_exists()? {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                fs::rename(&self.path, target)?;
            }
            linked => linked?,
        }
        sync_directory_of(target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // A rename has already removed it; a leftover is harmless.
        let _ = fs::remove_file(&self.path);
    }
}

/// The errors of FAT, some network file systems and some sandboxes.
fn no_hard_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::TooManyLinks
    )
}

#[cfg(unix)]
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| parent.as_os_str() != "");
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory_of(_: &Path) -> io::Result<()> {
    Ok(())
}
