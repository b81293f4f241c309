//! The error of opening a guard.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::with_causes;
use crate::input::InvalidInput;
use crate::policy::InvalidPolicy;
use crate::sys::write_outcome;

/// Why a guard could not be opened. An existing data file is not changed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path leads to a directory or a device.
    #[error(
        "`{}` is a directory or a device, not a regular file; \
         give the path of a data file, or a new path to create one",
        path.display()
    )]
    #[non_exhaustive]
    NotAFile {
        /// The path to open.
        path: PathBuf,
    },
    /// The file is empty and therefore not a data file.
    #[error(
        "`{}` is empty and therefore not a data file; \
         restore it from a backup, or remove it to create a new one",
        path.display()
    )]
    #[non_exhaustive]
    Empty {
        /// The path to open.
        path: PathBuf,
    },
    /// The file was written by another program.
    #[error(
        "`{}` is not a data file of keyguard and was not changed; give another path",
        path.display()
    )]
    #[non_exhaustive]
    NotADataFile {
        /// The path to open.
        path: PathBuf,
    },
    /// A database was given to an operation that works on data files.
    #[error(
        "copies, verification and compaction are for data files, but `{}` is a database; use the tools of \
         PostgreSQL, such as `pg_dump` and `pg_restore`",
        storage.display()
    )]
    #[non_exhaustive]
    IsDatabase {
        /// The kind of the database, without its URL.
        storage: PathBuf,
    },
    /// The file is an SQLite database, like those of the Python package of this name.
    #[error(
        "`{0}` is an SQLite database, not a data file of keyguard, and was not changed; to import a \
         database of the Python package, run `keyguard --db NEW.redb import --from 'sqlite:{0}'`",
        path.display()
    )]
    #[non_exhaustive]
    SqliteDatabase {
        /// The path to open.
        path: PathBuf,
    },
    /// The file was written by a newer version of this crate.
    #[error(
        "`{}` has format {found}, but this version of keyguard reads format {supported}; \
         use the version that wrote it, or a newer one",
        path.display()
    )]
    #[non_exhaustive]
    NewerFormat {
        /// The path to open.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The file was written by an older version of this crate, in a format that this version does not
    /// read.
    #[error(
        "`{}` has format {found}, but this version of keyguard reads format {supported}; \
         use the version that wrote it, or give the path of a new file",
        path.display()
    )]
    #[non_exhaustive]
    OlderFormat {
        /// The path to open.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The format that this version reads.
        supported: u32,
    },
    /// The file was created with another secret.
    #[error(
        "`{}` was created with another secret; give that secret (keys are hashed under it)",
        path.display()
    )]
    #[non_exhaustive]
    WrongSecret {
        /// The path to open.
        path: PathBuf,
    },
    /// Another process, or another part of this one, has the file open.
    #[error(
        "`{}` is already open by {}, and a data file can be opened only once at a time; \
         stop that process, or use another file (within a process, clone the open `KeyGuard`)",
        path.display(),
        holder.as_ref().map_or("another process".into(), |holder| format!("process {holder}"))
    )]
    #[non_exhaustive]
    InUse {
        /// The path to open.
        path: PathBuf,
        /// The id and the name of the process, if known.
        holder: Option<String>,
    },
    /// The policy file cannot be read or is invalid.
    #[error("invalid policy: {0}")]
    Policy(InvalidPolicy),
    /// Another file is in the place of the socket through which the data file is managed.
    #[error(
        "the socket beside `{}` cannot be created; remove the file in its place, or disable the socket \
         by `Config::socket(false)`",
        path.display()
    )]
    #[non_exhaustive]
    Socket {
        /// The data file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The file, its directory or its disk is not writable by this user.
    #[error(
        "this user has no permission to read and write `{}`; \
         change its owner or mode, or those of its directory, or use a writable disk",
        path.display()
    )]
    #[non_exhaustive]
    ReadOnly {
        /// The path to open.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The data file exists, but no secret is given for it.
    #[error(
        "`{}` exists, but its secret was given neither in the configuration, nor in the variable \
         KEYGUARD_SECRET, nor in `{}`; give the secret it was created with",
        path.display(),
        secret_file.display()
    )]
    #[non_exhaustive]
    MissingSecret {
        /// The data file.
        path: PathBuf,
        /// The file beside the data file that may hold the secret.
        secret_file: PathBuf,
    },
    /// The secret is empty or only white space.
    #[error(
        "the secret in {origin} is blank; give the secret that the data file was created with, or for a \
         new file at least 32 random bytes (`openssl rand -hex 32`)"
    )]
    #[non_exhaustive]
    BlankSecret {
        /// Where the secret was found.
        origin: String,
    },
    /// The file of the secret cannot be read or created.
    #[error("the secret file `{}` cannot be read or created; check the file and its directory", path.display())]
    #[non_exhaustive]
    SecretFile {
        /// The file of the secret.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Other users may read or change the file of the secret.
    #[error("the secret in `{}` is refused: {problem}; run `{command}`", path.display())]
    #[non_exhaustive]
    ExposedSecret {
        /// The file of the secret.
        path: PathBuf,
        /// The mode or the owner that exposes it.
        problem: String,
        /// The command that makes it private.
        command: String,
    },
    /// The path is a symbolic link to a file that does not exist.
    #[error(
        "`{}` is a symbolic link to `{}`, which does not exist; create that file by its own path, or \
         remove the link",
        path.display(),
        target.display()
    )]
    #[non_exhaustive]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// The target of the link.
        target: PathBuf,
    },
    /// A value in the configuration is invalid.
    #[error("invalid configuration: {0}")]
    Config(InvalidInput),
    /// The path is a URL, or looks like one, but not of a PostgreSQL database.
    #[error(
        "{} is neither a data file nor a PostgreSQL database; give a path (`./NAME` for a file with a \
         colon in its name) or a URL such as `postgres://USER@HOST/DATABASE`",
        scheme.as_ref().map_or("the given URL".to_owned(), |scheme| format!("a URL of `{scheme}:`"))
    )]
    #[non_exhaustive]
    UnknownUrl {
        /// The scheme of the URL, if it has one. The rest may contain a password and is omitted.
        scheme: Option<String>,
    },
    /// The URL needs a backend that is not compiled in.
    #[error(
        "URLs of `{scheme}:` need the cargo feature `{feature}` of keyguard; enable it, or give another \
         URL"
    )]
    #[non_exhaustive]
    MissingFeature {
        /// The scheme of the URL.
        scheme: String,
        /// The feature to compile in.
        feature: &'static str,
    },
    /// The server of a backend cannot be used.
    #[error("{server} cannot be used: {problem}")]
    #[non_exhaustive]
    Server {
        /// The kind of server.
        server: &'static str,
        /// The problem, and what to do.
        problem: String,
    },
    /// The data file was altered.
    ///
    /// Every 4 KiB have a checksum, which is verified when they are read. Opening reads only what it
    /// needs. Other altered blocks are detected later, and fail only what reads them.
    ///
    /// The checksums detect failing disks and mistakes, not forgery. With forged checksums the database
    /// may panic. Such a panic is caught and reported as this error, but the panic hook still prints it,
    /// and a second panic while unwinding aborts the process.
    #[error("`{}` is damaged and was not changed; restore it from a backup", path.display())]
    #[non_exhaustive]
    Damaged {
        /// The path to open.
        path: PathBuf,
        /// What is damaged.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A copy of a data file could not be written. Nothing is left at its path, unless only its directory could not
    /// be synced, which the text says.
    #[error("`{}` {}", path.display(), write_outcome(source))]
    #[non_exhaustive]
    NotWritten {
        /// The path of the copy.
        path: PathBuf,
        /// The problem.
        source: io::Error,
    },
    /// The file cannot be opened or created.
    #[error("`{}` cannot be opened or created; check that its directory exists", path.display())]
    #[non_exhaustive]
    Io {
        /// The path to open.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The message and its causes, which a panic and a `main` that returns the error print.
impl fmt::Debug for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}
