//! Asking the process that holds a data file, through the [socket](super::socket) beside it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::answer::{Command, Failure, FailureCode};
use super::socket::{PATIENCE, is_ours, path_for};
use super::wire::{self, Ask, Outcome, Reply};

/// The asking side.
pub(crate) struct Remote(UnixStream);

impl Remote {
    /// Connects to the process that holds `file`. `None` if none listens.
    pub(crate) fn connect(file: &Path) -> io::Result<Option<Self>> {
        let stream = match path_for(file).and_then(UnixStream::connect) {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(error),
                };
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if !is_ours(&stream)? && !rustix::process::geteuid().is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Some(Self(stream)))
    }

    pub(crate) fn ask(&mut self, command: &Command) -> Result<serde_json::Value, Failure> {
        let asked = Ask::new(command)
            .and_then(|ask| wire::write(&mut self.0, &ask))
            .and_then(|()| wire::read::<Reply>(&mut self.0));
        match asked {
            Ok(Some(reply)) => match reply.outcome {
                Outcome::Ok(value) => Ok(value),
                Outcome::Error(failure) => Err(failure),
            },
            Ok(None) => Err(lost("it ended")),
            Err(error) => Err(lost(&error.to_string())),
        }
    }
}

fn lost(why: &str) -> Failure {
    let message = format!(
        "the process that holds the file has not answered ({why}); whether the command was carried \
         out is not known: look with a listing, and try again"
    );
    Failure::new(FailureCode::Unavailable, message)
}
