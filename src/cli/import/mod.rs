//! `import`: takes over the database of the Python package of this name.

#[cfg(any(feature = "import", feature = "postgres"))]
mod cell;
mod error;
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

pub(super) use self::error::ImportError;
use super::failure::CliError;
use super::transfer::{fill, open, report};
use super::{Cli, Exit};
use crate::model::Secret;
use crate::store::transfer::{TransferPage, take_in};

/// Takes over organizations, keys, totals and what is used of this month's quotas.
///
/// Tables and columns go by the names on the left or by those behind them:
///
///   organizations (orgs): id, name, status (active, is_active), created_at
///   api_keys (keys): id, org_id (organization_id), hashed_key (key_hash, hash),
///     active (is_active), created_at, and as far as they are there label (name),
///     prefix (key_prefix), scopes, rate_limit_per_minute (rate_limit),
///     monthly_limit (monthly_quota), expires_at, last_used_at
///   usage_logs (usage), if it is there: key_id (api_key_id), created_at (timestamp),
///     status_code (status)
///
/// Ids that are whole numbers stay; others are given anew, in the order of creation. Nothing is
/// written before all of it was read. Importing again changes nothing, and adds what is new.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Import {
    /// The Python package's database. The password of a URL is better in the variable PGPASSWORD
    // Read later: an error of the arguments would show it.
    #[arg(long, value_name = "sqlite:PATH|postgres://…")]
    from: String,
}

#[derive(Clone)]
enum Source {
    #[cfg_attr(not(feature = "import"), allow(dead_code))]
    Sqlite(PathBuf),
    /// It may hold a password.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(Secret),
}

/// As SQLAlchemy writes URLs, or simply `sqlite:PATH`.
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

pub(super) fn run(cli: &Cli, import: &Import) -> Result<Exit, CliError> {
    let pages = read(&import.from.parse()?)?;
    let target = open(&cli.connection.db, cli.config()?)?;
    let count = |page: &TransferPage| (page.orgs.len() + page.keys.len()) as u64;
    let all = pages.iter().map(count).sum();
    let moved = fill(target, all, |target, progress| {
        take_in(&pages, target.inner.store(), progress)
    })?;
    let next = format!("KEYGUARD_LEGACY_SECRET=… {} serve", cli.called());
    report(cli, "Imported", &moved, &next)?;
    Ok(Exit::Done)
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
    fn sources_are_written_as_people_write_them() {
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
