//! `import`: reads the database of the Python package.

#[cfg(any(feature = "import", feature = "postgres"))]
mod cell;
pub(crate) mod error;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "import", feature = "postgres"))]
mod python_package;
#[cfg(feature = "import")]
mod sqlite;
#[cfg(any(feature = "import", feature = "postgres"))]
mod table;
#[cfg(any(feature = "import", feature = "postgres"))]
mod usage;

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use self::error::ImportError;
use crate::cli::transfer::{open, report, transfer};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::model::Secret;
use crate::store::transfer::{TransferPage, import_pages};
use crate::sys::shell::quoted;

const EXAMPLES: &str = "Examples:
  KEYGUARD_LEGACY_SECRET=my-secret keyguard import --from sqlite:keyguard.db
  keyguard import --from postgresql://keyguard@db.internal/keyguard";

/// Import organizations, keys, totals and this month's quotas from the Python package
///
/// The names of tables and columns, with accepted alternatives in parentheses:
///
///   organizations (orgs): id, name, status (active, is_active), created_at
///   api_keys (keys): id, org_id (organization_id), hashed_key (key_hash, hash),
///     active (is_active), created_at, and if present label (name),
///     prefix (key_prefix), scopes, rate_limit_per_minute (rate_limit),
///     monthly_limit (monthly_quota), expires_at, last_used_at
///   usage_logs (usage), if present: key_id (api_key_id), created_at (timestamp),
///     status_code (status)
///
/// Ids that are whole numbers are kept; other ids are replaced, in the order of
/// creation. Nothing is written until everything has been read. Repeating an
/// import applies what has changed since; keys that were suspended or revoked
/// here stay so.
#[derive(Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The database of the Python package. Prefer the variable PGPASSWORD to a password in the URL
    // Parsed in `run`: an error of clap would print it.
    #[arg(long, value_name = "sqlite:PATH|postgres://…")]
    from: String,
}

#[derive(Clone)]
enum Source {
    #[cfg_attr(not(feature = "import"), allow(dead_code))]
    Sqlite(PathBuf),
    /// A URL, which may hold a password.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(Secret),
}

/// Parses a URL of SQLAlchemy, or `sqlite:PATH`.
impl FromStr for Source {
    type Err = ImportError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once(':').unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        match scheme.split('+').next() {
            Some("sqlite") if !rest.is_empty() => Ok(Self::Sqlite(
                rest.strip_prefix("///").unwrap_or(rest).into(),
            )),
            Some("postgres" | "postgresql") if rest.starts_with("//") => {
                Ok(Self::Postgres(format!("postgres:{rest}").into()))
            }
            _ => Err(ImportError::UnknownSource),
        }
    }
}

pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    let pages = read(&opts.from.parse()?)?;
    let has_secret = cli.legacy_secret()?.is_some();
    let target = open(&cli.db, cli.config()?)?;
    let count = |page: &TransferPage| (page.orgs.len() + page.keys.len()) as u64;
    let total = pages.iter().map(count).sum();
    let copied = transfer(target, total, |target, progress| {
        import_pages(&pages, target.inner.store(), progress)
    })?;
    let program = cli.program();
    let next = match cli.legacy_secret_file() {
        Some(file) => {
            let file = quoted(&file.display().to_string());
            format!("{program} --legacy-secret-file {file} serve")
        }
        // The variable may have been set for this command alone.
        None if copied.keys > 0 => format!("KEYGUARD_LEGACY_SECRET=… {program} serve"),
        None => format!("{program} serve"),
    };
    let note = (copied.keys > 0).then_some(match has_secret {
        true => "`keyguard check` with the text of an imported key shows whether the secret is right",
        false => {
            "the imported keys are refused until the secret of the Python package is given, in the variable \
             KEYGUARD_LEGACY_SECRET or by --legacy-secret-file"
        }
    });
    report(cli, "Imported", &copied, note, &next)
}

fn read(source: &Source) -> Result<Vec<TransferPage>, ImportError> {
    match source {
        #[cfg(feature = "import")]
        Source::Sqlite(path) => python_package::pages(&mut sqlite::Sqlite::open(path)?),
        #[cfg(feature = "postgres")]
        Source::Postgres(url) => python_package::pages(&mut postgres::Postgres::open(url)?),
        #[cfg(not(feature = "import"))]
        Source::Sqlite(_) => Err(ImportError::MissingFeature("SQLite", "import")),
        #[cfg(not(feature = "postgres"))]
        Source::Postgres(_) => Err(ImportError::MissingFeature("PostgreSQL", "postgres")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_parsed() {
        let path = |text: &str| match text.parse() {
            Ok(Source::Sqlite(path)) => path.display().to_string(),
            Ok(Source::Postgres(_)) => "postgres".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(path("sqlite:old.db"), "old.db");
        assert_eq!(path("sqlite:/var/old.db"), "/var/old.db");
        assert_eq!(path("sqlite:///old.db"), "old.db");
        assert_eq!(path("sqlite+aiosqlite:////var/old.db"), "/var/old.db");
        assert_eq!(path("postgresql+asyncpg://u@h/d"), "postgres");
        for text in ["", "old.db", "sqlite:", "postgres:x", "mysql://h/d"] {
            assert!(path(text).contains("expected `sqlite:PATH`"), "{text}");
        }
    }
}
