//! Why a data file was not opened.

use std::io;
use std::path::PathBuf;

use crate::input::InvalidInput;
use crate::policy::InvalidPolicy;

/// Why a data file was not opened. Its bytes are then as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path leads to something that holds no bytes of its own.
    #[error(
        "`{}` is a directory or a device, but a data file is a regular file; \
         give the path of one, or of none to create it",
        path.display()
    )]
    NotAFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file has no bytes, which a data file always has.
    #[error(
        "`{}` is empty, but a data file never is; \
         restore it from a backup, or remove it to create a new one",
        path.display()
    )]
    Empty {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file was made by something else.
    #[error(
        "`{}` is not a data file of keyguard but something else, and was left as it is; \
         give another path",
        path.display()
    )]
    NotADataFile {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file is an SQLite database, as the Python package of this name, kept.
    #[error(
        "`{0}` is an SQLite database, not a data file of keyguard, and was left as it is; \
         take over what the Python package kept in it by \
         `keyguard --db NEW.redb import --from 'sqlite:{0}'`",
        path.display()
    )]
    SqliteDatabase {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The file was written by a newer version of this crate.
    #[error(
        "`{}` has format {found}, but this version of keyguard reads format {supported}; \
         use the version that wrote it, or a newer one",
        path.display()
    )]
    NewerFormat {
        /// What was to be opened.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The file was written by an older version of this crate, whose format this one does not read.
    #[error(
        "`{}` has format {found}, but this version of keyguard reads format {supported}; \
         use the version that wrote it, or give the path of a new file",
        path.display()
    )]
    OlderFormat {
        /// What was to be opened.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The file was made with another secret.
    #[error(
        "`{}` was made with another secret, under which its keys are hashed; \
         give the secret it was made with",
        path.display()
    )]
    WrongSecret {
        /// What was to be opened.
        path: PathBuf,
    },
    /// Another process, or another part of this one, holds the file.
    #[error(
        "`{}` is already open by {}, and a data file is held by one opener at a time; \
         stop that process, or share the one `KeyGuard` by cloning it",
        path.display(),
        holder.as_ref().map_or("another process".into(), |holder| format!("process {holder}"))
    )]
    InUse {
        /// What was to be opened.
        path: PathBuf,
        /// The id and the name of the process, where the system tells.
        holder: Option<String>,
    },
    /// The policy file cannot be read, or says what cannot be accepted.
    #[error("the policy cannot be accepted: {0}")]
    Policy(#[source] InvalidPolicy),
    /// This user has something else at the path of the socket through which the file is managed.
    #[error(
        "the socket beside `{}` cannot be made; remove what is in its place, or do without it by \
         `Config::socket(false)`",
        path.display()
    )]
    Socket {
        /// The data file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file, its directory or its disk does not let this user write.
    #[error(
        "`{}` may not be read and written by this user, which a data file needs; \
         change its owner, its mode or that of its directory, or a read-only disk",
        path.display()
    )]
    ReadOnly {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is a data file, but no secret for it.
    #[error(
        "`{}` exists, but its secret was given neither in the configuration, nor in the variable \
         KEYGUARD_SECRET, nor in `{}`; give the secret it was made with",
        path.display(),
        secret_file.display()
    )]
    MissingSecret {
        /// The data file.
        path: PathBuf,
        /// Where the secret was looked for last.
        secret_file: PathBuf,
    },
    /// The secret is empty or nothing but white space.
    #[error(
        "the secret in {place} is blank, but keys are hashed under it; give the one that the data \
         file was made with, or for a new one a text that nobody can guess"
    )]
    BlankSecret {
        /// Where it was found.
        place: String,
    },
    /// The file of the secret cannot be read or made.
    #[error("the secret in `{}` cannot be read or made; check the file and its directory", path.display())]
    SecretFile {
        /// The file of the secret.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users may read or change the file of the secret.
    #[error("the secret in `{}` is refused: {problem}; run `{command}`", path.display())]
    ExposedSecret {
        /// The file of the secret.
        path: PathBuf,
        /// Its mode, or its owner.
        problem: String,
        /// What to type to make it private.
        command: String,
    },
    /// The path is a symbolic link to a file that is not there.
    #[error(
        "`{}` is a symbolic link to `{}`, and there is no file; create it by its own path, or remove \
         the link",
        path.display(),
        target.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it leads to.
        target: PathBuf,
    },
    /// A value in the configuration cannot be accepted.
    #[error("the configuration cannot be accepted: {0}")]
    Config(InvalidInput),
    /// The path is a URL, or is written like one, and not that of a PostgreSQL database.
    #[error(
        "{} names no data file and no PostgreSQL database; give a path (`./NAME` for a file with a \
         colon in its name) or a URL such as `postgres://USER@HOST/DATABASE`",
        scheme.as_ref().map_or("what is given".to_owned(), |scheme| format!("a URL of `{scheme}:`"))
    )]
    UnknownUrl {
        /// The scheme of the URL, where it has one. The rest may hold a password and is not kept.
        scheme: Option<String>,
    },
    /// A URL leads to a backend that was not compiled in.
    #[error(
        "`{scheme}:` needs the cargo feature `{feature}` of keyguard, which this build is without; \
         compile it in, or give no such URL"
    )]
    MissingFeature {
        /// The scheme of the URL.
        scheme: String,
        /// The feature to compile in.
        feature: &'static str,
    },
    /// A server that keys or limits are kept in cannot be used as it is.
    #[error("{server} cannot be used: {problem}")]
    Server {
        /// Which server.
        server: &'static str,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The file is a data file, but not as it was written.
    ///
    /// Every 4 KiB of it carry a checksum, which is looked at when they are read. Opening reads
    /// only what it needs; what is altered elsewhere is found later, and fails only what reads
    /// it. The checksums are against failing disks and mistakes, not
    /// against somebody who may write the file and makes them fit: there, the database underneath
    /// may panic. Such a panic is caught and reported as this error, but the hook for panics still
    /// prints it, and a second one while it unwinds ends the process.
    #[error("`{}` is damaged, and was left as it is; restore it from a backup", path.display())]
    Damaged {
        /// What was to be opened.
        path: PathBuf,
        /// What was found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The system could not open or create the file.
    #[error("`{}` cannot be opened or created; check that its directory exists", path.display())]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
