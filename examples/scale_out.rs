//! Several processes that share a limit: keys in PostgreSQL, limits in Redis.
//!
//! ```console
//! $ export POSTGRES_PASSWORD=$(openssl rand -hex 16) KEYGUARD_SECRET=$(openssl rand -hex 32)
//! $ docker compose -f examples/scale_out/compose.yaml up -d
//! $ export KEYGUARD_DB=postgres://keyguard:$POSTGRES_PASSWORD@127.0.0.1/keyguard
//! $ export KEYGUARD_REDIS=redis://127.0.0.1
//! $ cargo run --release --features postgres,redis --example scale_out
//! ```
//!
//! Creates a key with a limit of 100 per minute, starts four processes that use it 50 times each, and
//! then revokes it.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyguard::{AdminError, Config, CreateKey, KeyGuard};

const PROCESSES: usize = 4;
const REQUESTS: usize = 50;
const LIMIT: u32 = 100;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The argument that marks a child process.
const WORKER: &str = "--worker";

fn main() -> Result<(), Box<dyn Error>> {
    let kg = open()?;
    match std::env::args().nth(1) {
        Some(argument) if argument == WORKER => run_worker(&kg),
        _ => run_parent(&kg),
    }
}

/// The secret comes from `KEYGUARD_SECRET`.
fn open() -> Result<KeyGuard, Box<dyn Error>> {
    let variable = |name| std::env::var(name).map_err(|_| format!("set {name} to a URL"));
    // Long enough for slow machines; servers use the default of 50 ms.
    let config = Config::default()
        .redis_url(variable("KEYGUARD_REDIS")?)
        .backend_deadline(Duration::from_secs(20));
    Ok(KeyGuard::open(variable("KEYGUARD_DB")?, config)?)
}

fn run_parent(kg: &KeyGuard) -> Result<(), Box<dyn Error>> {
    match kg.admin().create_org("scale-out") {
        Ok(_) | Err(AdminError::OrgExists(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let key = kg.admin().create_key(
        CreateKey::new("scale-out", "shared by all processes").rate_limit_per_minute(LIMIT),
    )?;
    let mut workers = Vec::new();
    for _ in 0..PROCESSES {
        workers.push(Worker::start(key.raw_key.expose())?);
    }
    let mut total = 0;
    for (number, worker) in (1..).zip(&mut workers) {
        let admitted: usize = worker.read_line()?.parse()?;
        println!("process {number}: admitted {admitted} of {REQUESTS}");
        total += admitted;
    }
    println!(
        "together: admitted {total} of {}, limit {LIMIT}",
        PROCESSES * REQUESTS
    );

    kg.admin().revoke_key(key.key.id)?;
    for worker in &mut workers {
        worker.send("revoked")?;
    }
    for (number, worker) in (1..).zip(&mut workers) {
        println!(
            "process {number}: refused {} ms after the revocation",
            worker.read_line()?
        );
    }
    Ok(())
}

struct Worker {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Worker {
    /// Passes the key on standard input, because other users can see arguments.
    fn start(key: &str) -> Result<Self, Box<dyn Error>> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut worker = Self {
            process,
            output: BufReader::new(output),
        };
        worker.send(key)?;
        Ok(worker)
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        match &mut self.process.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Ok(()),
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The child ends with its standard input.
        self.process.stdin = None;
        let _ = self.process.wait();
    }
}

fn run_worker(kg: &KeyGuard) -> Result<(), Box<dyn Error>> {
    let mut lines = io::stdin().lines();
    let Some(key) = lines.next().transpose()? else {
        return Ok(());
    };
    let headers = [("X-API-Key", key.as_str())];
    let admitted = (0..REQUESTS).filter(|_| match kg.check(&headers, IP, "/") {
        Ok(grant) => {
            grant.finish(200);
            true
        }
        Err(_) => false,
    });
    println!("{}", admitted.count());

    lines.next();
    let revoked = Instant::now();
    // 429 while the limit is exhausted, 401 once the revocation is known.
    while kg
        .check(&headers, IP, "/")
        .err()
        .map(|denial| denial.status())
        != Some(401)
    {
        if revoked.elapsed() > Duration::from_secs(10) {
            return Err("the revocation did not arrive within 10 s".into());
        }
    }
    println!("{}", revoked.elapsed().as_millis());
    Ok(())
}
