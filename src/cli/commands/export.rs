//! `export`

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::settings::{Cli, program_at};
use crate::cli::transfer::{open, report, transfer};
use crate::cli::{error::CliError, exit::Exit};
use crate::guard::{
    Config, Storage, existing_secret, followed, is_server, read_secret, secret_path,
};
use crate::model::Secret;
use crate::store::OpenError;
use crate::store::transfer::transfer_all;
use crate::sys::AtomicFile;

const EXAMPLES: &str = "Examples:
  keyguard export --to copy.redb
  keyguard export --to postgres://keyguard@db/keyguard";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Opts {
    /// The destination: a data file, which is created if it is absent, or the URL of a database. It
    /// shares the secret, with which keys are hashed. Give a URL with a password in the variable: other
    /// users of this machine can see arguments in the process list
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "KEYGUARD_TO",
        hide_env_values = true
    )]
    to: PathBuf,
}

/// Copies everything in `--db`. Records that are at the destination stay, so that an interrupted export
/// can be repeated.
pub(crate) fn run(cli: &Cli, Opts { to }: Opts) -> Result<Exit, CliError> {
    cli.require_data()?;
    let shown = Storage::of(&to)?.shown();
    if is_same(&cli.db, &to) {
        return Err(CliError::SameFile(shown));
    }
    let source = open(&cli.db, cli.config()?)?;
    let secret = existing_secret(&cli.db, cli.secret()?)?;
    if !is_server(&to) && !followed(&to)?.exists() {
        copy_secret(&cli.db, &to, &secret)?;
    }
    let target = open(&to, Config::new(secret))?;
    let totals = source.inner.store().totals(source.inner.now())?;
    let copied = transfer(target, totals.orgs + totals.keys, |target, progress| {
        transfer_all(source.inner.store(), target.inner.store(), progress)
    })?;
    report(
        cli,
        "Exported",
        &copied,
        None,
        &format!("{} stats", program_at(&to)),
    )
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || same_file(one, other).unwrap_or(false)
}

/// Returns whether two paths lead to one file, by links of any kind.
#[cfg(unix)]
fn same_file(one: &Path, other: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let identity = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    Ok(identity(one)? == identity(other)?)
}

#[cfg(not(unix))]
fn same_file(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(one)? == fs::canonicalize(other)?)
}

/// Copies the secret file beside the data file to the path beside its copy.
fn copy_secret(file: &Path, to: &Path, secret: &Secret) -> Result<(), CliError> {
    let (original, copy) = (secret_path(&followed(file)?), secret_path(to));
    let is_same = |found: &Secret| found.expose() == secret.expose();
    match read_secret(&copy, to) {
        Ok(found) if is_same(&found) => return Ok(()),
        Ok(_) => return Err(CliError::OtherSecret(copy)),
        Err(OpenError::SecretFile { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    if !read_secret(&original, file).is_ok_and(|found| is_same(&found)) {
        return Ok(());
    }
    match write_secret(&copy, secret) {
        Err(source) if source.kind() != ErrorKind::AlreadyExists => {
            Err(CliError::SecretCopy { file: copy, source })
        }
        _ => Ok(()),
    }
}

fn write_secret(path: &Path, secret: &Secret) -> io::Result<()> {
    let mut file = AtomicFile::new(path)?;
    file.file().write_all(secret.expose())?;
    file.file().write_all(b"\n")?;
    file.take_name(path)
}
