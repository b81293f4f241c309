//! Connections to a guard: over a data file, also one that another process holds, or a database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::copying::cancelled_by_signals;
use super::error::CliError;
#[cfg(unix)]
use crate::admin::command::{BackUp, GetBackupProgress, VerifyFile};
use crate::admin::command::{Command, FindKey, FindOrg};
#[cfg(unix)]
use crate::admin::remote::{Remote, Unreachable};
use crate::admin::{Admin, Failure};
use crate::guard::{Config, Storage, followed, is_server};
use crate::keyguard::KeyGuard;
use crate::model::{KeyId, OrgId};
use crate::store::copy::CopyProgress;
use crate::store::{FileCopy, OpenError, Verification};

/// How long to wait for a process that holds the file and does not listen: another command, or a server
/// that starts. The time starts anew with each such process, so that any number of commands can queue.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The shortest and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(40));

/// A connection to the guard of a data file or a database.
pub(crate) enum GuardConnection {
    /// This process has opened the file or the database.
    Open(Admin),
    /// Another process holds the file and answers on its socket.
    #[cfg(unix)]
    Remote(Remote),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("there is no data file at `{}`", .0.display())]
    NoFile(PathBuf),
    #[error(
        "there is no data file at `{}`, but a process still holds the file that was there: it was deleted \
         or moved away; put it back, or stop that process",
        .0.display()
    )]
    MovedAway(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[cfg(unix)]
    #[error("cannot open `{}` or reach the process that holds it: {source}", file.display())]
    Unreachable { file: PathBuf, source: Unreachable },
}

impl ConnectError {
    /// Returns the error for an absent data file.
    pub(crate) fn missing(file: &Path) -> Self {
        match is_moved_away(file) {
            true => Self::MovedAway(file.into()),
            false => Self::NoFile(file.into()),
        }
    }
}

impl GuardConnection {
    /// Connects to an existing data file, or to the database at a URL.
    pub(crate) fn open(file: &Path, config: &Config) -> Result<Self, ConnectError> {
        if Storage::of(file)?.is_server() {
            let guard = KeyGuard::open(file, config.clone().socket(false))?;
            return Ok(Self::Open(by_this_user(&guard)));
        }
        let opened = reach(file, || KeyGuard::open(file, config.clone().socket(false)))?;
        Ok(match opened {
            Reached::Open(guard) => Self::Open(by_this_user(&guard)),
            #[cfg(unix)]
            Reached::Remote(remote) => Self::Remote(remote),
        })
    }

    /// Whether another process holds the file.
    pub(crate) fn is_remote(&self) -> bool {
        match self {
            Self::Open(_) => false,
            #[cfg(unix)]
            Self::Remote(_) => true,
        }
    }

    /// Waits for the reply to a command that may take long.
    pub(crate) fn without_timeout(self) -> Self {
        match self {
            #[cfg(unix)]
            Self::Remote(remote) => Self::Remote(remote.without_timeout()),
            open => open,
        }
    }

    /// Executes a command and returns its reply.
    pub(crate) fn execute<C: Command>(&mut self, command: C) -> Result<C::Reply, Failure> {
        match self {
            Self::Open(admin) => Ok(command.run(admin)?),
            #[cfg(unix)]
            Self::Remote(remote) => remote.execute(&command),
        }
    }

    /// Returns the id of an organization by its name.
    pub(crate) fn org_id(&mut self, org_name: String) -> Result<OrgId, Failure> {
        Ok(self.execute(FindOrg { org_name })?.org.id)
    }

    /// Returns the id of a key by its id, which need not exist, or by its whole prefix.
    pub(crate) fn key_id(&mut self, key: String) -> Result<KeyId, Failure> {
        match key.parse() {
            Ok(id) => Ok(id),
            Err(_) => Ok(self.execute(FindKey { key })?.key.id),
        }
    }
}

/// Verifies a data file, in the process that holds it if there is one.
pub(crate) fn verify(file: &Path) -> Result<Verification, CliError> {
    if is_server(file) {
        return Ok(KeyGuard::verify(file)?);
    }
    Ok(match reach(file, || KeyGuard::verify(file))? {
        Reached::Open(found) => found,
        #[cfg(unix)]
        Reached::Remote(remote) => remote.without_timeout().execute(&VerifyFile {})?,
    })
}

/// Copies a data file to an absolute path, in the process that holds the file if there is one.
pub(crate) fn back_up(
    file: &Path,
    to: &Path,
    progress: &CopyProgress,
) -> Result<FileCopy, CliError> {
    let copy = cancelled_by_signals(progress, || KeyGuard::backup_with(file, to, progress));
    if is_server(file) {
        return Ok(copy()?);
    }
    Ok(match reach(file, copy)? {
        Reached::Open(copied) => copied,
        #[cfg(unix)]
        Reached::Remote(remote) => {
            // From here on, signals end this process.
            progress.cancel();
            let to = to.into();
            remote.without_timeout().execute(&BackUp { to })?
        }
    })
}

/// Returns the progress of the backup that the process that holds a file writes.
#[cfg(unix)]
pub(crate) fn backup_progress(file: &Path) -> Option<f64> {
    let mut remote = Remote::connect(file).ok()??;
    remote.execute(&GetBackupProgress {}).ok()?
}

#[cfg(not(unix))]
pub(crate) fn backup_progress(_: &Path) -> Option<f64> {
    None
}

/// Compacts a data file that no process serves.
pub(crate) fn compact(file: &Path, progress: &CopyProgress) -> Result<FileCopy, CliError> {
    let compact = cancelled_by_signals(progress, || KeyGuard::compact_with(file, progress));
    if is_server(file) {
        return Ok(compact()?);
    }
    Ok(match reach(file, &compact)? {
        Reached::Open(copied) => copied,
        // Refused with the name of that process.
        #[cfg(unix)]
        Reached::Remote(_) => compact()?,
    })
}

/// Restores a backup at the path of an absent data file.
pub(crate) fn restore(
    backup: &Path,
    file: &Path,
    progress: &CopyProgress,
) -> Result<FileCopy, CliError> {
    if is_moved_away(file) {
        return Err(ConnectError::MovedAway(file.into()).into());
    }
    if !is_server(backup) && matches!(followed(backup)?.try_exists(), Ok(false)) {
        return Err(ConnectError::NoFile(backup.into()).into());
    }
    let restore = || KeyGuard::restore_with(backup, file, progress);
    Ok(cancelled_by_signals(progress, restore)()?)
}

/// What was opened, or the process that holds the file.
enum Reached<T> {
    Open(T),
    #[cfg(unix)]
    Remote(Remote),
}

/// Opens an existing data file by `open`, or connects to the process that holds it. Waits while other
/// commands hold the file.
fn reach<T>(
    file: &Path,
    open: impl Fn() -> Result<T, OpenError>,
) -> Result<Reached<T>, ConnectError> {
    if !followed(file)?.exists() {
        return Err(ConnectError::missing(file));
    }
    let mut queue = Queue::new();
    loop {
        #[cfg(unix)]
        let unreachable = match Remote::connect(file) {
            Ok(Some(remote)) => return Ok(Reached::Remote(remote)),
            Ok(None) => None,
            Err(source @ Unreachable::Stopped { .. }) => return Err(unreachable(file, source)),
            // Perhaps no process holds the file.
            Err(source) => Some(unreachable(file, source)),
        };
        match open() {
            Ok(opened) => return Ok(Reached::Open(opened)),
            Err(OpenError::InUse { holder, .. }) if queue.waits_for(holder.as_deref()) => {}
            #[cfg(unix)]
            Err(error) if is_closed(&error) && unreachable.is_some() => {
                return Err(unreachable.unwrap_or_else(|| error.into()));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens or creates a data file, or opens a database. Waits while other commands hold the file, but not
/// for a server.
pub(crate) fn open_in_turn(file: &Path, config: &Config) -> Result<KeyGuard, ConnectError> {
    if !is_server(file) && is_moved_away(file) {
        return Err(ConnectError::MovedAway(file.into()));
    }
    let mut queue = Queue::new();
    loop {
        match KeyGuard::open(file, config.clone()) {
            Err(OpenError::InUse { holder, .. })
                if !is_served(file) && queue.waits_for(holder.as_deref()) => {}
            opened => return Ok(opened?),
        }
    }
}

/// Returns whether the file is absent although a process listens on its socket. The file is looked for
/// twice, since a process that creates it listens only afterwards.
fn is_moved_away(file: &Path) -> bool {
    !file.exists() && is_served(file) && !file.exists()
}

/// Returns whether the process that holds a file listens for commands, as servers do.
#[cfg(unix)]
pub(crate) fn is_served(file: &Path) -> bool {
    matches!(
        Remote::connect(file),
        Ok(Some(_)) | Err(Unreachable::Stopped { .. })
    )
}

#[cfg(not(unix))]
pub(crate) fn is_served(_: &Path) -> bool {
    false
}

/// Returns the administration of a guard on behalf of the user of this process.
#[cfg(unix)]
pub(crate) fn by_this_user(guard: &KeyGuard) -> Admin {
    let user = rustix::process::geteuid();
    guard
        .admin()
        .with_actor(crate::admin::system_user(Some(user)))
}

#[cfg(not(unix))]
pub(crate) fn by_this_user(guard: &KeyGuard) -> Admin {
    guard.admin()
}

#[cfg(unix)]
fn unreachable(file: &Path, source: Unreachable) -> ConnectError {
    let file = file.into();
    ConnectError::Unreachable { file, source }
}

/// Returns whether another process holds the file or another user owns it.
#[cfg(unix)]
fn is_closed(error: &OpenError) -> bool {
    match error {
        OpenError::InUse { .. } | OpenError::ReadOnly { .. } => true,
        OpenError::SecretFile { source, .. } => {
            source.kind() == std::io::ErrorKind::PermissionDenied
        }
        _ => false,
    }
}

/// Waits for a file that other processes hold, one after the other.
struct Queue {
    holder: Option<String>,
    since: Instant,
    pause: Duration,
}

impl Queue {
    fn new() -> Self {
        Self {
            holder: None,
            since: Instant::now(),
            pause: PAUSES.0,
        }
    }

    /// Pauses; returns false at once if the process has held the file for too long.
    fn waits_for(&mut self, holder: Option<&str>) -> bool {
        if holder.is_some() && holder != self.holder.as_deref() {
            self.holder = holder.map(str::to_owned);
            self.since = Instant::now();
        }
        if self.since.elapsed() >= MAX_WAIT {
            return false;
        }
        std::thread::sleep(self.pause);
        // The pause is bounded, so that those that wait longest are not at a disadvantage.
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}
