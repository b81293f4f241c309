//! The wire format of the socket: frames of a 4-byte big-endian length and JSON.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::{self, NamedCommand};
use super::{Failure, FailureCode};

/// The version of the format. Both sides must have the same.
pub(crate) const VERSION: u32 = 3;

/// A message of one direction.
pub(crate) trait Message: Serialize + DeserializeOwned {
    /// The maximum length of a frame, in bytes.
    const LONGEST_FRAME: u32;
}

impl Message for Request {
    /// Small, since many commands may arrive at the same time.
    const LONGEST_FRAME: u32 = 1 << 20;
}

impl Message for Response {
    /// Pages end at 1 MiB; the list of all locks is a single reply.
    const LONGEST_FRAME: u32 = 256 << 20;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: u32,
    /// Decoded only if the version matches.
    pub(crate) command: Value,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) version: u32,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok(Value),
    Error(Failure),
}

impl Request {
    #[cfg(any(test, feature = "cli"))]
    pub(crate) fn new(command: &NamedCommand) -> serde_json::Result<Self> {
        Ok(Self {
            version: VERSION,
            command: serde_json::to_value(command)?,
        })
    }

    /// Decodes the command.
    pub(crate) fn into_command(self) -> Result<NamedCommand, Failure> {
        if self.version != VERSION {
            let message = format!(
                "the process that holds the file uses version {VERSION} of the socket protocol, this \
                 command version {}; install the same version of keyguard",
                self.version
            );
            return Err(Failure::new(FailureCode::Refused, message));
        }
        command::from_json(self.command)
    }
}

/// Reads one frame; `None` at the end of the stream.
pub(crate) fn read<T: Message>(stream: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..])?;
    let length = u32::from_be_bytes(length);
    if length > T::LONGEST_FRAME {
        return Err(too_long::<T>());
    }
    // Allocates as bytes arrive, not by the announced length.
    let mut frame = Vec::new();
    stream.take(length.into()).read_to_end(&mut frame)?;
    if frame.len() != length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(serde_json::from_slice(&frame)?))
}

pub(crate) fn write<T: Message>(stream: &mut impl Write, value: &T) -> io::Result<()> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length <= T::LONGEST_FRAME)
        .ok_or_else(too_long::<T>)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&frame)
}

fn too_long<T: Message>() -> io::Error {
    let problem = format!("frame longer than {} bytes", T::LONGEST_FRAME);
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::command::RevokeKey;
    use crate::model::KeyId;

    #[test]
    fn commands_read_back() {
        let command = NamedCommand::new(&RevokeKey { id: KeyId(7) }).unwrap();
        let mut bytes = Vec::new();
        write(&mut bytes, &Request::new(&command).unwrap()).unwrap();
        let mut stream = bytes.as_slice();
        let request: Request = read(&mut stream).unwrap().unwrap();
        assert_eq!(request.into_command().unwrap(), command);
        assert_eq!(read::<Request>(&mut stream).unwrap(), None);
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [
            &b"\0\0\0\x04{}"[..],
            b"\0\0",
            b"\xff\xff\xff\xff{}",
            b"\0\0\0\x02[]",
        ] {
            assert!(read::<Request>(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_command_is_shorter_than_a_reply_may_be() {
        let frame = |length: u32| {
            let body = vec![b' '; length as usize - 4];
            [&length.to_be_bytes()[..], b"null", &body].concat()
        };
        let too_long = read::<Request>(&mut &*frame((1 << 20) + 1)).unwrap_err();
        assert!(too_long.to_string().contains("longer"), "{too_long}");
        let read = read::<Response>(&mut &*frame((1 << 20) + 1)).unwrap_err();
        assert!(read.to_string().contains("null"), "{read}");
    }

    #[test]
    fn another_version_is_refused_with_the_reason() {
        let request = Request {
            version: VERSION + 1,
            command: Value::Null,
        };
        let failure = request.into_command().unwrap_err();
        assert_eq!(failure.code, FailureCode::Refused);
        let asked = format!("version {}", VERSION + 1);
        assert!(failure.message.contains(&asked), "{}", failure.message);
    }
}
