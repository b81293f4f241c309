//! Asking a data file, whoever holds it, or a database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::Admin;
use crate::admin::answer::{Command, Failure, FailureCode};
#[cfg(unix)]
use crate::admin::remote::{Remote, Unreachable};
use crate::guard::{Config, Storage, followed, is_server};
use crate::keyguard::KeyGuard;
use crate::store::OpenError;

/// How long a process may hold a file without an answer: another command, or a server that is just
/// starting. Each new holder has that long, so that any number of commands queue.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait between two attempts, at least and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(40));

pub(crate) enum Session {
    /// The file is ours, or the database everybody's.
    Resting(Admin),
    /// Another process holds the file.
    #[cfg(unix)]
    Live(Remote),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("there is no data file at `{}`", .0.display())]
    NoFile(PathBuf),
    #[error(
        "there is no data file at `{}`, though the process that listens at its socket holds it: it was \
         deleted or moved away; put it back, or stop that process",
        .0.display()
    )]
    MovedAway(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[cfg(unix)]
    #[error("`{}` cannot be opened, and the process that may hold it is not asked: {source}", file.display())]
    Unreachable { file: PathBuf, source: Unreachable },
}

impl SessionError {
    /// The error for a data file that is not there.
    pub(crate) fn missing(file: &Path) -> Self {
        match is_moved_away(file) {
            true => Self::MovedAway(file.into()),
            false => Self::NoFile(file.into()),
        }
    }
}

impl Session {
    /// Reaches the file at `file`, which is there, or the database of which it is the URL.
    pub(crate) fn open(file: &Path, config: &Config) -> Result<Self, SessionError> {
        if Storage::of(file)?.is_server() {
            let guard = KeyGuard::open(file, config.clone().socket(false))?;
            return Ok(Self::Resting(by_this_user(&guard)));
        }
        if !followed(file)?.exists() {
            return Err(SessionError::missing(file));
        }
        let mut queue = Queue::new();
        loop {
            #[cfg(unix)]
            let unreachable = match Remote::connect(file) {
                Ok(Some(remote)) => return Ok(Self::Live(remote)),
                Ok(None) => None,
                Err(source @ Unreachable::Stopped { .. }) => return Err(unreachable(file, source)),
                // The file may be at rest all the same.
                Err(source) => Some(unreachable(file, source)),
            };
            match KeyGuard::open(file, config.clone().socket(false)) {
                Ok(guard) => return Ok(Self::Resting(by_this_user(&guard))),
                Err(OpenError::InUse { holder, .. }) if queue.waits_for(holder.as_deref()) => {}
                #[cfg(unix)]
                Err(error) if is_closed(&error) && unreachable.is_some() => {
                    return Err(unreachable.unwrap_or_else(|| error.into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) fn ask(&mut self, command: Command) -> Result<Value, Failure> {
        match self {
            Self::Resting(admin) => admin.answer(command),
            #[cfg(unix)]
            Self::Live(remote) => remote.ask(&command),
        }
    }

    /// Asks for something of a known form.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, command: Command) -> Result<T, Failure> {
        let value = self.ask(command)?;
        serde_json::from_value(value).map_err(|error| {
            let message = format!("the reply is of another form than expected: {error}");
            Failure::new(FailureCode::Unavailable, message)
        })
    }
}

/// Opens a data file, or creates it, or opens a database. While other commands hold the file, it waits
/// for its turn; a server that holds it is refused at once.
pub(crate) fn open_in_turn(file: &Path, config: &Config) -> Result<KeyGuard, SessionError> {
    if !is_server(file) && is_moved_away(file) {
        return Err(SessionError::MovedAway(file.into()));
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

/// Whether there is no file, and a process that listens for commands on it. One that has just made it
/// does so only once the file is there.
fn is_moved_away(file: &Path) -> bool {
    !file.exists() && is_served(file) && !file.exists()
}

/// Whether the process that holds a file listens for commands, which it does until it ends.
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

/// The administration of a guard, by the user who runs this process.
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
fn unreachable(file: &Path, source: Unreachable) -> SessionError {
    let file = file.into();
    SessionError::Unreachable { file, source }
}

/// Whether a file was not opened because another process holds it, or because it is another user's.
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

/// Waiting for a file that other processes hold, one after the other.
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

    /// Waits a moment; returns false at once if this process has held the file for too long.
    fn waits_for(&mut self, holder: Option<&str>) -> bool {
        if holder.is_some() && holder != self.holder.as_deref() {
            self.holder = holder.map(str::to_owned);
            self.since = Instant::now();
        }
        if self.since.elapsed() >= PATIENCE {
            return false;
        }
        std::thread::sleep(self.pause);
        // Who has waited longest looks no less often than who has just come.
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}
