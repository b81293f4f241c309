//! Atomic creation of private files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The start and the end of temporary names.
const PREFIX: &str = ".keyguard-";
const SUFFIX: &str = ".new";

#[cfg(feature = "serve")]
const ABANDONED_AFTER: std::time::Duration = std::time::Duration::from_secs(86_400);

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
        let name = format!("{PREFIX}{:016x}{SUFFIX}", u64::from_le_bytes(random));
        let path = target.with_file_name(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    /// Removes the temporary files of killed processes in a directory: those that were not written for a day.
    #[cfg(feature = "serve")]
    pub(crate) fn remove_abandoned(dir: &Path, now: std::time::SystemTime) -> io::Result<()> {
        for file in fs::read_dir(dir)? {
            let (file, name) = file.map(|file| (file.path(), file.file_name()))?;
            let is_temporary = name
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            // Absent if another process has completed it meanwhile.
            let written = fs::metadata(&file).and_then(|found| found.modified());
            let age = written.map(|written| now.duration_since(written).unwrap_or_default());
            if is_temporary && age.is_ok_and(|age| age > ABANDONED_AFTER) {
                fs::remove_file(&file)?;
            }
        }
        Ok(())
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

    /// Syncs the file and puts it in the place of the target, with the owner of that file.
    pub(crate) fn replace(&self, target: &Path) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};

            let (ours, theirs) = (self.file.metadata()?, fs::metadata(target)?);
            if (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
                fchown(&self.file, Some(theirs.uid()), Some(theirs.gid()))?;
            }
        }
        self.put(target)
    }

    /// Syncs the file and puts it in the place of the target, if there is one, with this mode.
    #[cfg(feature = "cli")]
    pub(crate) fn publish(&self, target: &Path, mode: u32) -> io::Result<()> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;

            self.file
                .set_permissions(fs::Permissions::from_mode(mode))?;
        }
        #[cfg(not(unix))]
        let _ = mode;
        self.put(target)
    }

    fn put(&self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
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
