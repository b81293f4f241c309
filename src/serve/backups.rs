//! Backups of the data file at regular times.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::error::ServeError;
use crate::admin::AdminError;
use crate::guard::Topic;
use crate::keyguard::KeyGuard;
use crate::store::with_causes;
use crate::sys::write_outcome;
use crate::time::Timestamp;
use crate::time::duration::duration_argument;

/// The longest pause between two looks at the calendar, which may be set.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Args)]
pub(crate) struct BackupSettings {
    /// Write a verified copy of the data file to this directory regularly, such as
    /// `keyguard-1f3a9c02-20261127T030000Z.redb`. Other data files may use the same directory
    #[arg(long, value_name = "DIR")]
    backup_dir: Option<PathBuf>,
    /// The time from one backup to the next
    #[arg(long, value_name = "DURATION", default_value = "1 day", value_parser = duration_argument, requires = "backup_dir")]
    backup_every: Duration,
    /// The number of backups of the data file to keep in the directory; the oldest ones are deleted
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "7",
        requires = "backup_dir"
    )]
    keep: NonZeroUsize,
}

impl BackupSettings {
    /// Returns the backups of the data file of a guard, if there shall be any. Fails if the directory cannot be
    /// read, or another process writes backups of the data file or of a copy of it there.
    pub(super) fn of(&self, file: &Path, guard: &KeyGuard) -> Result<Option<Backups>, ServeError> {
        let Some(dir) = &self.backup_dir else {
            return Ok(None);
        };
        let id = guard.inner.store().file_id();
        let id = id.map_err(|error| io::Error::other(error.describe()))?;
        let backups = Backups {
            dir: dir.clone(),
            stem: file
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            id: format!("{:08x}", id.ok_or(ServeError::NoDataFile)?),
            every: self.backup_every,
            keep: self.keep.get(),
            lock: Arc::default(),
        };
        let dir = dir.clone();
        if let Err(source) = backups.list() {
            return Err(ServeError::BackupDir { dir, source });
        }
        match backups.lock() {
            Ok(false) => Err(ServeError::BackupDirInUse { dir }),
            // An error is reported with the first backup, which is tried again.
            Ok(true) | Err(_) => Ok(Some(backups)),
        }
    }
}

/// The backups of one data file in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Backups {
    dir: PathBuf,
    /// The name of the data file, without extension.
    stem: String,
    /// The id of the data file, in hexadecimal digits.
    id: String,
    every: Duration,
    keep: usize,
    /// The locked file of this data file and its copies in the directory.
    lock: Arc<Mutex<Option<File>>>,
}

impl Backups {
    /// Locks the directory against servers of copies of the data file, which have the same id and would delete these
    /// backups, until [`run`](Self::run) ends. Returns false if one of them has locked it.
    fn lock(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock();
        if lock.is_none() {
            let file = self.open_lock_file()?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Ok(false),
                // There are file systems without locks.
                Ok(()) | Err(TryLockError::Error(_)) => *lock = Some(file),
            }
        }
        Ok(true)
    }

    /// Opens the lock file, which another user may have created.
    fn open_lock_file(&self) -> io::Result<File> {
        let path = self.dir.join(format!(".keyguard-{}.lock", self.id));
        let created = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let opened = match created {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&path),
            created => created,
        };
        opened.map_err(|error| {
            let problem = format!("the lock file `{}`: {error}", path.display());
            io::Error::new(error.kind(), problem)
        })
    }

    /// Writes backups until `end` changes.
    pub(super) async fn run(self, guard: KeyGuard, mut end: watch::Receiver<()>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = end.changed() => return,
            }
            let (backups, of) = (self.clone(), guard.clone());
            let mut work = tokio::task::spawn_blocking(move || backups.write_if_due(&of));
            let done = tokio::select! {
                done = &mut work => done,
                _ = end.changed() => {
                    guard.inner.backup_progress().cancel();
                    let _ = work.await;
                    return;
                }
            };
            pause = done.unwrap_or_else(|panicked| {
                let warnings = guard.inner.warnings();
                warnings.set(Topic::Backup, Some(panicked.to_string()));
                self.pause_after_failure()
            });
        }
    }

    /// Writes a backup if one is due. Returns the pause until the next look.
    fn write_if_due(&self, guard: &KeyGuard) -> Duration {
        let pause = self.until_due(guard.inner.now());
        if !pause.is_zero() {
            return pause;
        }
        let written = self.write(guard);
        let pause = match &written {
            Ok(()) => self.until_due(guard.inner.now()),
            // The process stops.
            Err(_) if guard.inner.backup_progress().is_cancelled() => return LONGEST_PAUSE,
            Err(_) => self.pause_after_failure(),
        };
        guard.inner.warnings().set(Topic::Backup, written.err());
        pause
    }

    fn pause_after_failure(&self) -> Duration {
        self.every.min(LONGEST_PAUSE)
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
        self.list().map_err(|error| failed(&error.to_string()))?;
        let is_locked = self.lock().map_err(|error| failed(&error.to_string()))?;
        if !is_locked {
            let dir = self.dir.clone();
            return Err(failed(&ServeError::BackupDirInUse { dir }.to_string()));
        }
        let backup = guard.admin().backup(self.dir.join(self.name(now)));
        backup.map_err(|error| match error {
            // Its path has the time of this try; a problem that stays is one warning.
            AdminError::BackupNotWritten { source, .. } => failed(&format!(
                "a backup in `{}` {}: {source}",
                self.dir.display(),
                write_outcome(&source)
            )),
            error => failed(&with_causes(&error)),
        })?;
        let kept = self.delete_old(now, |backup| fs::remove_file(backup));
        kept.map_err(|error| format!("old backups cannot be deleted: {error}"))
    }

    /// Deletes all but the latest backups by `delete`. Those of times that lie ahead stay. Fails with the first
    /// error, after all others are deleted.
    fn delete_old(
        &self,
        now: Timestamp,
        delete: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut found = self.list()?;
        found.retain(|(at, _)| *at <= now);
        found.sort();
        let old = found.len().saturating_sub(self.keep);
        let deleted = found[..old].iter().map(|(_, backup)| delete(backup));
        let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
        let failures: Vec<_> = deleted.filter_map(Result::err).filter(is_failure).collect();
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

    /// Returns the name of the backup of a time, such as `keyguard-1f3a9c02-20261127T030000Z.redb`.
    fn name(&self, at: Timestamp) -> String {
        let time = at.to_string();
        let digits = time
            .chars()
            .take(SECONDS)
            .filter(char::is_ascii_alphanumeric);
        let digits: String = digits.collect();
        format!("{}-{}-{digits}Z{SUFFIX}", self.stem, self.id)
    }

    /// Returns the time of a backup by its name; `None` for all other files. The data file may have had another
    /// name.
    fn time_of(&self, name: &OsStr) -> Option<Timestamp> {
        let (rest, digits) = name.to_str()?.strip_suffix(SUFFIX)?.rsplit_once('-')?;
        let (_, id) = rest.rsplit_once('-')?;
        if id != self.id {
            return None;
        }
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
    use keyguard_test_support::names_in;

    use super::*;
    use crate::guard::Config;
    use crate::time::ManualClock;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn backups(dir: &Path) -> Backups {
        Backups {
            dir: dir.into(),
            stem: "keyguard".into(),
            id: "1f3a9c02".into(),
            every: 24 * HOUR,
            keep: 3,
            lock: Arc::default(),
        }
    }

    #[test]
    fn one_process_at_a_time_writes_backups_of_a_data_file_and_its_copies() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::new("a long random secret");
        let guard = KeyGuard::open(home.path().join("keyguard.redb"), config).unwrap();
        let [first, second] = [(); 2].map(|()| backups(dir.path()));
        let other = Backups {
            id: "00000001".into(),
            ..backups(dir.path())
        };
        for locked in [&first, &first, &other] {
            assert!(locked.lock().unwrap());
        }
        assert!(!second.lock().unwrap());
        let error = second.write(&guard).unwrap_err();
        assert!(error.contains("another server"), "{error}");
        drop(first);
        second.write(&guard).unwrap();
    }

    #[test]
    fn a_lock_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".keyguard-1f3a9c02.lock");
        fs::create_dir(&path).unwrap();
        let error = backups(dir.path()).lock().unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }

    /// Regression: a lock file that root had created could not be used by the user of the service. Root may write
    /// all files, so only other users test this.
    #[test]
    fn a_lock_file_of_another_user_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".keyguard-1f3a9c02.lock");
        let mut permissions = File::create(&path)
            .unwrap()
            .metadata()
            .unwrap()
            .permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        let [first, second] = [(); 2].map(|()| backups(dir.path()));
        assert!(first.lock().unwrap());
        assert!(!second.lock().unwrap());
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
        assert_eq!(name, "keyguard-1f3a9c02-20261127T030000Z.redb");
        let at = backups.time_of(name.as_ref()).unwrap();
        assert_eq!(at.to_string(), "2026-11-27T03:00:00Z");
        for other in [
            "keyguard.redb",
            "keyguard-monday.redb",
            "keyguard-1f3a9c02-monday.redb",
            "keyguard-1f3a9c02-20261127T030000Z.redb.secret",
            "keyguard-20261127T030000Z.redb",
            "keyguard-1f3a9c03-20261127T030000Z.redb",
            "keyguard-1f3a9c02-20261327T030000Z.redb",
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

    fn warnings(guard: &KeyGuard) -> Vec<String> {
        let conditions = guard.inner.warnings().conditions().into_iter();
        conditions.map(|condition| condition.problem).collect()
    }

    #[test]
    fn a_failure_that_stays_is_one_warning() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = ManualClock::starting_at(now());
        let config = Config::new("a long random secret").clock(clock.clone());
        let guard = KeyGuard::open(home.path().join("keyguard.redb"), config).unwrap();
        let backups = backups(dir.path());
        let texts = [0, 60].map(|seconds| {
            clock.advance(Duration::from_secs(seconds));
            let taken = dir.path().join(backups.name(guard.inner.now()));
            fs::write(taken, "").unwrap();
            backups.write(&guard).unwrap_err()
        });
        assert_eq!(texts[0], texts[1]);
        let shown = dir.path().display().to_string();
        assert!(texts[0].contains(&shown), "{texts:?}");
        assert!(texts[0].contains("a file is there already"), "{texts:?}");
    }

    #[test]
    fn a_backup_that_a_stop_cancels_is_no_failure() {
        let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = Config::new("a long random secret");
        let guard = KeyGuard::open(home.path().join("keyguard.redb"), config).unwrap();
        let before = warnings(&guard);
        guard.inner.backup_progress().cancel();
        backups(dir.path()).write_if_due(&guard);
        assert_eq!(warnings(&guard), before);
        assert_eq!(names_in(dir.path()), [".keyguard-1f3a9c02.lock"]);
    }

    #[test]
    fn only_the_oldest_backups_of_this_file_are_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let backups = backups(dir.path());
        for age in 0..5 {
            add(&backups, now().minus(age * HOUR));
        }
        add(&backups, now().plus(HOUR));
        let renamed = "before-1f3a9c02-20251127T030000Z.redb";
        let other = "keyguard-00000001-20251127T030000Z.redb";
        for name in ["keyguard.redb", renamed, other, "notes"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        backups
            .delete_old(now(), |backup| fs::remove_file(backup))
            .unwrap();
        assert_eq!(
            names_in(dir.path()),
            [
                other,
                "keyguard-1f3a9c02-20261127T010000Z.redb",
                "keyguard-1f3a9c02-20261127T020000Z.redb",
                "keyguard-1f3a9c02-20261127T030000Z.redb",
                "keyguard-1f3a9c02-20261127T040000Z.redb",
                "keyguard.redb",
                "notes",
            ]
        );
    }

    #[test]
    fn rotation_goes_on_after_a_backup_that_cannot_be_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let backups = backups(dir.path());
        for age in 0..6 {
            add(&backups, now().minus(age * HOUR));
        }
        let stuck = backups.name(now().minus(4 * HOUR));
        let deleted = backups.delete_old(now(), |backup| match backup.ends_with(&stuck) {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => fs::remove_file(backup),
        });
        assert_eq!(deleted.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        let left = names_in(dir.path());
        assert_eq!((left.len(), &left[0]), (4, &stuck));
    }
}
