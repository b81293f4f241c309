//! `restore`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::connection::restore;
use crate::cli::copying::{CopyReport, report, require_file, with_progress};
use crate::cli::{error::CliError, exit::Exit, settings::Cli};
use crate::guard::{existing_secret, followed, secret_path};
use crate::store::{OpenError, RedbStore};
use crate::time::Clock;

const EXAMPLES: &str = "Examples:
  mv keyguard.redb damaged.redb
  keyguard restore /backup/keyguard-monday.redb

All changes since the backup are undone: keys that were revoked since then are accepted again.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The backup, which is not changed
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
}

/// Names the owner of a restored file that belongs to another user.
#[cfg(unix)]
fn other_owner(file: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;

    let owner = std::fs::metadata(file).ok()?.uid();
    let is_other = owner != rustix::process::geteuid().as_raw();
    is_other.then(|| format!("user {owner}, to whom the directory belongs"))
}

#[cfg(not(unix))]
fn other_owner(_: &Path) -> Option<String> {
    None
}

/// Needs no secret.
pub(crate) fn run(cli: &Cli, opts: &Opts) -> Result<Exit, CliError> {
    require_file(&cli.db)?;
    let copied = with_progress(|progress| restore(&opts.backup, &cli.db, progress), || None)?;
    let mut notes = vec![(
        "note",
        "keys that were revoked since the backup are accepted again".to_owned(),
    )];
    notes.extend(other_owner(&cli.db).map(|owner| ("owner", owner)));
    let secret = format!(
        "put that of the backup in {}",
        secret_path(&cli.db).display()
    );
    let found = match find_secret(cli) {
        Ok(FoundSecret::Right) => "right",
        Ok(FoundSecret::None) => {
            notes.push(("secret", secret));
            "missing"
        }
        Ok(FoundSecret::Wrong) => {
            cli.warn(&format!(
                "the secret is not that of the backup, so that the file cannot be used: {secret}"
            ));
            "wrong"
        }
        // The file is restored nevertheless.
        Err(error) => {
            cli.warn(&error.message(cli));
            "unusable"
        }
    };
    notes.push(("next", format!("{} audit", cli.program())));
    let fields = [("secret", found)];
    let copy = CopyReport {
        title: "Restored",
        file: &cli.db,
        copied,
        notes: &notes,
        fields: &fields,
    };
    report(cli, copy)
}

/// The secret for the restored file.
enum FoundSecret {
    None,
    Right,
    Wrong,
}

fn find_secret(cli: &Cli) -> Result<FoundSecret, CliError> {
    const CACHE_BYTES: usize = 1 << 20;

    let secret = match existing_secret(&cli.db, cli.secret()?) {
        Err(OpenError::MissingSecret { .. }) => return Ok(FoundSecret::None),
        secret => secret?,
    };
    let (file, fingerprint) = (followed(&cli.db)?, secret.fingerprint());
    match RedbStore::open(&file, fingerprint, &Clock::system(), CACHE_BYTES) {
        Err(OpenError::WrongSecret { .. }) => Ok(FoundSecret::Wrong),
        opened => Ok(opened.map(|_| FoundSecret::Right)?),
    }
}
