//! Atomic creation of private files.

#[cfg(unix)]
use std::fs::TryLockError;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The start and the end of temporary names.
const PREFIX: &str = ".keyguard-";
const SUFFIX: &str = ".new";

/// A temporary file with mode 0600 and a random name, in the directory of its target. Dropping it
/// removes the temporary name. It is locked (on Unix, as by `flock`), to tell it from that of a killed process.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    path: PathBuf,
    file: File,
}

impl AtomicFile {
    /// Creates a file, after it has removed those of killed processes in that directory.
    pub(crate) fn new(target: &Path) -> io::Result<Self> {
        Self::remove_abandoned(target);
        loop {
            let new = Self::create(target)?;
            // Otherwise another process has taken it for abandoned.
            if new.lock()? {
                return Ok(new);
            }
        }
    }

    fn create(target: &Path) -> io::Result<Self> {
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

    /// Locks the file. Returns whether it still has its name.
    #[cfg(unix)]
    fn lock(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;

        match self.file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(false),
            // A file system without locks, where nothing is taken for abandoned.
            Err(TryLockError::Error(_)) => Ok(true),
            Ok(()) => Ok(self.file.metadata()?.nlink() > 0),
        }
    }

    #[cfg(not(unix))]
    fn lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Removes the temporary files of killed processes in the directory of a target, as far as that is possible.
    #[cfg(unix)]
    fn remove_abandoned(target: &Path) {
        let Ok(files) = fs::read_dir(directory_of(target)) else {
            return;
        };
        for file in files.flatten() {
            let is_temporary = file
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            if is_temporary && file.file_type().is_ok_and(|kind| kind.is_file()) {
                let _ = remove_if_abandoned(&file.path());
            }
        }
    }

    #[cfg(not(unix))]
    fn remove_abandoned(_: &Path) {}

    /// Gives the file to the owner of its directory, if this process is of root.
    #[cfg(unix)]
    pub(crate) fn give_to_owner_of_directory(&self) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, fchown};

        let owner = fs::metadata(directory_of(&self.path))?;
        match rustix::process::geteuid().is_root() && owner.uid() != 0 {
            true => fchown(&self.file, Some(owner.uid()), Some(owner.gid())),
            false => Ok(()),
        }
    }

    #[cfg(not(unix))]
    pub(crate) fn give_to_owner_of_directory(&self) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the file and publishes it under the target name.
    ///
    /// Fails with [`io::ErrorKind::AlreadyExists`] if the target exists, which is left unchanged.
    pub(crate) fn take_name(&self, target: &Path) -> io::Result<()> {
        self.name_in(&Directory::of(target)?, || {
            match fs::hard_link(&self.path, target) {
                // On such file systems two processes can both pass this check; the later rename
                // wins.
                Err(error) if no_hard_links(&error) => match target.try_exists()? {
                    true => Err(io::ErrorKind::AlreadyExists.into()),
                    false => fs::rename(&self.path, target),
                },
                linked => linked,
            }
        })
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
        self.name_in(&Directory::of(target)?, || fs::rename(&self.path, target))
    }

    /// Syncs the file, gives it its name and syncs the directory.
    fn name_in(
        &self,
        directory: &Directory,
        give_name: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        self.file.sync_all()?;
        give_name()?;
        let synced = directory.sync();
        synced.map_err(|error| io::Error::other(NotSynced(error)))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // A rename has already removed it; a leftover is harmless.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use rustix::fs::OFlags;

    let mut options = OpenOptions::new();
    // Another user may have put anything else in its place meanwhile.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    // A file that has got its name needs no other one.
    let is_complete = file.metadata()?.nlink() > 1;
    match is_complete || file.try_lock().is_ok() {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// The errors of FAT, some network file systems and some sandboxes.
fn no_hard_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied | io::ErrorKind::TooManyLinks
    )
}

/// A file has its name, but the directory could not be synced.
#[derive(Debug, thiserror::Error)]
#[error("the file is there, but its directory cannot be synced: {0}")]
struct NotSynced(io::Error);

/// Says for an error of [`AtomicFile`] whether the file has its name.
pub(crate) fn write_outcome(error: &io::Error) -> &'static str {
    match error.get_ref().is_some_and(|inner| inner.is::<NotSynced>()) {
        true => "was written, but a power cut may undo that",
        false => "was not written",
    }
}

/// The directory of a file, opened before the file gets its name: without the right to read the directory, it
/// could not be synced.
#[cfg(unix)]
struct Directory(File);

#[cfg(unix)]
impl Directory {
    fn of(file: &Path) -> io::Result<Self> {
        File::open(directory_of(file)).map(Self)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(not(unix))]
struct Directory;

#[cfg(not(unix))]
impl Directory {
    fn of(_: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| parent.as_os_str() != "");
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::symlink;

    use keyguard_test_support::names_in;

    use super::*;

    #[test]
    fn only_temporary_files_that_no_process_holds_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let held = AtomicFile::new(&target).unwrap();
        for name in [
            ".keyguard-1.new",
            ".keyguard-1.new2",
            "keyguard-1.new",
            "target",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        symlink(&target, dir.path().join(".keyguard-2.new")).unwrap();
        fs::create_dir(dir.path().join(".keyguard-3.new")).unwrap();
        let complete = AtomicFile::new(&target).unwrap();
        complete.take_name(&dir.path().join("complete")).unwrap();
        assert!(complete.path.exists());
        AtomicFile::remove_abandoned(&target);
        let kept = [
            ".keyguard-1.new2",
            ".keyguard-2.new",
            ".keyguard-3.new",
            "complete",
            "keyguard-1.new",
            "target",
        ];
        let mut expected: Vec<_> = kept.map(str::to_owned).into();
        expected.push(held.path.file_name().unwrap().to_str().unwrap().to_owned());
        expected.sort();
        assert_eq!(names_in(dir.path()), expected);

        drop(held);
        let abandoned = AtomicFile::new(&target).unwrap();
        fs::write(&abandoned.path, "partly").unwrap();
        // As at the end of the process.
        abandoned.file.unlock().unwrap();
        AtomicFile::remove_abandoned(&target);
        assert_eq!(names_in(dir.path()), kept);
    }

    #[test]
    fn error_says_whether_the_file_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let new = AtomicFile::new(&target).unwrap();
        // Syncing this device fails.
        let directory = Directory(File::open("/dev/null").unwrap());
        let error = new
            .name_in(&directory, || fs::rename(&new.path, &target))
            .unwrap_err();
        assert!(target.exists());
        assert_eq!(
            write_outcome(&error),
            "was written, but a power cut may undo that"
        );
        let problem = "the file is there, but its directory cannot be synced: ";
        assert!(error.to_string().starts_with(problem), "{error}");

        let new = AtomicFile::new(&target).unwrap();
        let error = new.take_name(&target).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(write_outcome(&error), "was not written");
    }

    #[test]
    fn file_that_was_taken_for_abandoned_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let new = AtomicFile::create(&target).unwrap();
        let other = File::open(&new.path).unwrap();
        other.lock().unwrap();
        assert!(!new.lock().unwrap(), "being removed");
        fs::remove_file(&new.path).unwrap();
        drop(other);
        assert!(!new.lock().unwrap(), "removed");
        let new = AtomicFile::create(&target).unwrap();
        assert!(new.lock().unwrap());
    }
}
