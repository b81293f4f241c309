//! Which users' files and processes are trusted.

#[cfg(all(unix, feature = "serve"))]
pub(crate) use self::unix::alterability;
#[cfg(unix)]
pub(crate) use self::unix::{data_file_exposure, exposure, open_verified, owner_of, trusted_by_me};

/// Whether a process of user `me` that works on a data file of `owner` trusts user `uid`. Trusted
/// are `me`, the owner and root.
#[cfg(unix)]
fn is_trusted(uid: u32, me: u32, owner: Option<u32>) -> bool {
    const ROOT: u32 = 0;
    uid == me || uid == ROOT || owner == Some(uid)
}

#[cfg(unix)]
mod unix {
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::is_trusted;
    use crate::sys::shell::quoted;

    /// The owner of the file at `path`, if only that user or root can have created it there.
    pub(crate) fn owner_of(path: &Path) -> Option<u32> {
        let path = std::fs::canonicalize(path).ok()?;
        let owner = std::fs::metadata(&path).ok()?.uid();
        let dir = std::fs::metadata(path.parent()?).ok()?;
        let mode = dir.permissions().mode();
        keeps_others_out(dir.uid(), mode, owner).then_some(owner)
    }

    /// Whether only `owner`, root and users permitted by them can create files in a directory.
    fn keeps_others_out(dir_owner: u32, mode: u32, owner: u32) -> bool {
        (dir_owner == 0 || dir_owner == owner) && mode & 0o002 == 0
    }

    /// Whether this process, which works on a data file of `owner`, trusts a user.
    pub(crate) fn trusted_by_me(uid: u32, owner: Option<u32>) -> bool {
        is_trusted(uid, rustix::process::geteuid().as_raw(), owner)
    }

    /// Opens a file or a pipe once `verify` has accepted it, and the link to it if there is one.
    pub(crate) fn open_verified<E>(
        path: &Path,
        verify: impl Fn(&Metadata) -> Result<(), E>,
        failed: impl Fn(io::Error) -> E,
    ) -> Result<File, E> {
        let link = std::fs::symlink_metadata(path).map_err(&failed)?;
        if link.is_symlink() {
            verify(&link)?;
        }
        // Checked first, because opening a pipe waits for its other side.
        let found = std::fs::metadata(path).map_err(&failed)?;
        if found.file_type().is_fifo() {
            verify(&found)?;
        } else if !found.is_file() {
            let problem = "it is neither a file nor a pipe";
            return Err(failed(io::Error::other(problem)));
        }
        let file = File::open(path).map_err(&failed)?;
        verify(&file.metadata().map_err(&failed)?)?;
        Ok(file)
    }

    /// The reason why a file is not private, and its remedy.
    pub(crate) struct Exposure {
        /// The problem: other users can read or change the file.
        pub(crate) problem: String,
        /// The command that fixes it.
        pub(crate) command: String,
    }

    /// Checks that a file, pipe or symbolic link is private. Returns `None` if it is. `owner` owns
    /// the data file it belongs to.
    ///
    /// A process that does not run as root also accepts a group-readable file owned by root, as
    /// service managers provide.
    pub(crate) fn exposure(path: &Path, file: &Metadata, owner: Option<u32>) -> Option<Exposure> {
        exposure_of(Content::Secret, path, file, owner)
    }

    /// Like [`exposure`], for a file that everybody may read and only trusted users may change.
    #[cfg(feature = "serve")]
    pub(crate) fn alterability(
        path: &Path,
        file: &Metadata,
        owner: Option<u32>,
    ) -> Option<Exposure> {
        exposure_of(Content::Public, path, file, owner)
    }

    fn exposure_of(
        content: Content,
        path: &Path,
        file: &Metadata,
        owner: Option<u32>,
    ) -> Option<Exposure> {
        let me = rustix::process::geteuid().as_raw();
        let mode = file.permissions().mode() & 0o777;
        let kind = kind_of(file);
        let (problem, command) = exposure_by_mode(content, kind, file.uid(), mode, me, owner)?;
        let path = quoted(&path.display().to_string());
        let command = format!("{command} {path}");
        Some(Exposure { problem, command })
    }

    /// Like [`exposure`], for the data file itself. Root may open files of other users, unless a
    /// third user can have created them.
    pub(crate) fn data_file_exposure(path: &Path, file: &Metadata) -> Option<Exposure> {
        let is_root = rustix::process::geteuid().is_root();
        let owner = if is_root { owner_of(path) } else { None };
        exposure(path, file, owner)
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Content {
        Secret,
        #[cfg(feature = "serve")]
        Public,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        File,
        Link,
        /// A pipe, a device or a socket.
        Other,
    }

    fn kind_of(file: &Metadata) -> Kind {
        match file.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        }
    }

    fn exposure_by_mode(
        content: Content,
        kind: Kind,
        uid: u32,
        mode: u32,
        me: u32,
        owner: Option<u32>,
    ) -> Option<(String, String)> {
        let is_handed_over = uid == 0 && me != 0;
        let (forbidden, access, remedy) = match (kind, content) {
            // Only its owner can change a link, whatever its mode.
            (Kind::Link, _) => (0, "", ""),
            #[cfg(feature = "serve")]
            (_, Content::Public) => (0o022, "change", "chmod go-w"),
            _ if is_handed_over => (0o037, "read or change", "chmod 600"),
            _ => (0o077, "read or change", "chmod 600"),
        };
        if !is_trusted(uid, me, owner) {
            let (what, command) = match kind {
                Kind::File => ("it", format!("chown {me}")),
                Kind::Link => ("the link", "ls -l".to_owned()),
                Kind::Other => ("it", "ls -l".to_owned()),
            };
            let problem = format!("{what} belongs to user {uid}, and this process is of user {me}");
            Some((problem, command))
        } else if mode & forbidden != 0 {
            let problem = format!("other users may {access} it (mode {mode:03o})");
            Some((problem, remedy.to_owned()))
        } else {
            None
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const ROOT: u32 = 0;
        const ALICE: u32 = 1_000;
        const MALLORY: u32 = 1_001;

        #[test]
        fn strangers_are_not_trusted_and_root_does_not_trust_users() {
            for (uid, me, owner, expected) in [
                (ALICE, ALICE, Some(ALICE), true),
                (ALICE, ALICE, None, true),
                (ROOT, ALICE, Some(ALICE), true),
                (ROOT, ROOT, None, true),
                (ALICE, ROOT, Some(ALICE), true),
                (ALICE, ROOT, Some(ROOT), false),
                (MALLORY, ROOT, Some(ALICE), false),
                (MALLORY, ROOT, None, false),
                (MALLORY, ALICE, Some(ALICE), false),
                (MALLORY, ALICE, Some(ROOT), false),
                (ALICE, MALLORY, Some(ALICE), true),
            ] {
                let trusted = is_trusted(uid, me, owner);
                assert_eq!(trusted, expected, "{uid} by {me} for a file of {owner:?}");
            }
        }

        #[test]
        fn owner_is_known_only_in_private_directories() {
            for (dir_owner, mode, expected) in [
                (ALICE, 0o700, true),
                (ROOT, 0o755, true),
                (ROOT, 0o770, true),
                (ROOT, 0o1777, false),
                (ALICE, 0o777, false),
                (MALLORY, 0o700, false),
            ] {
                let found = keeps_others_out(dir_owner, mode, ALICE);
                assert_eq!(found, expected, "{mode:o} of {dir_owner}");
            }
        }

        #[test]
        fn only_private_files_of_trusted_users_pass() {
            for (uid, mode, me, owner, expected) in [
                (ALICE, 0o600, ALICE, None, None),
                (ALICE, 0o400, ALICE, Some(ALICE), None),
                (ALICE, 0o640, ALICE, None, Some("chmod 600")),
                (ALICE, 0o604, ALICE, None, Some("chmod 600")),
                (ALICE, 0o620, ALICE, None, Some("chmod 600")),
                (ALICE, 0o602, ALICE, None, Some("chmod 600")),
                (ROOT, 0o640, ROOT, None, Some("chmod 600")),
                // systemd and Kubernetes provide secrets in this way.
                (ROOT, 0o440, ALICE, None, None),
                (ROOT, 0o640, ALICE, None, None),
                (ROOT, 0o644, ALICE, None, Some("chmod 600")),
                (ROOT, 0o660, ALICE, None, Some("chmod 600")),
                (ALICE, 0o600, ROOT, Some(ALICE), None),
                (ALICE, 0o600, ROOT, None, Some("chown 0")),
                (MALLORY, 0o600, ROOT, Some(ALICE), Some("chown 0")),
                (MALLORY, 0o600, ALICE, Some(ALICE), Some("chown 1000")),
            ] {
                let found = exposure_by_mode(Content::Secret, Kind::File, uid, mode, me, owner);
                let command = found.map(|(_, command)| command);
                assert_eq!(
                    command.as_deref(),
                    expected,
                    "{mode:o} of {uid} read by {me}"
                );
            }
        }

        #[cfg(feature = "serve")]
        #[test]
        fn public_files_may_be_read_and_not_changed() {
            for (uid, mode, me, owner, expected) in [
                (ALICE, 0o644, ALICE, None, None),
                (ROOT, 0o444, ALICE, None, None),
                (ALICE, 0o644, ROOT, Some(ALICE), None),
                (ALICE, 0o664, ALICE, None, Some("chmod go-w")),
                (ALICE, 0o646, ALICE, None, Some("chmod go-w")),
                (ROOT, 0o664, ALICE, None, Some("chmod go-w")),
                (MALLORY, 0o644, ALICE, Some(ALICE), Some("chown 1000")),
                (MALLORY, 0o644, ROOT, None, Some("chown 0")),
            ] {
                let found = exposure_by_mode(Content::Public, Kind::File, uid, mode, me, owner);
                let command = found.map(|(_, command)| command);
                assert_eq!(
                    command.as_deref(),
                    expected,
                    "{mode:o} of {uid} read by {me}"
                );
            }
        }

        #[test]
        fn links_and_pipes_must_belong_to_trusted_users() {
            for (kind, uid, mode, expected) in [
                (Kind::Link, ALICE, 0o777, None),
                (Kind::Link, ROOT, 0o777, None),
                (Kind::Link, MALLORY, 0o777, Some("ls -l")),
                (Kind::Other, ALICE, 0o600, None),
                (Kind::Other, ALICE, 0o622, Some("chmod 600")),
                (Kind::Other, MALLORY, 0o600, Some("ls -l")),
            ] {
                let found = exposure_by_mode(Content::Secret, kind, uid, mode, ALICE, Some(ALICE));
                let command = found.map(|(_, command)| command);
                assert_eq!(command.as_deref(), expected, "{kind:?} {mode:o} of {uid}");
            }
        }
    }
}
