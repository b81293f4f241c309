//! The files of an installation: who can access them, and the space for them.

use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use super::Finding;
use crate::cli::settings::Cli;
use crate::guard::{followed, secret_path, webhook_secret_path};
use crate::model::Area;
use crate::sys::DiskSpace;
use crate::sys::shell::quoted;

/// Examines the data file, its directory, the files of its secrets and its file system. Finds nothing for a database.
pub(super) fn examine(cli: &Cli) -> Vec<Finding> {
    let mut findings = Vec::new();
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
    findings.extend(
        DiskSpace::of(&directory)
            .ok()
            .and_then(|space| full_disk(&directory, space)),
    );
    findings
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

    let mode = metadata(directory)?.permissions().mode() & 0o7777;
    let who = match (mode & 0o1000 != 0, mode & 0o022) {
        (true, _) | (_, 0) => return None,
        (_, 0o020) => "every user of its group",
        _ => "every user",
    };
    let shown = directory.display().to_string();
    Some(Finding {
        area: Area::Files,
        problem: format!(
            "{who} can replace the data file, because its directory `{shown}` has the mode {mode:03o}"
        ),
        next: format!("chmod go-w {}", quoted(&shown)),
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

fn full_disk(directory: &Path, space: DiskSpace) -> Option<Finding> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_full_disk_is_found() {
        let found = |available| {
            let total = 100 << 30;
            full_disk(Path::new("/var/lib"), DiskSpace { available, total })
        };
        assert!(found(50 << 30).is_none());
        let full = found(512 << 20).unwrap();
        assert_eq!(full.area, Area::Disk);
        let problem =
            "the file system of `/var/lib` is nearly full: 512 MiB of 102400 MiB are free";
        assert_eq!(
            (full.problem.as_str(), full.next.as_str()),
            (problem, "df -h /var/lib")
        );
    }
}
