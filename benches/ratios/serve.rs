//! The cost of decisions of `keyguard serve`.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use keyguard::Config;
use keyguard_test_support::server::{Server, unconfigured};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::load::Client;
use crate::measure::Measured;
use crate::world::{SECRET, UNREACHED};
use crate::{Run, http};

const CONNECTIONS: usize = 16;
const KEYS: usize = 100;

/// The requests of a client, and the end of the responses.
type Requests = (Vec<Vec<u8>>, &'static str);

/// Forward-auth requests, as nginx sends them, over `/healthz`: requests per second, with the server and
/// the client on a core each.
pub(crate) fn auth(run: &Run) -> Measured {
    compare(run, "auth.redb", |keys| {
        let request = |key| {
            format!(
                "GET /auth HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\
                 X-Original-URI: /api/v1/items?page=2\r\nX-Original-Method: GET\r\n\
                 X-Forwarded-For: 192.0.2.7\r\nX-API-Key: {key}\r\n\r\n"
            )
        };
        let requests = keys.iter().map(|key| request(key).into_bytes());
        (requests.collect(), "\r\n\r\n")
    })
}

/// The same for `/v1/check`.
pub(crate) fn check(run: &Run) -> Measured {
    compare(run, "check.redb", |keys| {
        let request = |key| {
            let body = format!(
                r#"{{"key":"{key}","ip":"192.0.2.7","path":"/api/v1/items?page=2","method":"GET"}}"#
            );
            format!(
                "POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\n\
                 Accept: */*\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let requests = keys.iter().map(|key| request(key).into_bytes());
        (requests.collect(), "}\n")
    })
}

fn compare(run: &Run, file: &str, requests: impl Fn(&[String]) -> Requests) -> Measured {
    let config = Config::new(SECRET);
    let (guard, keys) = run.world.guard(file, KEYS, UNREACHED, config)?;
    guard.close()?;
    let program = Program {
        path: build()?,
        file: run.world.path(file),
    };
    let [server_core, client_core] = two_cores()?;
    let everywhere = sched_getaffinity(None)?;
    // Processes and threads inherit the cores of the thread that starts them.
    sched_setaffinity(None, &server_core)?;
    let server = Server::spawn(program.command(&["serve", "--listen", "127.0.0.1:0"]));
    sched_setaffinity(None, &client_core)?;
    let ratio = measure(run, &server, requests(&keys));
    sched_setaffinity(None, &everywhere)?;
    program.require_no_drops()?;
    ratio
}

fn measure(run: &Run, server: &Server, (requests, end): Requests) -> Measured {
    let address: SocketAddr = server.address.parse()?;
    let health = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench/1\r\n\
                  Accept: */*\r\n\r\n";
    let mut health = Client::sending(vec![health.into()], address, CONNECTIONS, "}\n")?;
    let mut decided = Client::sending(requests, address, CONNECTIONS, end)?;
    let (ratio, _) = http::ratio(run, &mut decided, &mut health)?;
    Ok(ratio)
}

/// The first two cores that this process may use.
fn two_cores() -> Result<[CpuSet; 2], Box<dyn Error>> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let mut next = || {
        let core = cores.next().ok_or("the row needs two cores")?;
        let mut set = CpuSet::new();
        set.set(core);
        Ok::<_, Box<dyn Error>>(set)
    };
    Ok([next()?, next()?])
}

/// The program `keyguard` with a data file.
struct Program {
    path: PathBuf,
    file: PathBuf,
}

impl Program {
    fn command(&self, arguments: &[&str]) -> Command {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        let mut command = unconfigured(Command::new(&self.path), dir);
        command
            .env("KEYGUARD_SECRET", SECRET)
            .arg("--db")
            .arg(&self.file)
            .args(arguments);
        command
    }

    /// Fails if the running server has dropped usage.
    fn require_no_drops(&self) -> Result<(), Box<dyn Error>> {
        let stats = self.command(&["--json", "stats"]).output()?;
        let stats = String::from_utf8(stats.stdout)?;
        match stats.contains(r#""dropped":0"#) {
            true => Ok(()),
            false => Err(format!("the server has dropped usage: {stats}").into()),
        }
    }
}

/// Builds the program in the profile of this benchmark: `release`, or `dev` in the smoke mode of CI, which has
/// already built it with all features.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let profile: &[&str] = match cfg!(debug_assertions) {
        true => &["--all-features"],
        false => &["--release", "--features", "serve"],
    };
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "keyguard"])
        .args(profile)
        .args(["--manifest-path", manifest])
        .status()?;
    if !built.success() {
        return Err("the program cannot be built".into());
    }
    // A benchmark is at `target/PROFILE/deps/ratios-…`.
    let own = std::env::current_exe()?;
    let dir = own
        .ancestors()
        .nth(2)
        .ok_or("a benchmark has no directory")?;
    Ok(dir.join("keyguard"))
}
