//! `export`

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::CliError;
use super::transfer::{fill, open, report};
use super::{Cli, Exit, called_at};
use crate::guard::{
    Config, Storage, existing_secret, followed, is_server, read_secret, secret_path,
};
use crate::model::Secret;
use crate::store::OpenError;
use crate::store::transfer::move_all;
use crate::sys::AtomicFile;

#[derive(Args)]
pub(super) struct Export {
    /// Where to: a data file, which is made if it is absent, or the URL of a database. It goes by the
    /// same secret, under which the keys are hashed. Other users of this machine can see a password in
    /// the list of processes: prefer the variable for a URL that has one
    #[arg(
        long,
        value_name = "FILE|URL",
        env = "KEYGUARD_TO",
        hide_env_values = true
    )]
    to: PathBuf,
}

/// Moves all of `--db`. What is moved already stays as it is, so that a cut off move can be done again.
pub(super) fn run(cli: &Cli, Export { to }: Export) -> Result<Exit, CliError> {
    let file = &cli.connection.db;
    cli.needs_data()?;
    let shown = Storage::of(&to)?.shown();
    if is_same(file, &to) {
        return Err(CliError::SameFile(shown));
    }
    let source = open(file, cli.config()?)?;
    let secret = existing_secret(file, cli.secret()?)?;
    if !is_server(&to) && !followed(&to)?.exists() {
        hand_on_secret(file, &to, &secret)?;
    }
    let target = open(&to, Config::new(secret))?;
    let totals = source.inner.store().totals(source.inner.now());
    let totals = totals.map_err(CliError::moving)?;
    let moved = fill(target, totals.orgs + totals.keys, |target, progress| {
        move_all(source.inner.store(), target.inner.store(), progress)
    })?;
    let next = format!("{} stats", called_at(&to));
    report(cli, "Exported", &moved, &next)?;
    Ok(Exit::Done)
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || same_file(one, other).unwrap_or(false)
}

/// Whether two paths lead to one file, by links of any kind.
#[cfg(unix)]
fn same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let identity = |path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    Ok(identity(one)? == identity(other)?)
}

#[cfg(not(unix))]
fn same_file(one: &Path, other: &Path) -> std::io::Result<bool> {
    Ok(std::fs::canonicalize(one)? == std::fs::canonicalize(other)?)
}

/// A secret that lies beside the file it belongs to also lies beside its copy.
fn hand_on_secret(file: &Path, to: &Path, secret: &Secret) -> Result<(), CliError> {
    let (beside, copy) = (secret_path(&followed(file)?), secret_path(to));
    let failed = |source| CliError::SecretCopy {
        file: copy.clone(),
        source,
    };
    let is_same = |found: &Secret| found.expose() == secret.expose();
    match read_secret(&copy, to) {
        Ok(there) if is_same(&there) => return Ok(()),
        Ok(_) => return Err(CliError::OtherSecret(copy)),
        Err(OpenError::SecretFile { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    if read_secret(&beside, file).is_ok_and(|found| is_same(&found)) {
        let mut draft = AtomicFile::new(&copy).map_err(failed)?;
        draft.file().write_all(secret.expose()).map_err(failed)?;
        draft.file().write_all(b"\n").map_err(failed)?;
        match draft.take_name(&copy) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(())
}
