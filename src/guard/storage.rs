//! Where organizations and keys are stored: a data file or a database.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::model::Secret;
use crate::store::OpenError;

/// The storage of organizations and keys.
#[derive(Debug)]
pub(crate) enum Storage<'f> {
    File(Cow<'f, Path>),
    /// The URL of a database, in the form that its client accepts. It may contain a password.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(Secret),
}

impl<'f> Storage<'f> {
    /// Parses a path, which may be a URL.
    ///
    /// # Errors
    /// [`OpenError::UnknownUrl`] for other URLs, and for texts that may be mistyped URLs.
    pub(crate) fn of(path: &'f Path) -> Result<Self, OpenError> {
        let text = path.to_string_lossy();
        let text = text.trim();
        if let Some((scheme, rest)) = text.split_once("://") {
            return match is_postgres(scheme) {
                true => Ok(Self::Postgres(format!("postgresql://{rest}").into())),
                false => Err(unknown_url(Some(scheme))),
            };
        }
        match looks_like_url(text) {
            true => Err(unknown_url(None)),
            false => Ok(Self::File(path.into())),
        }
    }

    /// Resolves a symbolic link, so that a file has the same secret under every name.
    pub(crate) fn followed(self) -> Result<Self, OpenError> {
        Ok(match self {
            Self::File(path) => Self::File(followed(&path)?.into()),
            server => server,
        })
    }

    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// A name for errors, without the URL, which may contain a password.
    pub(crate) fn shown(&self) -> PathBuf {
        match self {
            Self::File(path) => path.to_path_buf(),
            Self::Postgres(_) => "postgres:".into(),
        }
    }
}

/// Whether a path is the URL of a database.
#[cfg(feature = "cli")]
pub(crate) fn is_server(path: &Path) -> bool {
    Storage::of(path).is_ok_and(|storage| storage.is_server())
}

/// Resolves a symbolic link.
pub(crate) fn followed(path: &Path) -> Result<PathBuf, OpenError> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return Ok(path.into());
    }
    fs::canonicalize(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => OpenError::DanglingLink {
            path: path.into(),
            // A relative target starts at the directory of the link.
            target: fs::read_link(path)
                .map(|target| path.with_file_name(target))
                .unwrap_or_default(),
        },
        _ => OpenError::Io {
            path: path.into(),
            source,
        },
    })
}

/// Returns a warning if other users can access a data file. Opening the file makes it private.
#[cfg(unix)]
pub(crate) fn exposure_warning(storage: &Storage<'_>) -> Option<String> {
    use crate::sys::ownership::data_file_exposure;

    let Storage::File(file) = storage else {
        return None;
    };
    let exposure = data_file_exposure(file, &fs::metadata(file).ok()?)?;
    let (file, problem, command) = (file.display(), exposure.problem, exposure.command);
    Some(format!(
        "the data file `{file}` was not private when it was opened: {problem}; run `{command}`"
    ))
}

#[cfg(not(unix))]
pub(crate) fn exposure_warning(_: &Storage<'_>) -> Option<String> {
    None
}

/// Whether a scheme is `postgres` or `postgresql`, in any case, with or without a driver of SQLAlchemy.
fn is_postgres(scheme: &str) -> bool {
    let name = scheme.split('+').next().unwrap_or_default();
    let mut known = ["postgres", "postgresql"].into_iter();
    is_scheme(scheme) && known.any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether a text is a scheme (RFC 3986 §3.1). One letter is a drive.
fn is_scheme(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    text.len() > 1 && text.as_bytes()[0].is_ascii_alphabetic() && text.bytes().all(is_allowed)
}

/// Whether a text without `://` may be a mistyped URL, such as `postgres:/user:password@host` or
/// `user:password@host`, or a connection string of libpq, JDBC or .NET. Paths that begin with `/` or `.`
/// are not URLs.
fn looks_like_url(text: &str) -> bool {
    let first = text.split('/').next().unwrap_or_default();
    let starts_with_scheme = first
        .split_once(':')
        .is_some_and(|(start, _)| is_scheme(start));
    let has_password = text
        .split_once(':')
        .is_some_and(|(_, rest)| rest.contains('@'));
    let is_explicit = text.starts_with(['/', '.']);
    starts_with_scheme || has_password && !is_explicit || is_connection_string(text)
}

/// Whether a text contains a field of a connection string: its name in any case, followed by `=`, with or
/// without blanks.
fn is_connection_string(text: &str) -> bool {
    let mut before = text.split('=').rev().skip(1);
    before.any(|before| {
        let words = before.trim_end().rsplit([' ', '\t', '\n', ';', '?', '&']);
        words.take(1).any(|name| {
            let mut known = FIELDS.iter();
            known.any(|known| name.eq_ignore_ascii_case(known))
        })
    })
}

/// The fields of connection strings that name a server or contain a password.
const FIELDS: [&str; 12] = [
    "host", "hostaddr", "server", "dbname", "database", "user", "username", "id", "uid",
    "password", "pwd", "passfile",
];

/// Shows only the scheme of a URL: the rest may contain a password.
fn unknown_url(scheme: Option<&str>) -> OpenError {
    OpenError::UnknownUrl {
        scheme: scheme.filter(|scheme| is_scheme(scheme)).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_postgresql_are_databases_with_any_driver() {
        for url in [
            "postgres://h/d",
            "postgresql://u:hunter2@h/d",
            "PostgreSQL://h/d",
            "postgresql+asyncpg://u:hunter2@h/d?sslmode=require",
            "postgres+psycopg2://h/d",
            " postgres://h/d\n",
        ] {
            let storage = Storage::of(Path::new(url)).unwrap();
            assert!(!format!("{storage:?}{:?}", storage.shown()).contains("hunter2"));
            let Storage::Postgres(url) = storage else {
                panic!("{url} is a file");
            };
            let url = String::from_utf8_lossy(url.expose()).into_owned();
            assert!(
                url.starts_with("postgresql://") && url.contains("h/d"),
                "{url}"
            );
        }
    }

    #[test]
    fn other_urls_are_rejected_and_not_shown() {
        for (url, scheme) in [
            ("mysql://u:hunter2@h/d", Some("mysql")),
            ("sqlite+aiosqlite:///hunter2.db", Some("sqlite+aiosqlite")),
            ("postgre://u:hunter2@h/d", Some("postgre")),
            ("redis://:hunter2@h", Some("redis")),
            ("\"postgres://u:hunter2@h/d\"", None),
            ("postgres:/u:hunter2@h/d", None),
            ("postgresql:u:hunter2@h/d", None),
            ("jdbc:postgresql://u:hunter2@h/d", None),
            ("u:hunter2@h/d", None),
            ("my_user:hunter2@h/d", None),
            ("host=h user=u password=hunter2", None),
            ("dbname = x password = hunter2", None),
            ("Host=h;Password=hunter2", None),
            ("Server = h; User Id = u; Pwd = hunter2", None),
            ("postgres//u:hunter2@h/d", None),
            ("a/b/u:hunter2@h", None),
            ("u:hunter2://h", None),
        ] {
            let error = Storage::of(Path::new(url)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(
                matches!(&error, OpenError::UnknownUrl { scheme: found } if found.as_deref() == scheme),
                "{error:?}"
            );
        }
    }

    #[test]
    fn paths_are_files() {
        for path in [
            "keyguard.redb",
            "./a:b",
            "/var/a:b/c",
            "/var/a:b@c/d",
            "./a:b@c",
            "a@b/c",
            "a=b/c = d",
            "C:\\kg.redb",
            "a b/c",
            "",
        ] {
            assert!(
                matches!(Storage::of(Path::new(path)), Ok(Storage::File(_))),
                "{path}"
            );
        }
    }
}
