//! The client of the [socket](super::socket) beside a data file.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::command::{Command, NamedCommand};
use super::socket::{TIMEOUT, peer_of};
use super::wire::{self, Outcome, Request, Response};
use super::{Failure, FailureCode, socket_path};
use crate::sys::{ownership, process};

/// A connection to the process that holds a data file.
pub(crate) struct Remote {
    stream: UnixStream,
    /// The id of that process, where the system tells it.
    pid: Option<u32>,
}

/// Why the process that may hold a file cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    /// This user may not use the socket, or its owner may not hold the file.
    #[error("the socket `{}` {problem}", socket.display())]
    Closed { socket: PathBuf, problem: String },
    /// The process is suspended.
    #[error(
        "the process {pid} ({name}), which holds the file, is stopped and does not respond",
        name = process::name(*.pid).unwrap_or_default()
    )]
    Stopped { pid: u32 },
}

impl Remote {
    /// Connects to the process that holds `file`, which must belong to this user, the owner of the file
    /// or root. Returns `None` if no process listens.
    pub(crate) fn connect(file: &Path) -> Result<Option<Self>, Unreachable> {
        let Ok(canonical) = canonical(file) else {
            return Ok(None);
        };
        let owner = ownership::owner_of(&canonical);
        let mut problem = None;
        for socket in sockets_of(&canonical, owner) {
            match connect_to(&socket, owner) {
                Ok(Some(remote)) => return remote.running().map(Some),
                Ok(None) => {}
                Err(closed) => {
                    problem.get_or_insert(Unreachable::Closed {
                        socket,
                        problem: closed,
                    });
                }
            }
        }
        problem.map_or(Ok(None), Err)
    }

    /// Fails if the process is stopped: it would execute the command whenever it is continued.
    fn running(self) -> Result<Self, Unreachable> {
        match self.pid.filter(|pid| process::is_stopped(*pid)) {
            Some(pid) => Err(Unreachable::Stopped { pid }),
            None => Ok(self),
        }
    }

    /// Waits for the response to a command that may take long.
    pub(crate) fn without_timeout(self) -> Self {
        // Otherwise the timeout stays.
        let _ = self.stream.set_read_timeout(None);
        self
    }

    /// Has the process execute a command.
    pub(crate) fn execute<C: Command>(&mut self, command: &C) -> Result<C::Reply, Failure> {
        let command = NamedCommand::new(command)
            .map_err(|invalid| Failure::new(FailureCode::Invalid, invalid.to_string()))?;
        match self.exchange(&command) {
            Ok(Some(response)) => match response.outcome {
                Outcome::Ok(reply) => serde_json::from_value(reply).map_err(|error| {
                    let message = format!("the reply cannot be read: {error}");
                    Failure::new(FailureCode::Unavailable, message)
                }),
                Outcome::Error(failure) => Err(failure),
            },
            Ok(None) => Err(no_response("it ended")),
            Err(error) if is_timeout(&error) => match self.pid {
                Some(pid) if process::is_stopped(pid) => Err(no_response(&format!(
                    "it is stopped; continue it by `kill -CONT {pid}`"
                ))),
                _ => Err(no_response(&format!("for {} s", TIMEOUT.as_secs()))),
            },
            Err(error) => Err(no_response(&error.to_string())),
        }
    }

    fn exchange(&mut self, command: &NamedCommand) -> io::Result<Option<Response>> {
        let request = Request::new(command)?;
        let sent = wire::write(&mut self.stream, &request);
        // A process that refuses the connection may have written the reason before the command was sent.
        match wire::read(&mut self.stream) {
            Ok(Some(response)) => Ok(Some(response)),
            failed => sent.and(failed),
        }
    }
}

/// Returns the canonical path of a file, even if the file no longer exists.
fn canonical(file: &Path) -> io::Result<PathBuf> {
    fs::canonicalize(file).or_else(|error| {
        let (Some(dir), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(error);
        };
        Ok(fs::canonicalize(Path::new(".").join(dir))?.join(name))
    })
}

/// Returns the sockets on which a process that holds a file of `owner` may listen.
fn sockets_of(canonical: &Path, owner: Option<u32>) -> Vec<PathBuf> {
    let me = rustix::process::geteuid();
    let mut users = vec![me.as_raw()];
    // Only root can use the private directories of other users.
    users.extend(owner.filter(|owner| me.is_root() && *owner != me.as_raw()));
    let private = users.into_iter();
    let private = private.flat_map(|uid| socket_path::private(canonical, uid));
    socket_path::beside(canonical)
        .into_iter()
        .chain(private)
        .collect()
}

/// Connects to a socket. Returns `None` if no process listens there, an error if it must not be used.
fn connect_to(socket: &Path, owner: Option<u32>) -> Result<Option<Remote>, String> {
    let is_trusted = |uid| ownership::trusted_by_me(uid, owner);
    let stranger =
        |uid| format!("belongs to user {uid}; expected this user, the owner of the file or root");
    match fs::symlink_metadata(socket) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be examined: {error}")),
        Ok(found) if !found.file_type().is_socket() => return Ok(None),
        // The owner of the socket counts where the system does not tell the user of the peer.
        Ok(found) if !is_trusted(found.uid()) => return Err(stranger(found.uid())),
        Ok(_) => {}
    }
    let stream = match connect_with_timeout(socket) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                io::ErrorKind::PermissionDenied => Err("denies access to this user".into()),
                _ => Err(format!("cannot be connected to: {error}")),
            };
        }
    };
    let peer = peer_of(&stream)
        .map_err(|error| format!("does not reveal the user of its process: {error}"))?;
    match peer {
        Some((user, _)) if !is_trusted(user.as_raw()) => Err(stranger(user.as_raw())),
        None if !socket_path::is_guarded(socket, is_trusted) => Err(
            "is in a directory that other users can write, and this system does not report which user \
             listens"
                .into(),
        ),
        peer => Ok(Some(Remote {
            stream,
            pid: peer.map(|(_, pid)| pid),
        })),
    }
}

/// Connects with a timeout for a place in the listener's queue and for each response.
fn connect_with_timeout(path: &Path) -> io::Result<UnixStream> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::empty(),
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn no_response(why: &str) -> Failure {
    let message = format!(
        "the process that holds the file has not responded ({why}); it may have executed the command: \
         check with a listing before you try again"
    );
    Failure::new(FailureCode::Unavailable, message)
}
