//! The files of an installation: who can access them, and the space for them.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::Finding;
use crate::cli::settings::Cli;
use crate::guard::{followed, secret_path, webhook_secret_path};
use crate::model::Area;
use crate::sys::DiskSpace;
use crate::sys::shell::quoted;

/// Examines the data file, its directory, its secrets and its file system. Finds nothing for a database.
pub(super) fn examine(cli: &Cli) -> Vec<Finding> {
    let mut findings: Vec<Finding> = secret_argument(cli).into_iter().collect();
    if cli.is_on_server() {
        return findings;
    }
    let Ok(file) = followed(&cli.db) else {
        return findings;
    };
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    findings.extend(exposed_data_file(&file));
    let beside = secret_path(&file);
    for secret in [
        cli.secret_file().unwrap_or(&beside),
        &webhook_secret_path(&file),
    ] {
        findings.extend(exposed_secret(secret, &file));
    }
    findings.extend(open_directory(&directory));
    findings.extend(full_disk(&directory));
    findings
}

fn secret_argument(cli: &Cli) -> Option<Finding> {
    cli.has_secret_argument().then(|| Finding {
        area: Area::Secret,
        problem: "the secret is an argument, which other users of this machine can see".to_owned(),
        next: format!("{} --secret-file FILE …", cli.program()),
    })
}

#[cfg(unix)]
fn exposed_data_file(file: &Path) -> Option<Finding> {
    // The rights of a directory or a device are not to be changed.
    let found = metadata(file).filter(Metadata::is_file)?;
    let exposure = crate::sys::ownership::data_file_exposure(file, &found)?;
    Some(Finding {
        area: Area::Files,
        problem: format!(
            "the data file `{}` is not private: {}",
            file.display(),
            exposure.problem
        ),
        next: exposure.command,
    })
}

#[cfg(unix)]
fn exposed_secret(file: &Path, data: &Path) -> Option<Finding> {
    use crate::sys::ownership::{exposure, owner_of};

    let exposure = exposure(file, &metadata(file)?, owner_of(data))?;
    Some(Finding {
        area: Area::Files,
        problem: format!(
            "the secret in `{}` is not private: {}",
            file.display(),
            exposure.problem
        ),
        next: exposure.command,
    })
}

/// Whoever can write to a directory can replace its files, unless the sticky bit forbids it.
#[cfg(unix)]
fn open_directory(directory: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;

    let mode = metadata(directory)?.permissions().mode();
    let is_open = mode & 0o002 != 0 && mode & 0o1000 == 0;
    let shown = directory.display().to_string();
    is_open.then(|| Finding {
        area: Area::Files,
        problem: format!(
            "every user can replace the data file, because its directory `{shown}` has the mode {:03o}",
            mode & 0o7777
        ),
        next: format!("chmod o-w {}", quoted(&shown)),
    })
}

#[cfg(not(unix))]
fn exposed_data_file(_: &Path) -> Option<Finding> {
    None
}

#[cfg(not(unix))]
fn exposed_secret(_: &Path, _: &Path) -> Option<Finding> {
    None
}

#[cfg(not(unix))]
fn open_directory(_: &Path) -> Option<Finding> {
    None
}

fn full_disk(directory: &Path) -> Option<Finding> {
    let space = DiskSpace::of(directory).ok()?;
    let shown = directory.display().to_string();
    space.is_nearly_full().then(|| Finding {
        area: Area::Disk,
        problem: format!(
            "the file system of `{shown}` is nearly full: {} MiB of {} MiB are free",
            space.available >> 20,
            space.total >> 20
        ),
        next: format!("df -h {}", quoted(&shown)),
    })
}

fn metadata(path: &Path) -> Option<Metadata> {
    fs::metadata(path).ok()
}
