//! Backups of the data file at regular times.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::sync::watch;

use crate::guard::Topic;
use crate::keyguard::KeyGuard;
use crate::store::with_causes;
use crate::sys::AtomicFile;
use crate::time::Timestamp;
use crate::time::duration::duration_argument;

/// The longest pause between two looks at the calendar, which may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
pub(crate) struct BackupSettings {
    /// Write a verified copy of the data file to this directory regularly, such as
    /// `keyguard-20261127T030000Z.redb`. Each data file needs a directory of its own
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// The time from one backup to the next
    #[arg(long, value_name = "DURATION", default_value = "1 day", value_parser = duration_argument, requires = "backup_dir")]
    backup_every: Duration,
    /// The number of backups to keep in the directory; the oldest ones are deleted
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "7",
        requires = "backup_dir"
    )]
    keep: NonZeroUsize,
}

impl BackupSettings {
    /// Returns the backups of a data file, if there shall be any.
    pub(crate) fn of(&self, file: &Path) -> Option<Backups> {
        let stem = file.file_stem().unwrap_or_default();
        Some(Backups {
            dir: self.backup_dir.clone()?,
            stem: stem.to_string_lossy().into_owned(),
            every: self.backup_every,
            keep: self.keep.get(),
        })
    }
}

/// The backups of one data file in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Backups {
    dir: PathBuf,
    /// The name of the data file, without extension.
    stem: String,
    every: Duration,
    keep: usize,
}

impl Backups {
    /// Fails if the directory cannot be read.
    pub(super) fn require_dir(&self) -> io::Result<()> {
        self.list().map(drop)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes backups until `end` changes.
    pub(super) async fn run(self, guard: KeyGuard, mut end: watch::Receiver<()>) {
        let mut pause = self.until_due(guard.inner.now());
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = end.changed() => return,
            }
            pause = self.until_due(guard.inner.now());
            if !pause.is_zero() {
                continue;
            }
            let (backups, of) = (self.clone(), guard.clone());
            let mut writing = tokio::task::spawn_blocking(move || backups.write(&of));
            let written = tokio::select! {
                written = &mut writing => written,
                _ = end.changed() => {
                    guard.inner.backup_progress().cancel();
                    let _ = writing.await;
                    return;
                }
            };
            let written = written.unwrap_or_else(|panicked| Err(panicked.to_string()));
            pause = match &written {
                Ok(()) => self.until_due(guard.inner.now()),
                Err(_) => self.every.min(LONGEST_PAUSE),
            };
            guard.inner.warnings().set(Topic::Backup, written.err());
        }
    }

    /// Returns the time until a backup is due, at most [`LONGEST_PAUSE`]. Those of times that lie ahead do not
    /// count: a clock was wrong.
    fn until_due(&self, now: Timestamp) -> Duration {
        let found = self.list().unwrap_or_default();
        let latest = found
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at <= now)
            .max();
        let since = latest.map(|latest| now.since(latest));
        let left = since.map_or(Duration::ZERO, |since| self.every.saturating_sub(since));
        left.min(LONGEST_PAUSE)
    }

    /// Writes a backup and deletes old ones. Fails with a warning.
    fn write(&self, guard: &KeyGuard) -> Result<(), String> {
        let now = guard.inner.now();
        let failed = |problem: &str| {
            format!("the data file could not be backed up, which is tried again: {problem}")
        };
        // Otherwise each try would write a backup that is not found again.
        self.require_dir()
            .map_err(|error| failed(&error.to_string()))?;
        let backup = guard.admin().backup(self.dir.join(self.name(now)));
        backup.map_err(|error| failed(&with_causes(&error)))?;
        let kept = self.delete_old(now);
        kept.map_err(|error| format!("old backups cannot be deleted: {error}"))
    }

    /// Deletes all but the latest backups, and what killed processes left. Those of times that lie ahead stay.
    /// Fails with the first error, after all others are deleted.
    fn delete_old(&self, now: Timestamp) -> io::Result<()> {
        let mut found = self.list()?;
        found.retain(|(at, _)| *at <= now);
        found.sort();
        let old = found.len().saturating_sub(self.keep);
        let deleted = found[..old]
            .iter()
            .map(|(_, backup)| fs::remove_file(backup));
        let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
        let failures: Vec<_> = deleted.filter_map(Result::err).filter(is_failure).collect();
        AtomicFile::remove_abandoned(&self.dir, SystemTime::now())?;
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns the backups of this data file with their times, in no order.
    fn list(&self) -> io::Result<Vec<(Timestamp, PathBuf)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            if let Some(at) = self.time_of(&file.file_name())
                && file.file_type()?.is_file()
            {
                found.push((at, file.path()));
            }
        }
        Ok(found)
    }

    /// Returns the name of the backup of a time, such as `keyguard-20261127T030000Z.redb`.
    fn name(&self, at: Timestamp) -> String {
        let time = at.to_string();
        let digits = time
            .chars()
            .take(SECONDS)
            .filter(char::is_ascii_alphanumeric);
        format!("{}-{}Z{SUFFIX}", self.stem, digits.collect::<String>())
    }

    fn time_of(&self, name: &OsStr) -> Option<Timestamp> {
        let rest = name.to_str()?.strip_prefix(&self.stem)?.strip_prefix('-')?;
        let digits = rest.strip_suffix(SUFFIX)?;
        if digits.len() != "20261127T030000Z".len() || !digits.is_ascii() {
            return None;
        }
        let (date, time) = digits.split_at(8);
        let (year, month, day) = (&date[..4], &date[4..6], &date[6..]);
        let (hour, minute, second) = (&time[..3], &time[3..5], &time[5..]);
        format!("{year}-{month}-{day}{hour}:{minute}:{second}")
            .parse()
            .ok()
    }
}

const SUFFIX: &str = ".redb";
/// The length of an RFC 3339 time up to the seconds.
const SECONDS: usize = "2026-11-27T03:00:00".len();

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn backups(dir: &Path) -> Backups {
        Backups {
            dir: dir.into(),
            stem: "keyguard".into(),
            every: 24 * HOUR,
            keep: 3,
        }
    }

    fn now() -> Timestamp {
        "2026-11-27T03:00:00.5Z".parse().unwrap()
    }

    fn add(backups: &Backups, at: Timestamp) {
        fs::write(backups.dir.join(backups.name(at)), "").unwrap();
    }

    #[test]
    fn names_tell_the_time_of_a_backup() {
        let backups = backups(Path::new("."));
        let name = backups.name(now());
        assert_eq!(name, "keyguard-20261127T030000Z.redb");
        let at = backups.time_of(name.as_ref()).unwrap();
        assert_eq!(at.to_string(), "2026-11-27T03:00:00Z");
        for other in [
            "keyguard.redb",
            "keyguard-monday.redb",
            "keyguard-20261127T030000Z.redb.secret",
            "other-20261127T030000Z.redb",
            "keyguard-20261327T030000Z.redb",
        ] {
            assert_eq!(backups.time_of(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn a_backup_is_due_after_the_period_whatever_lies_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let backups = backups(dir.path());
        assert_eq!(backups.until_due(now()), Duration::ZERO);
        add(&backups, now().plus(HOUR));
        assert_eq!(backups.until_due(now()), Duration::ZERO);
        add(&backups, now().minus(23 * HOUR));
        assert_eq!(backups.until_due(now()), LONGEST_PAUSE);
        assert_eq!(backups.until_due(now().plus(2 * HOUR)), LONGEST_PAUSE);
        assert_eq!(backups.until_due(now().plus(26 * HOUR)), Duration::ZERO);
    }

    #[test]
    fn only_the_oldest_backups_of_this_file_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let backups = backups(dir.path());
        for age in 0..5 {
            add(&backups, now().minus(age * HOUR));
        }
        add(&backups, now().plus(HOUR));
        for other in ["keyguard.redb", "other-20201127T030000Z.redb", "notes"] {
            fs::write(dir.path().join(other), "").unwrap();
        }
        backups.delete_old(now()).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        names.sort_by_key(fs::DirEntry::file_name);
        let names = names
            .iter()
            .map(|file| file.file_name().into_string().unwrap());
        assert_eq!(
            names.collect::<Vec<_>>(),
            [
                "keyguard-20261127T010000Z.redb",
                "keyguard-20261127T020000Z.redb",
                "keyguard-20261127T030000Z.redb",
                "keyguard-20261127T040000Z.redb",
                "keyguard.redb",
                "notes",
                "other-20201127T030000Z.redb",
            ]
        );
    }
}
