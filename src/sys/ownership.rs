//! Whose files and processes are trusted with a data file.

#[cfg(unix)]
pub(crate) use self::unix::{data_file_exposure, exposure, owner_of, trusted_by_me};

/// Whether the user `uid` is trusted by a process of the user `me` that works on a data file of
/// `owner`: `me` itself, the owner, and root.
#[cfg(unix)]
fn is_trusted(uid: u32, me: u32, owner: Option<u32>) -> bool {
    const ROOT: u32 = 0;
    uid == me || uid == ROOT || owner == Some(uid)
}

#[cfg(unix)]
mod unix {
    use std::fs::Metadata;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    use super::is_trusted;
    use crate::sys::shell::quoted;

    /// The owner of the file at `path`, if only that user and root can have put it there.
    pub(crate) fn owner_of(path: &Path) -> Option<u32> {
        let path = std::fs::canonicalize(path).ok()?;
        let owner = std::fs::metadata(&path).ok()?.uid();
        let dir = std::fs::metadata(path.parent()?).ok()?;
        let mode = dir.permissions().mode();
        keeps_others_out(dir.uid(), mode, owner).then_some(owner)
    }

    /// Whether no one but `owner` and root makes files in a directory, or those whom they let.
    fn keeps_others_out(dir_owner: u32, mode: u32, owner: u32) -> bool {
        (dir_owner == 0 || dir_owner == owner) && mode & 0o002 == 0
    }

    /// Whether a user is trusted by this process, which works on a data file of `owner`.
    pub(crate) fn trusted_by_me(uid: u32, owner: Option<u32>) -> bool {
        is_trusted(uid, rustix::process::geteuid().as_raw(), owner)
    }

    /// Why a file is not private to its owner.
    pub(crate) struct Exposure {
        /// What lets others read or change it.
        pub(crate) problem: String,
        /// What to type to end that.
        pub(crate) command: String,
    }

    /// What lets others read or change a file, a pipe or a link that should be private to its owner;
    /// `None` if nothing does. `owner` is that of the data file to which it belongs.
    ///
    /// A process that is not root's also accepts a file of root's that its group may read: services
    /// are given files so.
    pub(crate) fn exposure(path: &Path, file: &Metadata, owner: Option<u32>) -> Option<Exposure> {
        let me = rustix::process::geteuid().as_raw();
        let mode = file.permissions().mode() & 0o777;
        let (problem, command) = exposure_of(kind_of(file), file.uid(), mode, me, owner)?;
        let path = quoted(&path.display().to_string());
        let command = format!("{command} {path}");
        Some(Exposure { problem, command })
    }

    /// Like [`exposure`], of a data file itself. Root may work on those of other users, unless somebody
    /// else may have put them there.
    pub(crate) fn data_file_exposure(path: &Path, file: &Metadata) -> Option<Exposure> {
        let is_root = rustix::process::geteuid().is_root();
        let owner = if is_root { owner_of(path) } else { None };
        exposure(path, file, owner)
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

    fn exposure_of(
        kind: Kind,
        uid: u32,
        mode: u32,
        me: u32,
        owner: Option<u32>,
    ) -> Option<(String, String)> {
        let is_handed_over = uid == 0 && me != 0;
        let forbidden = match kind {
            // A link can be changed by its owner only, whatever its mode.
            Kind::Link => 0,
            _ if is_handed_over => 0o037,
            _ => 0o077,
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
            let problem = format!("other users may read or change it (mode {mode:03o})");
            Some((problem, "chmod 600".to_owned()))
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
        fn strangers_are_trusted_by_nobody_and_users_not_by_root() {
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
        fn an_owner_counts_where_nobody_else_can_make_files() {
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
        fn only_private_files_of_trusted_users_are_not_exposed() {
            for (uid, mode, me, owner, expected) in [
                (ALICE, 0o600, ALICE, None, None),
                (ALICE, 0o400, ALICE, Some(ALICE), None),
                (ALICE, 0o640, ALICE, None, Some("chmod 600")),
                (ALICE, 0o604, ALICE, None, Some("chmod 600")),
                (ALICE, 0o620, ALICE, None, Some("chmod 600")),
                (ALICE, 0o602, ALICE, None, Some("chmod 600")),
                (ROOT, 0o640, ROOT, None, Some("chmod 600")),
                // As systemd and Kubernetes hand secrets to a service.
                (ROOT, 0o440, ALICE, None, None),
                (ROOT, 0o640, ALICE, None, None),
                (ROOT, 0o644, ALICE, None, Some("chmod 600")),
                (ROOT, 0o660, ALICE, None, Some("chmod 600")),
                (ALICE, 0o600, ROOT, Some(ALICE), None),
                (ALICE, 0o600, ROOT, None, Some("chown 0")),
                (MALLORY, 0o600, ROOT, Some(ALICE), Some("chown 0")),
                (MALLORY, 0o600, ALICE, Some(ALICE), Some("chown 1000")),
            ] {
                let found =
                    exposure_of(Kind::File, uid, mode, me, owner).map(|(_, command)| command);
                assert_eq!(found.as_deref(), expected, "{mode:o} of {uid} read by {me}");
            }
        }

        #[test]
        fn links_and_pipes_are_of_trusted_users_and_pipes_private() {
            for (kind, uid, mode, expected) in [
                (Kind::Link, ALICE, 0o777, None),
                (Kind::Link, ROOT, 0o777, None),
                (Kind::Link, MALLORY, 0o777, Some("ls -l")),
                (Kind::Other, ALICE, 0o600, None),
                (Kind::Other, ALICE, 0o622, Some("chmod 600")),
                (Kind::Other, MALLORY, 0o600, Some("ls -l")),
            ] {
                let found = exposure_of(kind, uid, mode, ALICE, Some(ALICE));
                let command = found.map(|(_, command)| command);
                assert_eq!(command.as_deref(), expected, "{kind:?} {mode:o} of {uid}");
            }
        }
    }
}
