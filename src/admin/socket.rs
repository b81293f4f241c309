//! The socket beside a data file, through which it is managed while a process holds it.
//!
//! It is bound only while the file lock is held, has the mode 0600, and both sides verify the user of the
//! other process. A socket left at its [path](super::socket_path) by a killed process is replaced. The
//! secret is never sent; the text of a key is sent when it is created and when it is checked.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::Uid;

use super::wire::{self, Outcome, Request, Response, VERSION};
use super::{Admin, AuditActor, Failure, FailureCode, socket_path};
use crate::guard::{Guard, WarningKind, Warnings};
use crate::net::ClientIp;
use crate::sys::ownership;

/// The suffix of a socket's name until its mode is set.
pub(super) const TEMPORARY_SUFFIX: &str = ".new";

/// How long one side waits for the other.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of concurrent connections; more wait.
const MOST_CONNECTIONS: usize = 16;

/// The number of connections that may wait to be accepted. More are dropped, and clients retry after a
/// second. The standard library sets 128; the usual limit of the system (`net.core.somaxconn`) is 4,096.
pub(crate) const BACKLOG: i32 = 4_096;

/// The pause after a failed `accept`, for example without free file descriptors.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The socket server. Dropping it removes the socket and ends its thread.
pub(crate) struct SocketServer {
    file: Option<SocketFile>,
    /// Dropped to end the thread.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl SocketServer {
    /// Listens for commands on `file`, which `guard` holds.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] if this user has something else at the path of the socket;
    /// others if none can be bound anywhere.
    pub(crate) fn bind(file: &Path, guard: &Arc<Guard>) -> io::Result<Self> {
        let (listener, socket) = bind_for(&fs::canonicalize(file)?)?;
        let (alive, ended) = UnixStream::pair()?;
        let acceptor = Acceptor {
            listener,
            ended,
            permits: Arc::new(ConnectionPermits::new(MOST_CONNECTIONS)?),
            guard: Arc::downgrade(guard),
            warnings: Arc::clone(guard.warnings()),
        };
        let thread = std::thread::Builder::new()
            .name("keyguard-socket".into())
            .spawn(move || acceptor.run())?;
        Ok(Self {
            file: Some(socket),
            alive: Some(alive),
            thread: Some(thread),
        })
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        // First the name, so that no further client connects.
        self.file = None;
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds beside a file, or else in a private directory.
fn bind_for(canonical: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(beside) = socket_path::beside(canonical) {
        match bind_socket(&beside, 0o600) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {}
            bound => return bound,
        }
    }
    let me = rustix::process::geteuid().as_raw();
    let path = socket_path::make_private(canonical, me)?;
    bind_socket(&path, 0o600).map_err(|error| io::Error::other(error.to_string()))
}

/// Binds a socket under a temporary name, sets its mode, and renames it over an abandoned one. It listens
/// last, so that nobody connects before the mode is set.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if this user has something else at `path`.
pub(crate) fn bind_socket(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let is_ours = found.uid() == rustix::process::geteuid().as_raw();
            let kind = match is_ours {
                true => io::ErrorKind::AlreadyExists,
                false => io::ErrorKind::PermissionDenied,
            };
            let problem = format!("`{}` exists and is not a socket", path.display());
            return Err(io::Error::new(kind, problem));
        }
        _ => {}
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(TEMPORARY_SUFFIX);
    let (listener, mut file) = bind_without_listening(temporary.into(), mode)?;
    fs::rename(&file.path, path)?;
    file.path = path.into();
    listen(&listener, BACKLOG)?;
    let listener = UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

/// Binds a socket to which nobody can connect yet.
fn bind_without_listening(path: PathBuf, mode: u32) -> io::Result<(OwnedFd, SocketFile)> {
    let _ = fs::remove_file(&path);
    #[cfg(not(target_os = "linux"))]
    let flags = SocketFlags::empty();
    #[cfg(target_os = "linux")]
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    bind(&socket, &SocketAddrUnix::new(&path)?)?;
    let file = SocketFile::at(path)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(mode))?;
    Ok((socket, file))
}

/// The name of a bound socket. Dropping it removes the name, unless another socket has taken it.
///
/// Must be dropped before the listener, which keeps the inode from being reused.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: PathBuf) -> io::Result<Self> {
        let identity = identity_of(&path)?;
        Ok(Self { path, identity })
    }

    #[cfg(feature = "serve")]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity_of(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The device and the inode.
fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// The thread that accepts connections.
struct Acceptor {
    listener: UnixListener,
    /// Readable when the thread must end.
    ended: UnixStream,
    permits: Arc<ConnectionPermits>,
    guard: Weak<Guard>,
    /// Separate from the guard: dropping the last reference to the guard ends this thread.
    warnings: Arc<Warnings>,
}

impl Acceptor {
    fn run(self) {
        // Without a free permit, clients wait in the listener's queue.
        while self.wait_for(&self.permits.free) && self.wait_for(&self.listener) {
            match self.listener.accept() {
                Ok((stream, _)) => self.hand_over(stream),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    let warning = format!(
                        "commands through the socket had to wait: connections could not be accepted \
                         ({error}); raise the limit on open files (`ulimit -n`) if it was reached"
                    );
                    self.warnings.add_of(WarningKind::OpenFiles, &warning);
                    if self.ends_within_a_pause() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until `source` is readable. Returns false if the thread must end.
    fn wait_for(&self, source: &impl AsFd) -> bool {
        loop {
            let mut both = [
                PollFd::new(source, PollFlags::IN),
                PollFd::new(&self.ended, PollFlags::IN),
            ];
            match poll(&mut both, None) {
                Err(Errno::INTR) => {}
                Err(_) => return false,
                Ok(_) => return both[1].revents().is_empty(),
            }
        }
    }

    fn ends_within_a_pause(&self) -> bool {
        let mut end = [PollFd::new(&self.ended, PollFlags::IN)];
        poll(&mut end, Some(&PAUSE)).is_ok_and(|ready| ready > 0)
    }

    /// Starts a thread that executes the commands of a connection.
    fn hand_over(&self, stream: UnixStream) {
        let (guard, permit) = (self.guard.clone(), self.permits.take());
        let spawned = std::thread::Builder::new()
            .name("keyguard-command".into())
            .spawn(move || {
                let _permit = permit;
                // The client has gone.
                let _ = serve(stream, &guard);
            });
        if let Err(error) = spawned {
            let text = format!("a command was not executed: its thread cannot be started: {error}");
            self.warnings.add(&text);
        }
    }
}

/// Whether an error concerns only the connection that was to be accepted.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};

    matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock)
}

/// A semaphore for connections: one readable byte for each free permit, so that `poll` can wait for one.
struct ConnectionPermits {
    free: UnixStream,
    returned: UnixStream,
}

impl ConnectionPermits {
    fn new(connections: usize) -> io::Result<Self> {
        let (free, mut returned) = UnixStream::pair()?;
        returned.write_all(&vec![0; connections])?;
        Ok(Self { free, returned })
    }

    /// Takes a permit; waits for a free one.
    fn take(self: &Arc<Self>) -> Option<Permit> {
        let taken = (&self.free).read_exact(&mut [0]);
        taken.ok().map(|()| Permit(Arc::clone(self)))
    }
}

/// The permit of a connection, returned when dropped.
struct Permit(Arc<ConnectionPermits>);

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = (&self.0.returned).write_all(&[0]);
    }
}

fn serve(mut stream: UnixStream, guard: &Weak<Guard>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let user = user_of(&stream)?;
    if !is_accepted(user) {
        let message =
            "the data file is open in a process of another user; run the command as that user";
        let failure = Failure::new(FailureCode::Refused, message);
        return respond(&mut stream, Outcome::Error(failure));
    }
    while let Some(request) = wire::read::<Request>(&mut stream)? {
        let Some(guard) = guard.upgrade() else {
            return Ok(());
        };
        let admin = Admin::new(guard).with_actor(system_user(user));
        let outcome = match request
            .into_command()
            .and_then(|command| command.run(&admin))
        {
            Ok(value) => Outcome::Ok(value),
            Err(failure) => Outcome::Error(failure),
        };
        // Once the client has the response, dropping the last guard must release the file.
        drop(admin);
        respond(&mut stream, outcome)?;
    }
    Ok(())
}

fn respond(stream: &mut UnixStream, outcome: Outcome) -> io::Result<()> {
    let response = Response {
        version: VERSION,
        outcome,
    };
    wire::write(stream, &response)
}

/// Whether commands of a user are executed. Where the system does not tell the user, only the modes of the
/// socket and its directory keep others out.
fn is_accepted(user: Option<Uid>) -> bool {
    user.is_none_or(|user| ownership::trusted_by_me(user.as_raw(), None))
}

/// The user of the peer process, where the system tells it.
fn user_of(stream: &UnixStream) -> io::Result<Option<Uid>> {
    Ok(peer_of(stream)?.map(|(user, _)| user))
}

/// The user and the id of the peer process, where the system tells them.
#[cfg(target_os = "linux")]
pub(super) fn peer_of(stream: &UnixStream) -> io::Result<Option<(Uid, u32)>> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(Some((peer.uid, peer.pid.as_raw_pid().unsigned_abs())))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn peer_of(_: &UnixStream) -> io::Result<Option<(Uid, u32)>> {
    Ok(None)
}

/// The audit actor for a user of this system.
pub(crate) fn system_user(user: Option<Uid>) -> AuditActor {
    let name = user.map_or("user".to_owned(), |user| format!("user {}", user.as_raw()));
    AuditActor::new(name, ClientIp::LOCAL, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the temporary name accepted connections before the mode of the socket was set.
    #[test]
    fn socket_accepts_no_connection_under_its_temporary_name() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("s");
        let (_socket, file) = bind_without_listening(path.clone(), 0o600).unwrap();
        let error = UnixStream::connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(file);
        let (_listener, _file) = bind_socket(&path, 0o600).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }
}
