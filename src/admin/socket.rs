//! The socket beside a data file, through which it is managed while a process holds it.
//!
//! It is bound only while the file is held, has the mode 0600, and both sides look at whose process
//! the other one is. Whatever lies at its path from before a kill is dead, and replaced. The secret
//! never travels; the text of a key does, when it is made and when it is checked.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Uid;

use super::answer::{Failure, FailureCode};
use super::wire::{self, Ask, Outcome, Reply, VERSION};
use crate::client_ip::ClientIp;
use crate::guard::{Actor, Inner, KeyGuard};

/// As many bytes as the address of a socket has on every system, less the name of a draft.
const LONGEST_PATH: usize = 100 - DRAFT_SUFFIX.len();
const DRAFT_SUFFIX: &str = ".new";

/// How long one side waits for the other.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Commands that are carried out at a time.
const MOST_CONNECTIONS: usize = 16;

/// Where the socket of a file is looked for: `<file>.sock` beside it, by its canonical path; and
/// `/tmp/keyguard-<id of the file's owner>-<hash of the path>.sock`, which takes its place where that path is too
/// long for a socket or the directory may not be written.
pub(crate) fn places_for(file: &Path) -> io::Result<Vec<PathBuf>> {
    let file = fs::canonicalize(file)?;
    let hash = blake3::hash(file.as_os_str().as_bytes()).to_hex();
    let user = fs::metadata(&file)?.uid();
    let mut beside = file.into_os_string();
    beside.push(".sock");
    let mut places = vec![format!("/tmp/keyguard-{user}-{}.sock", &hash[..32]).into()];
    if beside.len() <= LONGEST_PATH {
        places.insert(0, beside.into());
    }
    Ok(places)
}

/// The listening side; it ends and takes its path away when it is dropped.
pub(crate) struct Listener {
    path: PathBuf,
    /// Dropped to end the thread.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens beside `file`, which `guard` holds.
    pub(crate) fn bind(file: &Path, guard: Weak<Inner>) -> io::Result<Self> {
        let (path, listener) = bind_in_one_of(&places_for(file)?)?;
        let (alive, ended) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("keyguard-socket".into())
            .spawn(move || accept_until(&listener, &ended, &guard))?;
        Ok(Self {
            path,
            alive: Some(alive),
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // First the name, so that nobody connects in vain.
        let _ = fs::remove_file(&self.path);
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind_in_one_of(places: &[PathBuf]) -> io::Result<(PathBuf, UnixListener)> {
    let mut failure = io::ErrorKind::NotFound.into();
    for path in places {
        match bind_socket(path, 0o600) {
            Ok(listener) => return Ok((path.clone(), listener)),
            Err(error) => {
                let is_closed = matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                );
                failure = error;
                if !is_closed {
                    break;
                }
            }
        }
    }
    Err(failure)
}

/// Bound under another name, given its mode, and then put in the place of a dead one.
pub(crate) fn bind_socket(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a file at the path of the socket",
            ));
        }
        _ => {}
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(DRAFT_SUFFIX);
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    let listener = UnixListener::bind(&draft)?;
    let named = fs::set_permissions(&draft, fs::Permissions::from_mode(mode))
        .and_then(|()| fs::rename(&draft, path));
    if let Err(error) = named {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept_until(listener: &UnixListener, ended: &UnixStream, guard: &Weak<Inner>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let mut both = [
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        match poll(&mut both, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) if !both[1].revents().is_empty() => return,
            Ok(_) => {}
        }
        let Ok((stream, _)) = listener.accept() else {
            continue;
        };
        if connections.fetch_add(1, Ordering::AcqRel) >= MOST_CONNECTIONS {
            connections.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (guard, open) = (guard.clone(), Arc::clone(&connections));
        let spawned = std::thread::Builder::new()
            .name("keyguard-command".into())
            .spawn(move || {
                // Who goes away has no use for an error.
                let _ = serve(stream, &guard);
                open.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            connections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve(mut stream: UnixStream, guard: &Weak<Inner>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let user = user_of(&stream)?;
    if !is_accepted(user) {
        let message = "the file is held by a process of another user; ask as that user";
        let failure = Failure::new(FailureCode::Refused, message);
        return answer(&mut stream, Outcome::Error(failure));
    }
    while let Some(ask) = wire::read::<Ask>(&mut stream)? {
        let Some(inner) = guard.upgrade() else {
            return Ok(());
        };
        let guard = KeyGuard {
            inner,
            actor: system_user(user),
        };
        let outcome = match ask.command().and_then(|c| guard.answer(c)) {
            Ok(value) => Outcome::Ok(value),
            Err(failure) => Outcome::Error(failure),
        };
        answer(&mut stream, outcome)?;
    }
    Ok(())
}

fn answer(stream: &mut UnixStream, outcome: Outcome) -> io::Result<()> {
    let reply = Reply {
        version: VERSION,
        outcome,
    };
    wire::write(stream, &reply)
}

/// Whether the process at the other side is of this user or of root.
#[cfg(feature = "cli")]
pub(super) fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    Ok(is_accepted(user_of(stream)?))
}

/// Where users are not known, the mode of the socket alone keeps others out.
fn is_accepted(user: Option<Uid>) -> bool {
    user.is_none_or(|user| user == rustix::process::geteuid() || user.is_root())
}

/// Whose process is at the other side, where the system says.
#[cfg(target_os = "linux")]
fn user_of(stream: &UnixStream) -> io::Result<Option<Uid>> {
    Ok(Some(rustix::net::sockopt::socket_peercred(stream)?.uid))
}

#[cfg(not(target_os = "linux"))]
fn user_of(_: &UnixStream) -> io::Result<Option<Uid>> {
    Ok(None)
}

/// A user of this system, as the audit log names one.
pub(super) fn system_user(user: Option<Uid>) -> Actor {
    let name = user.map_or("user".to_owned(), |user| format!("user {}", user.as_raw()));
    Actor::new(name, ClientIp::LOCAL, None)
}
