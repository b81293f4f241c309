//! Asking the process that holds a data file, through the [socket](super::socket) beside it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::answer::{Command, Failure, FailureCode};
use super::socket::{PATIENCE, is_ours, places_for};
use super::wire::{self, Ask, Outcome, Reply, VERSION};

/// The asking side.
pub(crate) struct Remote(UnixStream);

impl Remote {
    /// Connects to the process that holds `file`. `None` if none listens.
    pub(crate) fn connect(file: &Path) -> io::Result<Option<Self>> {
        let mut found = None;
        for place in places_for(file)? {
            match UnixStream::connect(place) {
                Ok(stream) => {
                    found = Some(stream);
                    break;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {}
                    _ => return Err(error),
                },
            }
        }
        let Some(stream) = found else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        if !is_ours(&stream)? && !rustix::process::geteuid().is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Some(Self(stream)))
    }

    pub(crate) fn ask(&mut self, command: &Command) -> Result<serde_json::Value, Failure> {
        match self.exchange(command) {
            Ok(Some(reply)) => match reply.outcome {
                Outcome::Ok(value) => Ok(value),
                Outcome::Error(failure) => Err(failure),
            },
            Ok(None) => Err(lost("it ended")),
            Err(error) => Err(lost(&error.to_string())),
        }
    }

    fn exchange(&mut self, command: &Command) -> io::Result<Option<Reply>> {
        let ask = Ask {
            version: VERSION,
            request: serde_json::to_value(command)?,
        };
        // Who refuses to listen may have said why before we have spoken.
        let asked = wire::write(&mut self.0, &ask);
        match wire::read(&mut self.0) {
            Ok(Some(reply)) => Ok(Some(reply)),
            unanswered => asked.and(unanswered),
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
