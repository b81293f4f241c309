//! Asking a data file, whoever holds it, or a database.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::{Command, Failure, FailureCode};
#[cfg(unix)]
use super::remote::Remote;
use crate::guard::{Config, KeyGuard, Place};
use crate::store::OpenError;

/// How long a file may be held without an answer: by another command, or by a server that is just
/// starting.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) enum Session {
    /// The file is ours, or the database everybody's.
    Resting(KeyGuard),
    /// Another process holds the file.
    #[cfg(unix)]
    Live(Remote),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("there is no data file at `{}`", .0.display())]
    NoFile(PathBuf),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[cfg(unix)]
    #[error(
        "`{}` is held by another process, whose socket `{}` does not let this user in: {source}",
        file.display(),
        socket.display()
    )]
    Socket {
        file: PathBuf,
        socket: PathBuf,
        source: std::io::Error,
    },
}

impl Session {
    /// Reaches the file at `file`, which is there, or the database of which it is the URL.
    pub(crate) fn open(file: &Path, config: &Config) -> Result<Self, SessionError> {
        if Place::of(file)?.is_server() {
            let guard = KeyGuard::open(file, config.clone().socket(false))?;
            return Ok(Self::Resting(by_this_user(guard)));
        }
        if !file.exists() {
            return Err(SessionError::NoFile(file.into()));
        }
        let started = Instant::now();
        loop {
            #[cfg(unix)]
            if let Some(remote) = connect(file)? {
                return Ok(Self::Live(remote));
            }
            match KeyGuard::open(file, config.clone().socket(false)) {
                Ok(guard) => return Ok(Self::Resting(by_this_user(guard))),
                Err(OpenError::InUse { .. }) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) fn ask(&mut self, command: Command) -> Result<Value, Failure> {
        match self {
            Self::Resting(guard) => guard.answer(command),
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

#[cfg(unix)]
pub(crate) fn by_this_user(guard: KeyGuard) -> KeyGuard {
    let user = rustix::process::geteuid();
    guard.with_actor(super::socket::system_user(Some(user)))
}

#[cfg(not(unix))]
pub(crate) fn by_this_user(guard: KeyGuard) -> KeyGuard {
    guard
}

#[cfg(unix)]
fn connect(file: &Path) -> Result<Option<Remote>, SessionError> {
    Remote::connect(file).map_err(|source| SessionError::Socket {
        file: file.into(),
        socket: super::socket::places_for(file)
            .ok()
            .and_then(|places| places.into_iter().next())
            .unwrap_or_default(),
        source,
    })
}
