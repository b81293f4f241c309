//! Servers as processes of their own, and a client that sends what it is told to, byte by byte.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A running server; ended when it is dropped.
pub struct Server {
    pub child: Child,
    /// What it printed before it was ready.
    pub welcome: String,
    pub address: String,
    /// Kept open, so that it can go on printing.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Waits until it prints where it listens.
    pub fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut welcome = String::new();
        let address = loop {
            let Some(line) = stdout.next() else {
                panic!("it ended with {} after {welcome}", child.wait().unwrap());
            };
            let line = line.unwrap();
            match line.strip_prefix("listening on ") {
                Some(address) => break address.to_owned(),
                None => welcome += &(line + "\n"),
            }
        };
        Self {
            child,
            welcome,
            address,
            _stdout: stdout,
        }
    }

    /// The key in its words of welcome, alone on a line.
    pub fn printed_key(&self) -> Option<String> {
        let mut lines = self.welcome.lines().map(str::trim);
        let key = lines.find(|line| line.starts_with("kg_live_"))?;
        Some(key.to_owned())
    }

    /// One request on a connection of its own.
    pub fn get(&self, target: &str, key: Option<&str>) -> Answer {
        match key {
            Some(key) => get(&self.address, target, &[("X-API-Key", key)]),
            None => get(&self.address, target, &[]),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A built example, to be run in `dir` as if nothing were configured.
pub fn example(name: &str, dir: &Path) -> Command {
    let tests = std::env::current_exe().unwrap();
    let built: PathBuf = tests
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    let built = built.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        built.exists(),
        "`{}` is not there: `cargo test` builds it, as does `cargo build --examples`",
        built.display()
    );
    unconfigured(Command::new(built), dir)
}

/// The same, in `dir` as if nothing were configured.
pub fn unconfigured(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    for variable in ["DB", "SECRET", "ADMIN_KEY", "REDIS", "KEY"] {
        command.env_remove(format!("KEYGUARD_{variable}"));
    }
    command
}

/// A `GET` on a connection of its own.
pub fn get(address: &str, target: &str, fields: &[(&str, &str)]) -> Answer {
    request(address, "GET", target, fields, "")
}

/// A request on a connection of its own.
pub fn request(
    address: &str,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut text = format!("{method} {target} HTTP/1.1\r\n");
    if !fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        text += &format!("Host: {address}\r\n");
    }
    for (name, value) in fields {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "Connection: close\r\n\r\n";
    text += body;
    send(address, text.as_bytes())
}

/// What `/v1/check` answers: its status, and the verdict.
pub fn check(server: &Server, body: &serde_json::Value) -> (u16, serde_json::Value) {
    let fields = [("Content-Type", "application/json")];
    let answer = request(
        &server.address,
        "POST",
        "/v1/check",
        &fields,
        &body.to_string(),
    );
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

/// The answer to these very bytes, on a connection of its own.
pub fn send(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    // Who is refused half-way through is not heard to the end.
    let sent = stream.write_all(bytes);
    match Answer::read_from(&mut stream) {
        Ok(answer) => answer,
        Err(error) => panic!("no answer ({error}); sent: {sent:?}"),
    }
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// By their names in lower case; of several fields of a name, their values joined.
    pub fields: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    /// One answer, of a connection that may go on. Who answers sends nothing unasked.
    pub fn read_from(stream: &mut impl Read) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut more = |bytes: &mut Vec<u8>| {
            let mut chunk = [0; 4_096];
            let read = stream.read(&mut chunk)?;
            bytes.extend_from_slice(&chunk[..read]);
            Ok::<_, io::Error>(read > 0)
        };
        let end_of_head = |bytes: &[u8]| bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let head = loop {
            if let Some(end) = end_of_head(&bytes) {
                break end + 4;
            }
            if !more(&mut bytes)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let mut answer = Self::of_head(std::str::from_utf8(&bytes[..head]).unwrap());
        let has_none = matches!(answer.status, 101 | 204 | 304);
        let length = answer.fields.get("content-length");
        let length = length.map(|length| length.parse::<usize>().unwrap());
        while !has_none && length.is_none_or(|length| bytes.len() < head + length) {
            if !more(&mut bytes)? {
                match length {
                    Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => break,
                }
            }
        }
        answer.body = String::from_utf8(bytes.split_off(head)).unwrap();
        Ok(answer)
    }

    /// An answer without its body.
    pub fn of_head(head: &str) -> Self {
        let mut lines = head.trim_end().lines();
        let status = lines.next().unwrap();
        let status = status.strip_prefix("HTTP/1.1 ").expect("a status line");
        let mut fields: HashMap<String, String> = HashMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').expect("a header field");
            let known = fields.entry(name.to_ascii_lowercase()).or_default();
            if !known.is_empty() {
                known.push_str(", ");
            }
            known.push_str(value.trim());
        }
        Self {
            status: status[..3].parse().unwrap(),
            fields,
            body: String::new(),
        }
    }

    pub fn field(&self, name: &str) -> &str {
        let value = self.fields.get(&name.to_ascii_lowercase());
        value.unwrap_or_else(|| panic!("no {name} with a {}: {}", self.status, self.body))
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.contains_key(&name.to_ascii_lowercase())
    }
}
