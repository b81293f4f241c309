//! The path of the socket of a data file.
//!
//! It is `<file>.sock` for the canonical path of the file. If that is too long for a socket, or the
//! directory is not writable, it is `keyguard-<hash of that path>.sock` in a directory that is private
//! to the user who holds the file: `/run/user/<uid>` if it exists, else `/tmp/keyguard-<uid>`, which is
//! created. Neither depends on the environment, so both sides find it.
//!
//! Another user may create `/tmp/keyguard-<uid>` first. Both sides ignore a directory that does not
//! belong to the user.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The maximum length of a socket's path on every system, less the suffix of its temporary name.
const LONGEST: usize = 100 - super::socket::TEMPORARY_SUFFIX.len();

/// Returns the path beside the file with this canonical path; `None` if it is too long for a socket.
pub(super) fn beside(canonical: &Path) -> Option<PathBuf> {
    let mut path = canonical.as_os_str().to_owned();
    path.push(".sock");
    (path.len() <= LONGEST).then(|| path.into())
}

/// Returns the path in a private directory of the user `uid`. Creates a directory if there is none.
pub(super) fn make_private(canonical: &Path, uid: u32) -> io::Result<PathBuf> {
    let [runtime, temporary] = private_dirs(uid);
    let dir = if verify_private(&runtime, uid).is_ok() {
        runtime
    } else {
        match DirBuilder::new().mode(0o700).create(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => verify_private(&temporary, uid)?,
        }
        temporary
    };
    Ok(dir.join(name(canonical)))
}

/// Returns the paths in the private directories of the user `uid` that exist.
#[cfg(feature = "cli")]
pub(super) fn private(canonical: &Path, uid: u32) -> impl Iterator<Item = PathBuf> {
    let name = name(canonical);
    private_dirs(uid)
        .into_iter()
        .filter(move |dir| verify_private(dir, uid).is_ok())
        .map(move |dir| dir.join(&name))
}

/// Whether the directory of a socket belongs to a trusted user and only its owner may write to it, so
/// that no other user can put a socket there.
#[cfg(feature = "cli")]
pub(super) fn is_guarded(socket: &Path, is_trusted: impl Fn(u32) -> bool) -> bool {
    let dir = socket.parent().and_then(|dir| fs::metadata(dir).ok());
    dir.is_some_and(|dir| is_trusted(dir.uid()) && dir.permissions().mode() & 0o022 == 0)
}

fn private_dirs(uid: u32) -> [PathBuf; 2] {
    [
        format!("/run/user/{uid}").into(),
        format!("/tmp/keyguard-{uid}").into(),
    ]
}

fn name(canonical: &Path) -> String {
    let hash = blake3::hash(canonical.as_os_str().as_bytes()).to_hex();
    format!("keyguard-{}.sock", &hash[..32])
}

/// Checks that `dir` is a directory, not a link, that belongs to `uid` and is closed to all other users.
fn verify_private(dir: &Path, uid: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    if found.is_dir() && found.uid() == uid && found.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let problem = format!(
        "`{}` is not a private directory of user {uid}; remove it",
        dir.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn private_directory_belongs_to_the_user() {
        let temp = tempfile::TempDir::new().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let dir = temp.path().join("dir");
        DirBuilder::new().mode(0o700).create(&dir).unwrap();
        verify_private(&dir, me).unwrap();
        verify_private(&dir, me + 1).unwrap_err();

        let link = temp.path().join("link");
        symlink(&dir, &link).unwrap();
        verify_private(&link, me).unwrap_err();
        let file = temp.path().join("file");
        fs::write(&file, "").unwrap();
        verify_private(&file, me).unwrap_err();
        verify_private(&temp.path().join("none"), me).unwrap_err();
        for mode in [0o750, 0o707, 0o710, 0o701] {
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            verify_private(&dir, me).unwrap_err();
        }
    }
}
