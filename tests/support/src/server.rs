//! Servers as child processes, and an HTTP client that sends exact bytes.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// A running server. Ends when dropped.
pub struct Server {
    pub child: Child,
    /// The output before the server was ready.
    pub welcome: String,
    pub address: String,
    /// Kept open, so that the server can print.
    _stdout: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Waits until the server prints its address.
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

    /// The key in the output, on a line of its own.
    pub fn printed_key(&self) -> Option<String> {
        let mut lines = self.welcome.lines().map(str::trim);
        let key = lines.find(|line| line.starts_with("kg_live_"))?;
        Some(key.to_owned())
    }

    /// Sends a request on a new connection.
    pub fn get(&self, target: &str, key: Option<&str>) -> HttpResponse {
        match key {
            Some(key) => get(&self.address, target, &[("X-API-Key", key)]),
            None => get(&self.address, target, &[]),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The server may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A built example, to run in `dir` without configuration in the environment.
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

/// The variables `KEYGUARD_…` that the program and the examples read.
const VARIABLES: [&str; 8] = [
    "ADMIN_KEY",
    "DB",
    "KEY",
    "LEGACY_SECRET",
    "REDIS",
    "SECRET",
    "TO",
    "WEBHOOKS",
];

/// Returns the command with the directory `dir` and without these variables.
pub fn unconfigured(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    for variable in VARIABLES {
        command.env_remove(format!("KEYGUARD_{variable}"));
    }
    command
}

/// Sends a `GET` on a new connection.
pub fn get(address: &str, target: &str, fields: &[(&str, &str)]) -> HttpResponse {
    request(address, "GET", target, fields, "")
}

/// Sends a request on a new connection.
pub fn request(
    address: &str,
    method: &str,
    target: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> HttpResponse {
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

/// Sends a request to `/v1/check`. Returns the status and the verdict.
pub fn check(server: &Server, body: &serde_json::Value) -> (u16, serde_json::Value) {
    let fields = [("Content-Type", "application/json")];
    let response = request(
        &server.address,
        "POST",
        "/v1/check",
        &fields,
        &body.to_string(),
    );
    (
        response.status,
        serde_json::from_str(&response.body).unwrap(),
    )
}

/// Sends exactly these bytes on a new connection and returns the response.
pub fn send(address: &str, bytes: &[u8]) -> HttpResponse {
    let mut stream = connect(address);
    // The server may respond and close before it has read everything.
    let sent = stream.write_all(bytes);
    match HttpResponse::read_from(&mut stream) {
        Ok(response) => response,
        Err(error) => panic!("no response ({error}); sent: {sent:?}"),
    }
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

/// A response.
#[derive(Debug)]
pub struct HttpResponse {
    pub status: u16,
    /// By name in lower case. Values of fields with the same name are joined.
    pub fields: HashMap<String, String>,
    pub body: String,
}

impl HttpResponse {
    /// Reads one response. The connection may stay open.
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
        let mut response = Self::of_head(std::str::from_utf8(&bytes[..head]).unwrap());
        let has_none = matches!(response.status, 101 | 204 | 304);
        let length = response.fields.get("content-length");
        let length = length.map(|length| length.parse::<usize>().unwrap());
        while !has_none && length.is_none_or(|length| bytes.len() < head + length) {
            if !more(&mut bytes)? {
                match length {
                    Some(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => break,
                }
            }
        }
        response.body = String::from_utf8(bytes.split_off(head)).unwrap();
        Ok(response)
    }

    /// Parses the head of a response.
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
